// SPDX-License-Identifier: Apache-2.0
// Coded keys in plain C++, with NEON's table look-up where there is one; and the choice of kernels.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "delta_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, only some are needed
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a translation unit

namespace edge {
namespace portable_delta {
namespace {

constexpr int kFloats = 4, kCodeZero = 0, kFineZero = 0;

#include "float_ops.h"
#include "delta_tiles.h"

#if defined(__aarch64__)
#include "delta_spread.h"

EDGE_INLINE const int8_t* expand(uint64_t mask, const int8_t* codes, int8_t* out) {
  for (int i = 0; i < 8; ++i, mask >>= 8) {
    vst1_s8(out + 8 * i, vtbl1_s8(vld1_s8(codes), vld1_s8(reinterpret_cast<const int8_t*>(kSpread.places[mask & 255]))));
    codes += __builtin_popcountll(mask & 255);
  }
  return codes;
}
#else
EDGE_INLINE const int8_t* expand(uint64_t mask, const int8_t* codes, int8_t* out) {
  std::memset(out, 0, 64);
  for (; mask; mask &= mask - 1) out[__builtin_ctzll(mask)] = *codes++;
  return codes;
}
#endif

EDGE_INLINE uint64_t compress(const int8_t* line, int8_t* codes) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= uint64_t(line[i] != 0) << i;
  for (uint64_t rest = mask; rest; rest &= rest - 1) *codes++ = line[__builtin_ctzll(rest)];
  return mask;
}

typedef int8_t Bytes __attribute__((vector_size(8), aligned(1), may_alias));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

EDGE_INLINE Shorts twice(uint32_t q) {
  Shorts s;
  for (int i = 0; i < 8; ++i) s[i] = int8_t(q >> i % 4 * 8 & 255);
  return s;
}

// Products of 4 channels for 2 keys at a time: a pair of them fits in int16 (2 * 127 * 127).
EDGE_INLINE void dot(const int8_t* line, const Shorts& q, Ints* acc) {
  for (int i = 0; i < 8; ++i) {
    const Shorts p = __builtin_convertvector(*reinterpret_cast<const Bytes*>(line + 8 * i), Shorts) * q;
    acc[i] += (((Ints)p << 16) >> 16) + ((Ints)p >> 16);
  }
}

EDGE_INLINE void products_of(const int8_t* lines, int quads, const uint32_t* codes, int32_t* out) {
  Ints acc[8] = {};
  for (int k = 0; k < quads; ++k) dot(lines + k * 64, twice(codes[k]), acc);
  for (int i = 0; i < kKeyBlock; ++i) out[i] = acc[i / 2][i % 2 * 2] + acc[i / 2][i % 2 * 2 + 1];
}

template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void products(const int8_t* lines, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                          float* out) {
  for (int i = 0; i < Rows * Tiles; ++i, out += kKeyBlock) {
    int32_t h[kKeyBlock], l[kKeyBlock] = {};
    const int8_t* tile = lines + size_t(i % Tiles) * quads * 64;
    products_of(tile, quads, codes[i / Tiles], h);
    if (Fine) products_of(tile, quads, low[i / Tiles], l);
    for (int j = 0; j < kKeyBlock; ++j) out[j] = float(h[j]) * (Fine ? 128.0f : 1.0f) + float(l[j]);
  }
}

EDGE_INLINE float running_sums(float* p, float scale, float base) {
  for (int i = 0; i < kKeyBlock; ++i) p[i] = base += p[i] * scale;
  return base;
}

#include "delta_walk.h"
#include "delta_ops.h"

}  // namespace
}  // namespace portable_delta

const DeltaKernels& portable_delta_kernels() {
  using namespace portable_delta;
#if defined(__aarch64__)
  static const DeltaKernels table EDGE_DELTA_TABLE("neon");
#else
  static const DeltaKernels table EDGE_DELTA_TABLE("portable");
#endif
  return table;
}

const DeltaKernels& delta_kernels(const std::string& name) {
#if EDGE_X86
  __builtin_cpu_init();
  if (name == "avx512vnni" && __builtin_cpu_supports("avx512vbmi2")) return avx512_delta_kernels();
  if (name == "avx512vnni" || name == "avxvnni" || name == "avx2") return avx2_delta_kernels();
#endif
  (void)name;
  return portable_delta_kernels();
}

}  // namespace edge
