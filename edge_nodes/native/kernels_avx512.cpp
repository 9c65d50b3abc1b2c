// SPDX-License-Identifier: Apache-2.0
// AVX-512 VNNI kernels: 16 rows to a register, 4 columns to an instruction, 32 rows x 6 tokens to a block.
#include "kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
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

#define EDGE_LOAD_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
#define EDGE_STORE_HALF(p, v) \
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
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

// --- ternary weights: 32 rows x up to 12 tokens to a block ---

constexpr int kTernaryTokens = 12;

EDGE_INLINE __m512i bits_of(const __m512i& line, int i) {
  return _mm512_and_si512(_mm512_srli_epi16(line, 2 * i), _mm512_set1_epi8(3));
}

void unpack_ternary(const uint8_t* packed, int groups, uint8_t* codes) {
  for (int line = 0; line < 4 * groups; ++line, packed += 64, codes += 256) {
    const __m512i bytes = _mm512_load_si512(packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm512_store_si512(codes + i * 64, bits_of(bytes, i));
  }
}

struct Scales {
  __m512 low, high;
};

EDGE_INLINE Scales scales_of(const Matrix& w, int tile, int block) {
  if (!w.scales.size()) return {_mm512_set1_ps(w.scale), _mm512_set1_ps(w.scale)};
  const uint16_t* p = w.scales.data() + (size_t(tile) * w.blocks() + block) * kTile;
  return {load_half(p), load_half(p + kLanes)};
}

EDGE_INLINE void store_rows(float* out, const __m512& sum, float scale, bool add) {
  _mm512_storeu_ps(out, _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), add ? _mm512_loadu_ps(out) : _mm512_setzero_ps()));
}

template <int T>
void ternary_block(const Matrix& w, int tile, const uint8_t* codes, const TokenActivations& x, int t0, float* y,
                   int y_stride, bool add) {
  const bool uniform = !w.scales.size();
  const int step = uniform ? w.groups : kTernaryBlock / kGroup;
  const int8_t* q = x.blocked + size_t(t0) * x.cols();
  __m512 f0[T], f1[T];
  for (int t = 0; t < T; ++t) f0[t] = f1[t] = _mm512_setzero_ps();
  for (int b = 0, g = 0; g < w.groups; ++b) {
    __m512i i0[T], i1[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t)
      i0[t] = i1[t] = _mm512_set1_epi32(uniform ? -x.total[t0 + t] : -x.sum[size_t(t0 + t) * x.blocks + b]);
    for (const int stop = g + step < w.groups ? g + step : w.groups; g < stop; ++g, codes += 1024) {
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s, q += 4 * T) {
        const __m512i w0 = _mm512_load_si512(codes + s * 64), w1 = _mm512_load_si512(codes + 512 + s * 64);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          const __m512i a = four_columns(q + 4 * t);
          i0[t] = _mm512_dpbusd_epi32(i0[t], w0, a);
          i1[t] = _mm512_dpbusd_epi32(i1[t], w1, a);
        }
      }
    }
    const Scales scale = scales_of(w, tile, b);
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      f0[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i0[t]), scale.low, f0[t]);
      f1[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i1[t]), scale.high, f1[t]);
    }
  }
  for (int t = 0; t < T; ++t) {
    float* out = y + size_t(t0 + t) * y_stride + tile * kTile;
    store_rows(out, f0[t], x.scale[t0 + t], add);
    store_rows(out + kLanes, f1[t], x.scale[t0 + t], add);
  }
}

