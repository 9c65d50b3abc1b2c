// SPDX-License-Identifier: Apache-2.0
#include "sight.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace edge {
namespace {

constexpr int kBlock = 256;
constexpr float kMiddle = 128.0f, kLargest = 255.0f, kFarthest = 1e6f;

// Part of a turn, 0 to 1, to the left of straight ahead, within 2e-6: a minimax polynomial of the arc tangent over the
// first octant, without branches so that it is computed in vectors.
inline float turn_of(float x, float y) {
  const float a = std::fabs(x), b = std::fabs(y);
  const float high = a > b ? a : b, low = a > b ? b : a;
  const float t = low / (high + 1e-30f), s = t * t;
  float arc = -0.01172120f * s + 0.05265332f;
  arc = arc * s - 0.11643287f;
  arc = arc * s + 0.19354346f;
  arc = arc * s - 0.33262347f;
  arc = (arc * s + 0.99997726f) * t * 0.15915494f;
  arc = b > a ? 0.25f - arc : arc;
  arc = x < 0 ? 0.5f - arc : arc;
  return y < 0 ? 1.0f - arc : arc;
}

// The widest vectors there are, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EDGE_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EDGE_WIDEST
#endif

// Directions and squared distances of up to kBlock points.
struct Block {
  float x[kBlock], y[kBlock], turn[kBlock], square[kBlock];
};

EDGE_WIDEST
void look(Block& block) {
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    block.turn[i] = turn_of(block.x[i], block.y[i]);
    block.square[i] = block.x[i] * block.x[i] + block.y[i] * block.y[i];
  }
}

// How far within reach the cells of one row lie for one scan, in steps; `bin` and `far` are room for it.
EDGE_WIDEST
void row_within(const SightPose& pose, const float* reach, int bins, float ahead, int cells, float cell_m,
                float steps_per_m, float* within, int* bin, float* far) {
  const float c = std::cos(pose.yaw), s = std::sin(pose.yaw), middle = float(cells) / 2 - 0.5f;
#pragma omp simd
  for (int k = 0; k < cells; ++k) {
    const float left = (middle - float(k)) * cell_m;
    const float x = pose.x + c * ahead - s * left, y = pose.y + s * ahead + c * left;
    const int b = int(turn_of(x, y) * float(bins));
    bin[k] = b < bins ? b : bins - 1;
    far[k] = std::sqrt(x * x + y * y);
  }
  for (int k = 0; k < cells; ++k) within[k] = (reach[bin[k]] - far[k]) * steps_per_m;
}

// Writes every other byte of `out`.
void write_codes(const float* within, int cells, uint8_t* out) {
  for (int k = 0; k < cells; ++k) {
    const float code = std::max(0.0f, std::min(kMiddle + within[k], kLargest));
    out[2 * k] = uint8_t(int(code + 0.5f));
  }
}

}  // namespace

void sight_reach(const BevPoints& points, const BevGround& ground, float top, int bins, float* reach) {
  std::fill_n(reach, bins, 0.0f);
  Block block{};
  int count = 0;
  const auto gather = [&] {
    look(block);
    for (int i = 0; i < count; ++i) {
      const int bin = std::min(int(block.turn[i] * float(bins)), bins - 1);
      reach[bin] = std::max(reach[bin], block.square[i]);
    }
    count = 0;
  };
  for (size_t i = 0; i < points.count; ++i) {
    const float* p = points.xyz + ptrdiff_t(i) * points.stride;
    // Written so that NaN and infinity count nowhere.
    if (!(std::fabs(p[0]) < kFarthest && std::fabs(p[1]) < kFarthest && ground.height_of(p) < top)) continue;
    block.x[count] = p[0], block.y[count] = p[1];
    if (++count == kBlock) gather();
  }
  gather();
  for (int i = 0; i < bins; ++i) reach[i] = std::sqrt(reach[i]);
}

void sight_maps(const float* reach, const SightPose* poses, int scans, int bins, int cells, float cell_m,
                float steps_per_m, uint8_t* out) {
  const auto side = size_t(cells);
  std::vector<float> within(side), most(side), far(side);
  std::vector<int> bin(side);
  for (int row = 0; row < cells; ++row) {
    const float ahead = (float(cells) / 2 - 0.5f - float(row)) * cell_m;
    uint8_t* line = out + size_t(row) * side * 2;
    for (int scan = 0; scan < scans; ++scan) {
      row_within(poses[scan], reach + size_t(scan) * size_t(bins), bins, ahead, cells, cell_m, steps_per_m,
                 within.data(), bin.data(), far.data());
      if (scan == 0) {
        most = within;
        write_codes(within.data(), cells, line);
      }
      for (int k = 0; k < cells; ++k) most[k] = std::max(most[k], within[k]);
    }
    write_codes(most.data(), cells, line + 1);
  }
}

}  // namespace edge
