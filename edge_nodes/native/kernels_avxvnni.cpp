// SPDX-License-Identifier: Apache-2.0
// AVX-VNNI: the products of AVX-512 VNNI on half as wide registers; all else is as with AVX2.
#include "kernel_table.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#pragma GCC diagnostic ignored "-Wpsabi"           // 64-byte vectors never cross a translation unit
#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, which is here for its types
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

namespace edge {
namespace avxvnni {
namespace {

constexpr int kFloats = 8;

#define EDGE_LOAD_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
#define EDGE_LOAD_BYTES(p) \
  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))
#include "float_ops.h"

template <int Bits>
struct Product {
  using Acc = IntVec;
  static constexpr bool kNarrow = false;
  static constexpr bool kInPlace = true;
  EDGE_INLINE Acc start(int offset) { return (IntVec)_mm256_set1_epi32(offset); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    return (IntVec)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)codes, (__m256i)quad);
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return acc; }
  EDGE_INLINE void keep(Acc& acc) { asm volatile("" : "+x"(acc)); }
};

EDGE_INLINE Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

constexpr int kAccumulators = 12;

#include "dot_ops.h"

}  // namespace
}  // namespace avxvnni

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& avxvnni_kernels() {
  static const Kernels table = EDGE_KERNELS_OVER(avx2_kernels(), "avxvnni", avxvnni);
  return table;
}

}  // namespace edge
#endif
