// SPDX-License-Identifier: Apache-2.0
// Kernels in plain C++ for every processor; the definition that the others must equal bit for bit.
#include "kernels.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit

namespace edge {
namespace portable {
namespace {

#include "float_ops.h"

inline float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return float(double(a) * double(b) + double(c));  // one rounding, save for ties of the second: no libm call
#endif
}

void unpack(const uint8_t* packed, uint8_t* codes) {
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 256; ++i) {
      codes[half * 512 + i] = packed[half * 256 + i] & 15;
      codes[half * 512 + 256 + i] = packed[half * 256 + i] >> 4;
    }
}

// acc[r] += sum over the group's 32 columns of code * q
void dot_group(const uint8_t* codes, const int8_t* q, int32_t* acc) {
  for (int half = 0; half < 2; ++half)
    for (int s = 0; s < 8; ++s) {
      const uint8_t* line = codes + half * 512 + s * 64;
      for (int r = 0; r < kLanes; ++r)
        for (int j = 0; j < 4; ++j) acc[half * kLanes + r] += int32_t(line[4 * r + j]) * q[4 * s + j];
    }
}

void multiply(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride, bool add,
              uint8_t* scratch) {
  for (int tile = begin; tile < end; ++tile) {
    const uint8_t* codes = w.tile_codes(tile);
    if (w.bits == 4) {
      for (int g = 0; g < w.groups; ++g) unpack(codes + g * 512, scratch + g * 1024);
      codes = scratch;
    }
    const size_t first = size_t(tile) * w.groups * kTile;
    for (int t = 0; t < n; ++t) {
      float sum[kTile] = {};
      for (int g = 0; g < w.groups; ++g) {
        const size_t at = size_t(t) * w.groups + g;
        int32_t acc[kTile];
        for (int r = 0; r < kTile; ++r) acc[r] = -w.zero * x.sum[at];
        dot_group(codes + g * 1024, x.q + at * kGroup, acc);
        for (int r = 0; r < kTile; ++r) {
          const size_t scale_at = first + size_t(g) * kTile + r;
          sum[r] = multiply_add(float(acc[r]), half_to_float(w.scales[scale_at]) * x.scale[at], sum[r]);
          if (w.has_min) sum[r] = multiply_add(half_to_float(w.mins[scale_at]), x.scaled_sum[at], sum[r]);
        }
      }
      float* out = y + size_t(t) * y_stride + tile * kTile;
      for (int r = 0; r < kTile; ++r) out[r] = add ? out[r] + sum[r] : sum[r];
    }
  }
}

}  // namespace
}  // namespace portable

const Kernels& portable_kernels() {
  using namespace portable;
  static const Kernels table{"portable", multiply, quantise, rms_norm, swiglu, attend, statistics};
  return table;
}

}  // namespace edge
