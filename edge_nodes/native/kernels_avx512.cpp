// SPDX-License-Identifier: Apache-2.0
// AVX-512 VNNI kernels: 16 rows to a register, 4 columns to an instruction, 32 rows x 6 tokens to a block.
#include "kernel_table.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarm inside GCC 12's own intrinsics
#endif
#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
#endif

namespace edge {
namespace avx512 {
namespace {

constexpr int kFloats = 16;

#define EDGE_LOAD_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
#define EDGE_STORE_HALF(p, v) \
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define EDGE_LOAD_BYTES(p) \
  _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))
#include "float_ops.h"

// Sums of 32 bits straight away: vpdpbusd adds 4 products of an unsigned code and a signed activation.
template <int Bits>
struct Product {
  using Acc = IntVec;
  static constexpr bool kNarrow = false;
  static constexpr bool kInPlace = true;
  EDGE_INLINE Acc start(int offset) { return (IntVec)_mm512_set1_epi32(offset); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    return (IntVec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, (__m512i)quad);
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return acc; }
  EDGE_INLINE void keep(Acc& acc) { asm volatile("" : "+v"(acc)); }
};

EDGE_INLINE Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

constexpr int kAccumulators = 24;

#include "dot_ops.h"

EDGE_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Of 16 rows, 4 offsets each: 1, 3, 9 and 27 times the codes of 4 columns, times the 64 bytes of a table's row. Codes
// stay in their places of the byte, which makes them 1, 4, 16 and 64 times too large.
EDGE_INLINE void lut_offsets(const uint8_t* line, uint64_t* out) {
  const __m512i bytes = _mm512_load_si512(line), places = _mm512_set1_epi32(0x1b090301);
  __m512i index[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    index[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(bytes, _mm512_set1_epi8(char(3 << 2 * i))),
                                   places);
  const __m512i a = _mm512_or_si512(_mm512_slli_epi32(index[0], 6), _mm512_slli_epi32(index[1], 20));
  const __m512i b = _mm512_or_si512(_mm512_slli_epi32(index[2], 2), _mm512_slli_epi32(index[3], 16));
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi32(a, low, b));
  _mm512_storeu_si512(out + 8, _mm512_permutex2var_epi32(a, high, b));
}

#include "lut_ops.h"

}  // namespace
}  // namespace avx512

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& avx512_kernels() {
  __builtin_cpu_init();
  const auto dense_dot = __builtin_cpu_supports("avx512vbmi") ? dense_dot_vbmi : avx512::dense_dot;
  static const Kernels table = EDGE_KERNELS("avx512vnni", avx512, 1 << 30, dense_dot);
  return table;
}

}  // namespace edge
#endif
