// SPDX-License-Identifier: Apache-2.0
// Coded keys with AVX-512: VBMI2 spreads the changes under their mask, VNNI multiplies 4 channels of 16 keys at once.
#include "delta_kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, only some are needed
#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2,avx2,fma,f16c,popcnt"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2,avx2,fma,f16c,popcnt,prefer-vector-width=512")
#endif

namespace edge {
namespace avx512_delta {
namespace {

constexpr int kFloats = 16, kCodeZero = 128, kFineZero = 64;
constexpr bool kSpreadsInRegisters = true;

#define EDGE_LOAD_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
#define EDGE_LOAD_BYTES(p) \
  _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))
#include "float_ops.h"
#include "delta_tiles.h"

// In halves, which some processors spread faster than a whole register.
EDGE_INLINE const int8_t* expand(uint64_t mask, const int8_t* codes, int8_t* out) {
  const uint32_t first = uint32_t(mask), second = uint32_t(mask >> 32);
  const int8_t* next = codes + __builtin_popcount(first);
  const __m256i a = _mm256_maskz_expand_epi8(first, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  const __m256i b = _mm256_maskz_expand_epi8(second, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next)));
  _mm512_store_si512(out, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
  return next + __builtin_popcount(second);
}

EDGE_INLINE uint64_t compress(const int8_t* in, int8_t* codes) {
  const __m512i x = _mm512_loadu_si512(in);
  const uint64_t mask = _mm512_test_epi8_mask(x, x);
  _mm512_storeu_si512(codes, _mm512_maskz_compress_epi8(mask, x));
  return mask;
}

// Query bytes are unsigned: their zero times the sum of the changes is taken off at the end. `line(tile, quad)` is
// called once for each, quad by quad.
template <int Rows, int Tiles, bool Fine, typename Line>
EDGE_INLINE void products_of(Line&& line, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                             float* out) {
  __m512i h[Rows][Tiles], l[Rows][Tiles], sum[Tiles];
  const __m512i ones = _mm512_set1_epi8(1);
#pragma GCC unroll 8
  for (int t = 0; t < Tiles; ++t) {
    sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) h[r][t] = l[r][t] = _mm512_setzero_si512();
  }
  for (int k = 0; k < quads; ++k) {
    __m512i x[Tiles];
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
      x[t] = line(t, k);
      sum[t] = _mm512_dpbusd_epi32(sum[t], ones, x[t]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512i q = _mm512_set1_epi32(int(codes[r][k]));
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) h[r][t] = _mm512_dpbusd_epi32(h[r][t], q, x[t]);
      if (!Fine) continue;
      const __m512i fine = _mm512_set1_epi32(int(low[r][k]));
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) l[r][t] = _mm512_dpbusd_epi32(l[r][t], fine, x[t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
      __m512 y = _mm512_cvtepi32_ps(_mm512_sub_epi32(h[r][t], _mm512_slli_epi32(sum[t], Fine ? 6 : 7)));
      if (Fine) y = _mm512_fmadd_ps(y, _mm512_set1_ps(128.0f), _mm512_cvtepi32_ps(l[r][t]));
      _mm512_store_ps(out + (r * Tiles + t) * kKeyBlock, y);
    }
  }
}

template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void products(const int8_t* lines, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                          float* out) {
  products_of<Rows, Tiles, Fine>([&](int t, int k) { return _mm512_load_si512(lines + (t * quads + k) * 64); }, quads,
                                 codes, low, out);
}

// The same of packed changes, which stay in registers: the chains of the tiles' addresses run side by side.
template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void spread_products(const PackedTiles<Tiles>& x, int quads, const uint32_t* const* codes,
                                 const uint32_t* const* low, float* out) {
  const int8_t* next[Tiles];
  for (int t = 0; t < Tiles; ++t) next[t] = x.codes[t];
  products_of<Rows, Tiles, Fine>(
      [&](int t, int k) __attribute__((always_inline)) {
        if (t == 0) __builtin_prefetch(x.values + 64 * k, 0, 2);
        const uint64_t mask = x.masks[size_t(t) * quads + k];
        __builtin_prefetch(next[t] + kNextBytes / 2);
        const __m512i line = _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(next[t]));
        next[t] += __builtin_popcountll(mask);
        return line;
      },
      quads, codes, low, out);
}

template <int Lanes>
EDGE_INLINE __m512 shifted(__m512 x) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), _mm512_setzero_si512(), 16 - Lanes));
}

EDGE_INLINE float running_sums(float* p, float scale, float base) {
  __m512 x = _mm512_mul_ps(_mm512_load_ps(p), _mm512_set1_ps(scale));
  x = _mm512_add_ps(x, shifted<1>(x));
  x = _mm512_add_ps(x, shifted<2>(x));
  x = _mm512_add_ps(x, shifted<4>(x));
  x = _mm512_add_ps(x, shifted<8>(x));
  x = _mm512_add_ps(x, _mm512_set1_ps(base));
  _mm512_store_ps(p, x);
  return p[15];
}

#include "delta_ops.h"

}  // namespace
}  // namespace avx512_delta

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const DeltaKernels& avx512_delta_kernels() {
  using namespace avx512_delta;
  static const DeltaKernels table EDGE_DELTA_TABLE("avx512vbmi2");
  return table;
}

}  // namespace edge
#endif
