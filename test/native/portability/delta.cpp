// SPDX-License-Identifier: Apache-2.0
// Checks the kernels of coded keys that this processor has against sums in double precision; prints their names.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "delta_kernels.h"

using namespace edge;

namespace {

constexpr int kDim = 64, kQuads = kDim / 4, kTiles = 19, kRows = 8, kKeys = kTiles * kKeyBlock;

struct Coded {
  std::vector<uint64_t> masks;
  std::vector<int8_t> codes;
  std::vector<uint32_t> starts;  // of each tile's codes
  std::vector<Escape> escapes;
  std::vector<double> keys;  // [key][channel], what the codes add up to
};

Coded code(const DeltaKernels& k, const std::vector<float>& keys, const std::vector<float>& theta,
           const std::vector<float>& step) {
  Coded out;
  std::vector<int32_t> reference(kDim, 0), change(kDim);
  for (int t = 0; t < kTiles; ++t) {
    alignas(64) int8_t lines[kQuads * 64];
    for (int i = 0; i < kKeyBlock; ++i) {
      const int position = t * kKeyBlock + i;
      const bool full = position % (kRefreshTiles * kKeyBlock) == 0;
      if (full) reference.assign(kDim, 0);
      k.code_key(&keys[size_t(position) * kDim], theta.data(), step.data(), kDim, full, reference.data(), change.data());
      for (int c = 0; c < kDim; ++c) {
        const int code = std::max(-kLargestCode, std::min(kLargestCode, change[size_t(c)]));
        lines[c / 4 * 64 + 4 * i + c % 4] = int8_t(code);
        if (code != change[size_t(c)]) out.escapes.push_back({t, int16_t(i), int16_t(c), change[size_t(c)] - code});
        out.keys.push_back(double(reference[size_t(c)]) * step[size_t(c)]);
      }
    }
    out.masks.resize(size_t(t + 1) * kQuads);
    const size_t begin = out.codes.size();
    out.starts.push_back(uint32_t(begin));
    out.codes.resize(begin + sizeof lines);
    out.codes.resize(begin + size_t(k.pack_tile(lines, kQuads, &out.masks[size_t(t) * kQuads], &out.codes[begin])));
  }
  out.codes.resize(out.codes.size() + kCodePad);
  return out;
}

// Largest error of a score, as a share of the largest score.
double error(const DeltaKernels& k, float size, bool fine, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> keys(size_t(kKeys) * kDim), theta(kDim, size), step(kDim, size / 2), q(size_t(kRows) * kDim);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = (i < kDim ? 0.0f : 0.9f * keys[i - kDim]) + normal(random);
  for (float& x : q) x = normal(random);
  const Coded coded = code(k, keys, theta, step);
  double off = 0.0;
  for (size_t i = 0; i < keys.size(); ++i) off = std::max(off, std::fabs(coded.keys[i] - keys[i]));
  if (off > size * 1.0001) return 1.0;
  Attention a;
  a.q = q.data();
  a.stride = kDim;
  a.tokens = kRows;
  a.head_dim = kDim;
  std::vector<uint32_t> codes(kRows * kQuads), low(kRows * kQuads);
  std::vector<float> scales(kRows), scores(size_t(kRows) * kKeys, -1.0f);
  const CodedQueries x{kRows, kQuads, fine, codes.data(), low.data(), scales.data()};
  k.code_queries(a, step.data(), x);
  DeltaTiles tiles;
  tiles.tiles = kTiles;
  tiles.quads = kQuads;
  tiles.masks = coded.masks.data();
  tiles.codes = coded.codes.data();
  tiles.starts = coded.starts.data();
  tiles.escapes = coded.escapes.data();
  tiles.escape_count = coded.escapes.size();
  const std::vector<int> until(kRows, kKeys - 3);
  k.delta_scores(tiles, x, 5, until.data(), scores.data(), kKeys);
  for (int rows = 1; rows < kRows; ++rows) {  // few rows go another way
    std::vector<float> alone(scores.size(), -1.0f);
    k.delta_scores(tiles, {rows, kQuads, fine, codes.data(), low.data(), scales.data()}, 5, until.data(), alone.data(),
                   kKeys);
    if (!std::equal(alone.begin(), alone.begin() + rows * kKeys, scores.begin())) return 1.0;
  }
  double most = 0.0, worst = 0.0;
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kKeys; ++j) {
      double sum = 0.0;
      for (int c = 0; c < kDim; ++c) sum += double(q[size_t(r) * kDim + c]) * coded.keys[size_t(j) * kDim + c];
      const double found = scores[size_t(r) * kKeys + j];
      if (j < 5 || j >= kKeys - 3) {
        if (found != -1.0) return 1.0;  // outside of what was asked for
        continue;
      }
      most = std::max(most, std::fabs(sum));
      worst = std::max(worst, std::fabs(sum - found));
    }
  return worst / most;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const Kernels* kernels : supported_kernels()) {
    const DeltaKernels& k = delta_kernels(kernels->name);
    for (float size : {0.02f, 0.4f, 1.5f})  // codes beyond a byte with the least
      for (bool fine : {true, false}) {
        const double worst = error(k, size, fine, random);
        if (worst > (fine ? 2e-4 : 1e-2)) {
          std::printf("%s: theta %g, fine %d: error %g\n", k.name, double(size), int(fine), worst);
          return 1;
        }
      }
    std::printf("%s\n", k.name);
  }
  return 0;
}
