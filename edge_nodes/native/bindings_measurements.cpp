// SPDX-License-Identifier: Apache-2.0
// Measurements of the kernels and of what bounds them.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <memory>
#include <stdexcept>

#include "bindings.h"
#include "kernels.h"
#include "pool.h"
#include "products.h"
#include "ternary.h"

namespace py = pybind11;

namespace edge {

namespace {

// A single thread is timed by the processor time it got, so that other programs on the machine count for less.
double seconds_now(int threads) {
  timespec now{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// Least seconds of `repeats` runs of `work`.
template <typename Work>
double least_seconds(int threads, int repeats, Work&& work) {
  double best = 1e300;
  for (int i = 0; i < repeats; ++i) {
    const double start = seconds_now(threads);
    work();
    best = std::min(best, seconds_now(threads) - start);
  }
  return best;
}

uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u; }

void randomise(const TokenActivations& x, int n) {
  uint32_t random = 1;
  std::fill_n(x.scale, n, 1.0f);
  std::fill_n(x.total, n, 0);
  std::fill_n(x.sum, size_t(n) * x.blocks, 0);
  for (int t = 0; t < n; ++t)
    for (int i = 0; i < x.cols(); ++i) {
      const int q = int(next_random(random) >> 24) % 255 - 127;
      x.q[size_t(t) * x.cols() + i] = int8_t(q);
      x.sum[size_t(t) * x.blocks + i / kTernaryBlock] += q;
      x.total[t] += q;
    }
}

// Quantised activations of a product with scales for each 32 columns.
struct GroupedTokens {
  GroupedTokens(int n, int groups)
      : q(size_t(n) * groups * kGroup), scale(size_t(n) * groups), scaled(scale.size()), sum(2 * scale.size()),
        x{groups, q.data(), scale.data(), sum.data(), scaled.data()} {
    uint32_t random = 1;
    for (size_t i = 0; i < scale.size(); ++i) {
      scale[i] = 1.0f;
      sum[2 * i] = sum[2 * i + 1] = 0;
      for (int k = 0; k < kGroup; ++k)
        sum[2 * i + k / kHalf] += q[i * kGroup + k] = int8_t(int(next_random(random) >> 24) % 255 - 127);
      scaled[i] = float(sum[2 * i] + sum[2 * i + 1]);
    }
  }
  Buffer<int8_t> q;
  Buffer<float> scale, scaled;
  Buffer<int32_t> sum;
  Activations x;
};

using Matrices = std::vector<const Matrix*>;

double time_ternary(const Matrices& matrices, int n, const Kernels& k, Method method, int threads, int repeats) {
  const int cols = matrices[0]->groups * kGroup;
  Pool pool(threads);
  TernaryWork work(n, cols, threads, method);
  const TokenActivations x = work.activations(cols);
  Buffer<float> y(size_t(n) * matrices[0]->tiles * kTile);
  randomise(x, n);
  return least_seconds(threads, repeats, [&] {
    for (const Matrix* w : matrices) {
      const Product product{w, y.data()};
      work.multiply(pool, k, &product, 1, x, n, false);
    }
  });
}

double time_grouped(const Matrices& matrices, int n, const Kernels& k, int threads, int repeats) {
  Pool pool(threads);
  const GroupedTokens tokens(n, matrices[0]->groups);
  Buffer<float> y(size_t(n) * matrices[0]->tiles * kTile);
  const size_t size = size_t(matrices[0]->groups) * kScratch;
  Buffer<uint8_t> scratch(size * size_t(threads));
  return least_seconds(threads, repeats, [&] {
    for (const Matrix* w : matrices) {
      const Product product{w, y.data()};
      multiply_grouped(pool, k, &product, 1, tokens.x, n, false, scratch.data(), size);
    }
  });
}

// Seconds of one product of each matrix with n random tokens.
double time_products(const Matrices& matrices, int n, const std::string& kernel, const std::string& method,
                     int threads, int repeats) {
  const Kernels& k = select_kernels(kernel);
  if (matrices.empty() || n < 1 || threads < 1 || repeats < 1) throw std::invalid_argument("nothing to multiply");
  for (const Matrix* w : matrices)
    if (w->bits != matrices[0]->bits || w->groups != matrices[0]->groups || w->tiles != matrices[0]->tiles)
      throw std::invalid_argument("the matrices must be of one type and shape");
  const Method how = method_of(method);
  py::gil_scoped_release release;
  return matrices[0]->ternary() ? time_ternary(matrices, n, k, how, threads, repeats)
                                : time_grouped(matrices, n, k, threads, repeats);
}

// Ternary weights drawn at random, quickly: any byte of 4 codes below 3, or of 5 trits, will do.
std::unique_ptr<Matrix> random_ternary(int rows, int cols, bool dense) {
  if (rows < 1 || cols < 1) throw std::invalid_argument("a matrix has rows and columns");
  auto w = std::make_unique<Matrix>();
  w->shape_ternary(rows, cols, dense);
  uint32_t random = 1;
  for (size_t i = 0; i < w->codes.size(); ++i) {
    uint32_t left = uint32_t(uint64_t(next_random(random)) * (dense ? 243 : 81) >> 32), byte = left;
    if (!dense) {
      byte = 0;
      for (int place = 0; place < 8; place += 2, left /= 3) byte |= left % 3 << place;
    }
    w->codes[i] = uint8_t(byte);
  }
  return w;
}

double product_peak(const std::string& kernel, int threads, int repeats) {
  const Kernels& k = select_kernels(kernel);
  constexpr long kSteps = 500000;
  const double macs = double(k.product_peak(1)) * kSteps * threads;
  py::gil_scoped_release release;
  Pool pool(threads);
  return macs / least_seconds(threads, repeats, [&] { pool.run(threads, [&](int, int) { k.product_peak(kSteps); }); });
}

// Rows of 64 bytes a second, drawn at random from as many as the tables of a product have.
double table_rows(const std::string& kernel, int threads, int repeats) {
  const Kernels& k = select_kernels(kernel);
  constexpr int kCount = 4096, kRounds = 1000;
  Buffer<int16_t> table(size_t(kTableRows) * kTableTokens);
  Buffer<uint64_t> offsets(kCount / 4);
  table.resize_zero(table.size());
  offsets.resize_zero(offsets.size());
  uint32_t random = 1;
  for (int i = 0; i < kCount; ++i) {
    random = random * 1664525u + 1013904223u;
    offsets[size_t(i / 4)] |= (uint64_t(random) * kTableRows >> 32) * 64 << 16 * (i % 4);
  }
  py::gil_scoped_release release;
  Pool pool(threads);
  std::atomic<int> sink{0};
  const double seconds = least_seconds(threads, repeats, [&] {
    pool.run(threads, [&](int, int) {
      for (int i = 0; i < kRounds; ++i) sink += k.table_rows(table.data(), offsets.data(), kCount);
    });
  });
  return double(kCount) * kRounds * threads / seconds;
}

// Bytes a second that are read from a buffer of `size` bytes.
double memory_bandwidth(const std::string& kernel, int threads, int repeats, size_t size) {
  const Kernels& k = select_kernels(kernel);
  constexpr size_t kChunk = 1 << 18;
  const int chunks = int(std::min<size_t>(65535, size / kChunk));
  if (!chunks) throw std::invalid_argument("the buffer must have 256 KiB or more");
  py::gil_scoped_release release;
  Pool pool(threads);
  Buffer<uint8_t> data(kChunk * chunks);
  std::memset(data.data(), 1, data.bytes());
  std::atomic<uint64_t> sink{0};
  const double seconds = least_seconds(threads, repeats, [&] {
    pool.run(chunks, [&](int i, int) { sink += k.read(data.data() + kChunk * i, kChunk); });
  });
  return double(kChunk) * chunks / seconds;
}

// Least seconds of reading the packed codes of all matrices.
double time_reading(const Matrices& matrices, const std::string& kernel, int threads, int repeats) {
  const Kernels& k = select_kernels(kernel);
  if (matrices.empty() || threads < 1 || repeats < 1) throw std::invalid_argument("nothing to read");
  py::gil_scoped_release release;
  Pool pool(threads);
  std::atomic<uint64_t> sink{0};
  return least_seconds(threads, repeats, [&] {
    for (const Matrix* w : matrices) {
      const int chunk = std::max(1, w->tiles / (8 * threads));
      pool.run((w->tiles + chunk - 1) / chunk, [&](int i, int) {
        const int begin = i * chunk, end = std::min(w->tiles, begin + chunk);
        sink += k.read(w->tile_codes(begin), size_t(w->tile_codes(end) - w->tile_codes(begin)));
      });
    }
  });
}

}  // namespace

void bind_measurements(py::module_& m) {
  m.def("time_products", &time_products, py::arg("matrices"), py::arg("n"), py::arg("kernel") = "auto",
        py::arg("method") = "auto", py::arg("threads") = 1, py::arg("repeats") = 1,
        "Least seconds for the products of all matrices, one after the other, with n random tokens.");
  m.def("random_ternary", &random_ternary, py::arg("rows"), py::arg("cols"), py::arg("dense") = false,
        "A matrix of random ternary weights, at 2.00 or 1.60 bits each.");
  m.def("product_peak", &product_peak, py::arg("kernel") = "auto", py::arg("threads") = 1, py::arg("repeats") = 3,
        "int8 products a second on registers alone; 0 if the kernel has no instruction for them.");
  m.def("table_rows", &table_rows, py::arg("kernel") = "auto", py::arg("threads") = 1, py::arg("repeats") = 3,
        "Random rows of a look-up table, 32 int16 each, that are added up a second.");
  m.def("memory_bandwidth", &memory_bandwidth, py::arg("kernel") = "auto", py::arg("threads") = 1,
        py::arg("repeats") = 3, py::arg("size") = size_t(1) << 28, "Bytes read a second.");

  m.def("time_reading", &time_reading, py::arg("matrices"), py::arg("kernel") = "auto", py::arg("threads") = 1,
        py::arg("repeats") = 1, "Least seconds for reading the packed codes of all matrices, one after the other.");
}

}  // namespace edge
