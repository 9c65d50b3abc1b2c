// SPDX-License-Identifier: Apache-2.0
// Every kernel this processor can run, against sums of integers: a program of its own, so that it can be compiled for
// another processor and run there or under an emulator. Prints the kernels; fails with the first difference.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"
#include "ternary.h"

using namespace edge;

namespace {

uint32_t state = 1;

int draw(int low, int high) {
  state = state * 1664525u + 1013904223u;
  return low + int(uint64_t(state) * uint32_t(high - low + 1) >> 32);
}

void fail(const std::string& what, int token, int row, double got, double expected) {
  std::printf("%s: token %d, row %d: %g, expected %g\n", what.c_str(), token, row, got, expected);
  std::exit(1);
}

// Activations at random, of which the first token has only extremes.
std::vector<int8_t> activations(int n, int cols) {
  std::vector<int8_t> q(size_t(n) * cols);
  for (size_t i = 0; i < q.size(); ++i) q[i] = int8_t(draw(-127, 127));
  for (int k = 0; k < cols; ++k) q[size_t(k)] = 127;
  if (n > 1)
    for (int k = 0; k < cols; ++k) q[size_t(cols) + k] = -127;
  return q;
}

void check(const Kernels& kernel, const char* what, const Matrix& w, const float* y, const int8_t* q, int n,
           const std::vector<double>& weights, int padded) {
  const std::string name = std::string(kernel.name) + " " + what + " " + std::to_string(w.rows) + " x " +
                           std::to_string(w.cols) + " x " + std::to_string(n);
  for (int t = 0; t < n; ++t)
    for (int r = 0; r < w.rows; ++r) {
      double sum = 0.0;
      for (int k = 0; k < w.cols; ++k) sum += weights[size_t(r) * w.cols + k] * q[size_t(t) * padded + k];
      const float got = y[size_t(t) * w.tiles * kTile + r];
      if (double(got) != sum) fail(name, t, r, got, sum);
    }
}

void ternary(const Kernels& kernel, int rows, int cols, int n, int threads, bool dense) {
  std::vector<uint8_t> data(size_t(rows) * cols);
  std::vector<double> weights(data.size());
  for (size_t i = 0; i < data.size(); ++i) {
    const int w = i < size_t(cols) ? 1 : i < size_t(2 * cols) ? -1 : draw(-1, 1);
    data[i] = uint8_t(w);
    weights[i] = w;
  }
  Matrix w;
  w.pack(Source::trits, data.data(), size_t(cols), rows, cols, 1.0f, dense);
  const int padded = w.groups * kGroup;
  std::vector<int8_t> q = activations(n, padded);
  for (int t = 0; t < n; ++t)
    for (int k = cols; k < padded; ++k) q[size_t(t) * padded + k] = 0;
  Pool pool(threads);
  for (const char* method : {"dot", "lut"}) {
    TernaryWork work(n, padded, threads, method_of(method));
    const TokenActivations x = work.activations(padded);
    std::memcpy(x.q, q.data(), q.size());
    for (int t = 0; t < n; ++t) {
      x.scale[t] = 1.0f;
      x.total[t] = 0;
      for (int b = 0; b < x.blocks; ++b) x.sum[size_t(t) * x.blocks + b] = 0;
      for (int k = 0; k < padded; ++k) {
        x.sum[size_t(t) * x.blocks + k / kTernaryBlock] += q[size_t(t) * padded + k];
        x.total[t] += q[size_t(t) * padded + k];
      }
    }
    Buffer<float> y(size_t(n) * w.tiles * kTile);
    const Product product{&w, y.data()};
    work.multiply(pool, kernel, &product, 1, x, n, false);
    check(kernel, (std::string(dense ? "1.60 bits " : "2.00 bits ") + method).c_str(), w, y.data(), q.data(), n,
          weights, padded);
  }
}

// The product of a matrix with scales for each 32 columns or fewer, which are whole, as are minima: sums of floats are
// exact.
void check_grouped(const Kernels& kernel, const char* what, const Matrix& w, int n, const std::vector<double>& weights) {
  const int cols = w.cols, groups = w.groups;
  std::vector<int8_t> q = activations(n, cols);
  std::vector<float> scale(size_t(n) * groups, 1.0f), scaled(scale.size());
  std::vector<int32_t> sum(2 * scale.size());
  for (size_t i = 0; i < scale.size(); ++i) {
    for (int k = 0; k < kGroup; ++k) sum[2 * i + size_t(k / kHalf)] += q[i * kGroup + size_t(k)];
    scaled[i] = float(sum[2 * i] + sum[2 * i + 1]);
  }
  const Activations x{groups, q.data(), scale.data(), sum.data(), scaled.data()};
  Buffer<uint8_t> scratch(size_t(groups) * kScratch);
  Buffer<float> y(size_t(n) * w.tiles * kTile);
  kernel.multiply(w, 0, w.tiles, x, n, y.data(), w.tiles * kTile, false, scratch.data());
  check(kernel, what, w, y.data(), q.data(), n, weights, cols);
}

void six_bits(const Kernels& kernel, int rows, int blocks, int n) {
  const int cols = blocks * kTernaryBlock;
  std::vector<uint8_t> data(size_t(rows) * blocks * 210);
  std::vector<double> weights(size_t(rows) * cols);
  const uint16_t one = float_to_half(1.0f);
  for (uint8_t& byte : data) byte = uint8_t(draw(0, 255));
  for (size_t b = 0; b < size_t(rows) * blocks; ++b) {
    uint8_t* p = data.data() + b * 210;
    for (int i = 0; i < 16; ++i) p[192 + i] = uint8_t(draw(-3, 3));
    std::memcpy(p + 208, &one, 2);
    for (int k = 0; k < kTernaryBlock; ++k) {  // 128 columns: 4 times 32 that share bytes
      const int quarter = k % 128 / 32, low = p[k / 128 * 64 + k % 64] >> (quarter / 2 * 4) & 15;
      const int high = p[128 + k / 128 * 32 + k % 32] >> (quarter * 2) & 3;
      weights[b * kTernaryBlock + size_t(k)] = int8_t(p[192 + k / 16]) * (low + 16 * high - 32);
    }
  }
  Matrix w;
  w.pack(Source::q6_k, data.data(), size_t(blocks) * 210, rows, cols);
  check_grouped(kernel, "Q6_K", w, n, weights);
}

void grouped(const Kernels& kernel, Source source, int rows, int groups, int n) {
  const int cols = groups * kGroup, bits = source == Source::q8_0 ? 8 : 4;
  const int head = source == Source::q4_1 ? 4 : 2, block = head + bits * kGroup / 8;
  std::vector<uint8_t> data(size_t(rows) * groups * block);
  std::vector<double> weights(size_t(rows) * cols);
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) {
      uint8_t* p = data.data() + (size_t(r) * groups + g) * block;
      const int least = source == Source::q4_1 ? draw(-8, 8) : 0;
      const uint16_t one = float_to_half(1.0f), minimum = float_to_half(float(least));
      std::memcpy(p, &one, 2);
      if (head == 4) std::memcpy(p + 2, &minimum, 2);
      for (int k = 0; k < kGroup; ++k) {
        const int code = bits == 8 ? draw(-128, 127) : draw(0, 15);
        weights[size_t(r) * cols + g * kGroup + k] = code + least - (source == Source::q4_0 ? 8 : 0);
        if (bits == 8)
          p[head + k] = uint8_t(code);
        else
          p[head + k % 16] |= uint8_t(code << (k < 16 ? 0 : 4));
      }
    }
  Matrix w;
  w.pack(source, data.data(), size_t(groups) * block, rows, cols);
  check_grouped(kernel, source == Source::q8_0 ? "Q8_0" : head == 4 ? "Q4_1" : "Q4_0", w, n, weights);
}

}  // namespace

int main() {
  for (const Kernels* kernel : supported_kernels()) {
    for (int n : {1, 2, 3, 4, 5, 7, 12, 13, 31, 32, 33, 65}) {
      ternary(*kernel, draw(1, 90), draw(1, 600), n, 1 + n % 3, false);
      ternary(*kernel, draw(1, 90), draw(1, 600), n, 1 + n % 3, true);
      six_bits(*kernel, draw(1, 70), draw(1, 2), n);
      for (Source source : {Source::q4_0, Source::q4_1, Source::q8_0}) grouped(*kernel, source, draw(1, 70), draw(1, 6), n);
    }
    std::printf("%s\n", kernel->name);
  }
  return 0;
}
