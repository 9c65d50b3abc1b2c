// SPDX-License-Identifier: Apache-2.0
// Coded keys with AVX2: a table of shuffles spreads 8 changes at a time.
#include "delta_kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, only some are needed
#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif

namespace edge {
namespace avx2_delta {
namespace {

constexpr int kFloats = 8, kCodeZero = 0, kFineZero = 0;

#define EDGE_LOAD_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
#define EDGE_LOAD_BYTES(p) \
  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))
#include "float_ops.h"
#include "delta_tiles.h"
#include "delta_spread.h"

EDGE_INLINE const int8_t* expand(uint64_t mask, const int8_t* codes, int8_t* out) {
  for (int i = 0; i < 8; i += 2, mask >>= 16) {
    const unsigned first = mask & 255, second = mask >> 8 & 255;
    const int8_t* next = codes + __builtin_popcount(first);
    const __m128i packed = _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)),
                                              _mm_loadl_epi64(reinterpret_cast<const __m128i*>(next)));
    const __m128i places = _mm_or_si128(
        _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSpread.places[first])),
                           _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSpread.places[second]))),
        _mm_set_epi64x(0x0808080808080808, 0));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + 8 * i), _mm_shuffle_epi8(packed, places));
    codes = next + __builtin_popcount(second);
  }
  return codes;
}

EDGE_INLINE __m256i half(const int8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

EDGE_INLINE uint64_t compress(const int8_t* line, int8_t* codes) {
  uint64_t mask = 0;
  for (int part = 0; part < 2; ++part) {
    const __m256i none = _mm256_cmpeq_epi8(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32 * part)), _mm256_setzero_si256());
    mask |= uint64_t(~uint32_t(_mm256_movemask_epi8(none))) << 32 * part;
  }
  for (uint64_t rest = mask; rest; rest &= rest - 1) *codes++ = line[__builtin_ctzll(rest)];
  return mask;
}

// |x| times q with the sign of x: a pair of products fits in int16 (2 * 127 * 127).
EDGE_INLINE __m256i dot(__m256i acc, __m256i x, __m256i magnitude, uint32_t q) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(_mm256_set1_epi32(int(q)), x));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void products(const int8_t* lines, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                          float* out) {
  for (int part = 0; part < 2 * Tiles; ++part) {  // 8 keys
    __m256i h[Rows], l[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) h[r] = l[r] = _mm256_setzero_si256();
    for (int k = 0; k < quads; ++k) {
      const __m256i x = half(lines + (part / 2 * quads + k) * 64 + part % 2 * 32), magnitude = _mm256_abs_epi8(x);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        h[r] = dot(h[r], x, magnitude, codes[r][k]);
        if (Fine) l[r] = dot(l[r], x, magnitude, low[r][k]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      __m256 y = _mm256_cvtepi32_ps(h[r]);
      if (Fine) y = _mm256_fmadd_ps(y, _mm256_set1_ps(128.0f), _mm256_cvtepi32_ps(l[r]));
      _mm256_store_ps(out + r * Tiles * kKeyBlock + 8 * part, y);
    }
  }
}

EDGE_INLINE __m256 running_sums_8(__m256 x) {
  const __m256 zero = _mm256_setzero_ps();
  const auto by_bytes = [](__m256 v, auto bytes) {
    return _mm256_castsi256_ps(_mm256_slli_si256(_mm256_castps_si256(v), bytes));
  };
  x = _mm256_add_ps(x, by_bytes(x, std::integral_constant<int, 4>()));
  x = _mm256_add_ps(x, by_bytes(x, std::integral_constant<int, 8>()));
  const __m256 ends = _mm256_permute_ps(x, 0xff);  // the last lane of each half, in all of it
  return _mm256_add_ps(x, _mm256_permute2f128_ps(ends, zero, 0x02));
}

EDGE_INLINE float running_sums(float* p, float scale, float base) {
  const __m256 s = _mm256_set1_ps(scale);
  const __m256 a = _mm256_add_ps(running_sums_8(_mm256_mul_ps(_mm256_load_ps(p), s)), _mm256_set1_ps(base));
  _mm256_store_ps(p, a);
  const __m256 b = _mm256_add_ps(running_sums_8(_mm256_mul_ps(_mm256_load_ps(p + 8), s)), _mm256_set1_ps(p[7]));
  _mm256_store_ps(p + 8, b);
  return p[15];
}

#include "delta_walk.h"
#include "delta_ops.h"

}  // namespace
}  // namespace avx2_delta

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const DeltaKernels& avx2_delta_kernels() {
  using namespace avx2_delta;
  static const DeltaKernels table EDGE_DELTA_TABLE("avx2");
  return table;
}

}  // namespace edge
#endif
