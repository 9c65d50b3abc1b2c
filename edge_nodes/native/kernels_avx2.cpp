// SPDX-License-Identifier: Apache-2.0
// AVX2 kernels: 8 rows to a register, products of bytes summed in int16 where they fit.
#include "kernel_table.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace edge {
namespace avx2 {
namespace {

constexpr int kFloats = 8;

#define EDGE_LOAD_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
#define EDGE_STORE_HALF(p, v) \
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define EDGE_LOAD_BYTES(p) \
  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))
#include "float_ops.h"

// Sums of 16 bits where they fit. 4-bit codes: 8 steps of at most 2 * 15 * 127 stay below 2^15; ternary codes: 64 steps
// of 2 * 2 * 128 do too, but for a sum of exactly -2^15, which is right as well.
template <int Bits>
struct Product {
  using Acc = __m256i;
  static constexpr bool kNarrow = true;
  static constexpr bool kInPlace = false;
  EDGE_INLINE Acc start(int) { return _mm256_setzero_si256(); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    return _mm256_add_epi16(acc, _mm256_maddubs_epi16((__m256i)codes, (__m256i)quad));
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int offset) {
    const __m256i wide = _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
    return (IntVec)_mm256_add_epi32(wide, _mm256_set1_epi32(offset));
  }
  EDGE_INLINE void keep(IntVec& v) { asm volatile("" : "+x"(v)); }
  EDGE_INLINE void keep(Acc& acc) { asm volatile("" : "+x"(acc)); }
};

// 8-bit codes less 128 are signed: |w| * sign(q, w) is at most 2 * 128 * 127 in a pair.
template <>
struct Product<8> {
  using Acc = __m256i;
  EDGE_INLINE Acc start(int) { return _mm256_setzero_si256(); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    const __m256i w = _mm256_xor_si256((__m256i)codes, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8((__m256i)quad, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return (IntVec)acc; }
};

// 6-bit codes: pairs are at most 2 * 63 * 127, of which 4 would not fit.
template <>
struct Product<6> {
  using Acc = __m256i;
  EDGE_INLINE Acc start(int offset) { return _mm256_set1_epi32(offset); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)quad);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return (IntVec)acc; }
};

EDGE_INLINE Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

constexpr int kAccumulators = 12;

#include "dot_ops.h"

EDGE_INLINE __m256i load_bytes(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

EDGE_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Of 8 rows, 4 offsets each: 1, 3, 9 and 27 times the codes of 4 columns, times the 64 bytes of a table's row. Codes
// stay in their places of the byte, which makes them 1, 4, 16 and 64 times too large.
EDGE_INLINE void lut_offsets_8(const uint8_t* line, uint64_t* out) {
  const __m256i bytes = load_bytes(line), places = _mm256_set1_epi32(0x1b090301), ones = _mm256_set1_epi16(1);
  __m256i index[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i codes = _mm256_and_si256(bytes, _mm256_set1_epi8(char(3 << 2 * i)));
    index[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, places), ones);
  }
  const __m256i a = _mm256_or_si256(_mm256_slli_epi32(index[0], 6), _mm256_slli_epi32(index[1], 20));
  const __m256i b = _mm256_or_si256(_mm256_slli_epi32(index[2], 2), _mm256_slli_epi32(index[3], 16));
  const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 4), _mm256_permute2x128_si256(low, high, 0x31));
}

EDGE_INLINE void lut_offsets(const uint8_t* line, uint64_t* out) {
  lut_offsets_8(line, out);
  lut_offsets_8(line + 32, out + 8);
}

#include "lut_ops.h"

}  // namespace
}  // namespace avx2

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& avx2_kernels() {
  static const Kernels table = EDGE_KERNELS("avx2", avx2, 32, avx2::dense_dot);
  return table;
}

}  // namespace edge
#endif
