// SPDX-License-Identifier: Apache-2.0
// AVX-512 VNNI kernels: 16 rows to a register, 4 columns to an instruction, 32 rows x 6 tokens to a block.
#include "kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <cstring>

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

#include "float_ops.h"

constexpr int kTokens = 6;

EDGE_INLINE __m512 load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}

// Line s of one half of a group; 4-bit codes are unpacked on the way.
template <bool Packed>
EDGE_INLINE __m512i load_line(const uint8_t* half, int s) {
  if (!Packed) return _mm512_load_si512(half + s * 64);
  const __m512i bytes = _mm512_load_si512(half + s % 4 * 64);
  return _mm512_and_si512(s < 4 ? bytes : _mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15));
}

EDGE_INLINE __m512i four_columns(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// 32 rows times T tokens over all groups. `codes` are packed nibbles (Packed) or one byte each.
template <int T, bool Packed, bool Min>
void block(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int zero, const Activations& x, int t0,
           float* y, int y_stride, bool add) {
  const int groups = x.groups, half_bytes = Packed ? 256 : 512;
  __m512 f0[T], f1[T];
  for (int t = 0; t < T; ++t) f0[t] = f1[t] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, codes += 2 * half_bytes, scales += kTile, mins += Min ? kTile : 0) {
    __m512i i0[T], i1[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) i0[t] = i1[t] = _mm512_set1_epi32(-zero * x.sum[size_t(t0 + t) * groups + g]);
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      const __m512i w0 = load_line<Packed>(codes, s), w1 = load_line<Packed>(codes + half_bytes, s);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512i q = four_columns(x.q + (size_t(t0 + t) * groups + g) * kGroup + s * 4);
        i0[t] = _mm512_dpbusd_epi32(i0[t], w0, q);
        i1[t] = _mm512_dpbusd_epi32(i1[t], w1, q);
      }
    }
    const __m512 s0 = load_half(scales), s1 = load_half(scales + kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m512 scale = _mm512_set1_ps(x.scale[size_t(t0 + t) * groups + g]);
      f0[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i0[t]), _mm512_mul_ps(s0, scale), f0[t]);
      f1[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i1[t]), _mm512_mul_ps(s1, scale), f1[t]);
    }
    if (Min) {
      const __m512 m0 = load_half(mins), m1 = load_half(mins + kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512 sum = _mm512_set1_ps(x.scaled_sum[size_t(t0 + t) * groups + g]);
        f0[t] = _mm512_fmadd_ps(m0, sum, f0[t]);
        f1[t] = _mm512_fmadd_ps(m1, sum, f1[t]);
      }
    }
  }
  for (int t = 0; t < T; ++t) {
    float* out = y + size_t(t0 + t) * y_stride;
    _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), f0[t]) : f0[t]);
    _mm512_storeu_ps(out + kLanes, add ? _mm512_add_ps(_mm512_loadu_ps(out + kLanes), f1[t]) : f1[t]);
  }
}

void unpack(const uint8_t* packed, int groups, uint8_t* codes) {
  for (int half = 0; half < 2 * groups; ++half, packed += 256, codes += 512) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) _mm512_store_si512(codes + s * 64, load_line<true>(packed, s));
  }
}

template <bool Packed, bool Min>
void multiply_tile(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int zero, const Activations& x,
                   int n, float* y, int y_stride, bool add) {
  int t = 0;
  for (; t + kTokens <= n; t += kTokens) block<kTokens, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
  switch (n - t) {
    case 5:
      return block<5, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 4:
      return block<4, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 3:
      return block<3, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 2:
      return block<2, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 1:
      return block<1, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    default:
      return;
  }
}

void multiply(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride, bool add,
              uint8_t* scratch) {
  const bool packed = w.bits == 4 && n <= kTokens;  // else worth unpacking once for all tokens
  for (int tile = begin; tile < end; ++tile) {
    const uint8_t* codes = w.tile_codes(tile);
    if (w.bits == 4 && !packed) {
      unpack(codes, w.groups, scratch);
      codes = scratch;
    }
    const size_t first = size_t(tile) * w.groups * kTile;
    const uint16_t *scales = w.scales.data() + first, *mins = w.has_min ? w.mins.data() + first : scales;
    auto run = packed ? (w.has_min ? multiply_tile<true, true> : multiply_tile<true, false>)
                      : (w.has_min ? multiply_tile<false, true> : multiply_tile<false, false>);
    run(codes, scales, mins, w.zero, x, n, y + tile * kTile, y_stride, add);
  }
}

}  // namespace
}  // namespace avx512

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& avx512_kernels() {
  static const Kernels table{"avx512vnni",   avx512::multiply, avx512::quantise,  avx512::rms_norm,
                             avx512::swiglu, avx512::attend,   avx512::statistics};
  return table;
}

}  // namespace edge
#endif