// One token straight from the packed codes: the codes stay where they are in their bytes, 4^i times too large, and each
// place has its own sums.
void ternary_one(const Matrix& w, int tile, const TokenActivations& x, float* y, bool add) {
  const bool uniform = !w.scales.size();
  const int step = uniform ? w.groups : kTernaryBlock / kGroup;
  const uint8_t* codes = w.tile_codes(tile);
  const int8_t* q = x.q;
  __m512 f0 = _mm512_setzero_ps(), f1 = f0;
  for (int b = 0, g = 0; g < w.groups; ++b) {
    __m512i low[2][4], high[2][4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) low[i / 4][i % 4] = high[i / 4][i % 4] = _mm512_setzero_si512();
    for (const int stop = g + step < w.groups ? g + step : w.groups; g < stop; ++g, codes += 256, q += kGroup) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
        const __m512i w0 = _mm512_load_si512(codes + p * 64), w1 = _mm512_load_si512(codes + 128 + p * 64);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m512i a = four_columns(q + p * 16 + i * 4), mask = _mm512_set1_epi8(char(3 << 2 * i));
          low[p][i] = _mm512_dpbusd_epi32(low[p][i], _mm512_and_si512(w0, mask), a);
          high[p][i] = _mm512_dpbusd_epi32(high[p][i], _mm512_and_si512(w1, mask), a);
        }
      }
    }
    __m512i i0 = _mm512_set1_epi32(uniform ? -x.total[0] : -x.sum[b]), i1 = i0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      i0 = _mm512_add_epi32(i0, _mm512_srai_epi32(_mm512_add_epi32(low[0][i], low[1][i]), 2 * i));
      i1 = _mm512_add_epi32(i1, _mm512_srai_epi32(_mm512_add_epi32(high[0][i], high[1][i]), 2 * i));
    }
    const Scales scale = scales_of(w, tile, b);
    f0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i0), scale.low, f0);
    f1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(i1), scale.high, f1);
  }
  store_rows(y + tile * kTile, f0, x.scale[0], add);
  store_rows(y + tile * kTile + kLanes, f1, x.scale[0], add);
}

using TernaryBlock = void (*)(const Matrix&, int, const uint8_t*, const TokenActivations&, int, float*, int, bool);

void ternary_dot(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                 bool add, uint8_t* scratch) {
  static const TernaryBlock run[kTernaryTokens] = {
      ternary_block<1>, ternary_block<2>, ternary_block<3>, ternary_block<4>,  ternary_block<5>,  ternary_block<6>,
      ternary_block<7>, ternary_block<8>, ternary_block<9>, ternary_block<10>, ternary_block<11>, ternary_block<12>};
  const int tokens = block_tokens(n, kTernaryTokens);
  for (int tile = begin; tile < end; ++tile) {
    if (n == 1) {
      ternary_one(w, tile, x, y, add);
      continue;
    }
    unpack_ternary(w.tile_codes(tile), w.groups, scratch);
    for (int t = 0; t < n; t += tokens)
      run[(n - t < tokens ? n - t : tokens) - 1](w, tile, scratch, x, t, y, y_stride, add);
  }
}

EDGE_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Of 16 rows, 4 offsets each: 1, 3, 9 and 27 times the codes of 4 columns, times the 64 bytes of a table's row.
EDGE_INLINE void lut_offsets(const uint8_t* line, uint64_t* out) {
  const __m512i bytes = _mm512_load_si512(line), places = _mm512_set1_epi32(0x1b090301);
  __m512i offsets[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    offsets[i] = _mm512_slli_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), bits_of(bytes, i), places), 6);
  const __m512i a = _mm512_or_si512(offsets[0], _mm512_slli_epi32(offsets[1], 16));
  const __m512i b = _mm512_or_si512(offsets[2], _mm512_slli_epi32(offsets[3], 16));
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi32(a, low, b));
  _mm512_storeu_si512(out + 8, _mm512_permutex2var_epi32(a, high, b));
}

#include "lut_ops.h"

long product_peak(long steps) {
  __m512i acc[24], codes = _mm512_set1_epi8(1), q = _mm512_set1_epi8(2);
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j) acc[j] = _mm512_setzero_si512();
  for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < 24; ++j) {
      asm volatile("" : "+v"(q));  // the compiler must not see that nothing changes
      acc[j] = _mm512_dpbusd_epi32(acc[j], codes, q);
    }
  }
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j) asm volatile("" : "+v"(acc[j]));
  return steps * 24 * 64;
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
                             avx512::swiglu, avx512::attend, avx512::to_half, avx512::statistics,
                             avx512::kTernaryTokens, 1 << 30, avx512::quantise_token, avx512::ternary_dot, avx512::ternary_lut,
                             avx512::product_peak, avx512::table_rows, avx512::read_memory};
  return table;
}

}  // namespace edge
#endif
