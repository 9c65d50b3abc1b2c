// SPDX-License-Identifier: Apache-2.0
// AVX2 kernels: 8 rows to a register, products of bytes summed in int16 where they fit.
#include "kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>

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
#include "float_ops.h"

constexpr int kTokens = 4;

EDGE_INLINE __m256 load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}

EDGE_INLINE __m256i load_bytes(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

// Quarter (8 rows) of line s of one half of a group.
template <bool Packed>
EDGE_INLINE __m256i load_line(const uint8_t* half, int s) {
  if (!Packed) return load_bytes(half + s * 64);
  const __m256i bytes = load_bytes(half + s % 4 * 64);
  return _mm256_and_si256(s < 4 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
}

EDGE_INLINE __m256i four_columns(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// Sums of the group for 8 rows and T tokens, less zero times the sum of q.
// 4-bit codes: 8 steps of at most 2 * 15 * 127 stay below 2^15. 8-bit: |w| * sign(q, w), at most 2 * 128 * 127.
template <int T, int Bits, bool Packed>
EDGE_INLINE void dot_group(const uint8_t* half, const int8_t* const* q, const int32_t* offset, __m256i* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int s = 0; s < 8; ++s) {
    __m256i w = load_line<Packed>(half, s);
    if (Bits == 8) w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    const __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m256i x = four_columns(q[t] + s * 4);
      if (Bits == 4)
        acc[t] = _mm256_add_epi16(acc[t], _mm256_maddubs_epi16(w, x));
      else
        acc[t] =
            _mm256_add_epi32(acc[t], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w)), ones));
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    if (Bits == 4)
      sums[t] = _mm256_add_epi32(_mm256_madd_epi16(acc[t], ones), _mm256_set1_epi32(offset[t]));
    else
      sums[t] = acc[t];  // the codes' offset of 128 was taken off by the exclusive or
  }
}

template <int T, int Bits, bool Packed, bool Min>
void block(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int zero, const Activations& x, int t0,
           float* y, int y_stride, bool add) {
  const int groups = x.groups, half_bytes = Packed ? 256 : 512;
  for (int quarter = 0; quarter < 4; ++quarter) {
    const uint8_t* half = codes + quarter / 2 * half_bytes + quarter % 2 * 32;
    __m256 f[T];
    for (int t = 0; t < T; ++t) f[t] = _mm256_setzero_ps();
    for (int g = 0; g < groups; ++g, half += 2 * half_bytes) {
      __m256i sums[T];
      const int8_t* q[T];
      int32_t offset[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const size_t at = size_t(t0 + t) * groups + g;
        q[t] = x.q + at * kGroup;
        offset[t] = -zero * x.sum[at];
      }
      dot_group<T, Bits, Packed>(half, q, offset, sums);
      const __m256 s = load_half(scales + g * kTile + quarter * 8);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const size_t at = size_t(t0 + t) * groups + g;
        f[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t]), _mm256_mul_ps(s, _mm256_set1_ps(x.scale[at])), f[t]);
        if (Min)
          f[t] = _mm256_fmadd_ps(load_half(mins + g * kTile + quarter * 8), _mm256_set1_ps(x.scaled_sum[at]), f[t]);
      }
    }
    for (int t = 0; t < T; ++t) {
      float* out = y + size_t(t0 + t) * y_stride + quarter * 8;
      _mm256_storeu_ps(out, add ? _mm256_add_ps(_mm256_loadu_ps(out), f[t]) : f[t]);
    }
  }
}

void unpack(const uint8_t* packed, int groups, uint8_t* codes) {
  for (int half = 0; half < 2 * groups; ++half, packed += 256, codes += 512)
    for (int s = 0; s < 8; ++s)
      for (int i = 0; i < 64; i += 32)
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes + s * 64 + i), load_line<true>(packed + i, s));
}

template <int Bits, bool Packed, bool Min>
void multiply_tile(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int zero, const Activations& x,
                   int n, float* y, int y_stride, bool add) {
  int t = 0;
  for (; t + kTokens <= n; t += kTokens)
    block<kTokens, Bits, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
  switch (n - t) {
    case 3:
      return block<3, Bits, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 2:
      return block<2, Bits, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    case 1:
      return block<1, Bits, Packed, Min>(codes, scales, mins, zero, x, t, y, y_stride, add);
    default:
      return;
  }
}

void multiply(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride, bool add,
              uint8_t* scratch) {
  const bool packed = w.bits == 4 && n <= kTokens;
  for (int tile = begin; tile < end; ++tile) {
    const uint8_t* codes = w.tile_codes(tile);
    if (w.bits == 4 && !packed) {
      unpack(codes, w.groups, scratch);
      codes = scratch;
    }
    const size_t first = size_t(tile) * w.groups * kTile;
    const uint16_t *scales = w.scales.data() + first, *mins = w.has_min ? w.mins.data() + first : scales;
    auto run = w.bits == 8 ? (w.has_min ? multiply_tile<8, false, true> : multiply_tile<8, false, false>)
               : packed    ? (w.has_min ? multiply_tile<4, true, true> : multiply_tile<4, true, false>)
                           : (w.has_min ? multiply_tile<4, false, true> : multiply_tile<4, false, false>);
    run(codes, scales, mins, w.zero, x, n, y + tile * kTile, y_stride, add);
  }
}

// --- ternary weights: 16 rows x up to 6 tokens to a block ---

constexpr int kTernaryTokens = 6;

EDGE_INLINE __m256i bits_of(const __m256i& line, int i) {
  return _mm256_and_si256(_mm256_srli_epi16(line, 2 * i), _mm256_set1_epi8(3));
}

void unpack_ternary(const uint8_t* packed, int groups, uint8_t* codes) {
  for (int line = 0; line < 4 * groups; ++line, packed += 64, codes += 256)
    for (int part = 0; part < 64; part += 32) {
      const __m256i bytes = load_bytes(packed + part);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes + i * 64 + part), bits_of(bytes, i));
    }
}

EDGE_INLINE __m256 scale_of(const Matrix& w, int tile, int block, int row) {
  if (!w.scales.size()) return _mm256_set1_ps(w.scale);
  return load_half(w.scales.data() + (size_t(tile) * w.blocks() + block) * kTile + row);
}

EDGE_INLINE void store_rows(float* out, const __m256& sum, float scale, bool add) {
  _mm256_storeu_ps(out, _mm256_fmadd_ps(sum, _mm256_set1_ps(scale), add ? _mm256_loadu_ps(out) : _mm256_setzero_ps()));
}

// Sums over at most 8 groups in int16: 64 steps of at most 2 * 2 * 128.
template <int T>
EDGE_INLINE void ternary_sums(const uint8_t* half, const int8_t* q, int groups, __m256i* low, __m256i* high) {
  __m256i a[T], b[T];
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) a[t] = b[t] = _mm256_setzero_si256();
  for (int g = 0; g < groups; ++g, half += 1024) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s, q += 4 * T) {
      const __m256i w0 = load_bytes(half + s * 64), w1 = load_bytes(half + s * 64 + 32);
#pragma GCC unroll 6
      for (int t = 0; t < T; ++t) {
        const __m256i x = four_columns(q + 4 * t);
        a[t] = _mm256_add_epi16(a[t], _mm256_maddubs_epi16(w0, x));
        b[t] = _mm256_add_epi16(b[t], _mm256_maddubs_epi16(w1, x));
      }
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
    low[t] = _mm256_add_epi32(low[t], _mm256_madd_epi16(a[t], ones));
    high[t] = _mm256_add_epi32(high[t], _mm256_madd_epi16(b[t], ones));
  }
}

template <int T>
void ternary_block(const Matrix& w, int tile, const uint8_t* codes, const TokenActivations& x, int t0, float* y,
                   int y_stride, bool add) {
  const bool uniform = !w.scales.size();
  constexpr int kStep = kTernaryBlock / kGroup, kHalf = 512;
  for (int half = 0; half < 2; ++half) {
    const int8_t* q = x.blocked + size_t(t0) * x.cols();
    __m256 f0[T], f1[T];
    __m256i i0[T], i1[T];
    for (int t = 0; t < T; ++t) {
      f0[t] = f1[t] = _mm256_setzero_ps();
      i0[t] = i1[t] = _mm256_set1_epi32(-x.total[t0 + t]);
    }
    for (int b = 0; b < x.blocks; ++b) {
      const int g = b * kStep, groups = w.groups - g < kStep ? w.groups - g : kStep;
      if (!uniform)
        for (int t = 0; t < T; ++t) i0[t] = i1[t] = _mm256_set1_epi32(-x.sum[size_t(t0 + t) * x.blocks + b]);
      ternary_sums<T>(codes + half * kHalf + size_t(g) * 2 * kHalf, q + size_t(g) * kGroup * T, groups, i0, i1);
      if (uniform && b + 1 < x.blocks) continue;
      const __m256 s0 = scale_of(w, tile, b, half * 16), s1 = scale_of(w, tile, b, half * 16 + 8);
      for (int t = 0; t < T; ++t) {
        f0[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(i0[t]), s0, f0[t]);
        f1[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(i1[t]), s1, f1[t]);
      }
    }
    for (int t = 0; t < T; ++t) {
      float* out = y + size_t(t0 + t) * y_stride + tile * kTile + half * 16;
      store_rows(out, f0[t], x.scale[t0 + t], add);
      store_rows(out + 8, f1[t], x.scale[t0 + t], add);
    }
  }
}

// One token straight from the packed codes, all 32 rows at once: the weights are one stream.
void ternary_one(const Matrix& w, int tile, const TokenActivations& x, float* y, bool add) {
  const bool uniform = !w.scales.size();
  constexpr int kStep = kTernaryBlock / kGroup;
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t* codes = w.tile_codes(tile);
  const int8_t* q = x.q;
  __m256 f[4];
  __m256i sums[4];
  for (int r = 0; r < 4; ++r) {
    f[r] = _mm256_setzero_ps();
    sums[r] = _mm256_set1_epi32(-x.total[0]);
  }
  for (int b = 0, g = 0; b < x.blocks; ++b) {
    __m256i acc[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) acc[r] = _mm256_setzero_si256();
    for (const int stop = g + kStep < w.groups ? g + kStep : w.groups; g < stop; ++g, codes += 256, q += kGroup) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m256i a = four_columns(q + p * 16 + i * 4);
#pragma GCC unroll 4
          for (int r = 0; r < 4; ++r) {
            const __m256i line = load_bytes(codes + r / 2 * 128 + p * 64 + r % 2 * 32);
            acc[r] = _mm256_add_epi16(acc[r], _mm256_maddubs_epi16(bits_of(line, i), a));
          }
        }
    }
    if (!uniform)
      for (int r = 0; r < 4; ++r) sums[r] = _mm256_set1_epi32(-x.sum[b]);
    for (int r = 0; r < 4; ++r) {
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(acc[r], ones));
      if (!uniform || b + 1 == x.blocks)
        f[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r]), scale_of(w, tile, b, r * 8), f[r]);
    }
  }
  for (int r = 0; r < 4; ++r) store_rows(y + tile * kTile + r * 8, f[r], x.scale[0], add);
}

using TernaryBlock = void (*)(const Matrix&, int, const uint8_t*, const TokenActivations&, int, float*, int, bool);

void ternary_dot(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                 bool add, uint8_t* scratch) {
  static const TernaryBlock run[kTernaryTokens] = {ternary_block<1>, ternary_block<2>, ternary_block<3>,
                                                   ternary_block<4>, ternary_block<5>, ternary_block<6>};
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

// 8 rows: 4 offsets each, of the bytes' bit pairs.
EDGE_INLINE void lut_offsets_8(const uint8_t* line, uint64_t* out) {
  const __m256i bytes = load_bytes(line), places = _mm256_set1_epi32(0x1b090301);
  __m256i offsets[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i pairs = _mm256_maddubs_epi16(bits_of(bytes, i), places);
    offsets[i] = _mm256_slli_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), 6);
  }
  const __m256i a = _mm256_or_si256(offsets[0], _mm256_slli_epi32(offsets[1], 16));
  const __m256i b = _mm256_or_si256(offsets[2], _mm256_slli_epi32(offsets[3], 16));
  const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 4), _mm256_permute2x128_si256(low, high, 0x31));
}

EDGE_INLINE void lut_offsets(const uint8_t* line, uint64_t* out) {
  lut_offsets_8(line, out);
  lut_offsets_8(line + 32, out + 8);
}

#include "lut_ops.h"

long product_peak(long steps) {
  __m256i acc[12], codes = _mm256_set1_epi8(1), q = _mm256_set1_epi8(2);
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) acc[j] = _mm256_setzero_si256();
  for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      asm volatile("" : "+x"(q));  // the compiler must not see that nothing changes
      acc[j] = _mm256_add_epi16(acc[j], _mm256_maddubs_epi16(codes, q));
    }
  }
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) asm volatile("" : "+x"(acc[j]));
  return steps * 12 * 32;
}

}  // namespace
}  // namespace avx2

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& avx2_kernels() {
  static const Kernels table{"avx2",       avx2::multiply, avx2::quantise,  avx2::rms_norm,
                             avx2::swiglu, avx2::attend, avx2::to_half, avx2::statistics,
                             avx2::kTernaryTokens, 32, avx2::quantise_token, avx2::ternary_dot, avx2::ternary_lut,
                             avx2::product_peak, avx2::table_rows, avx2::read_memory};
  return table;
}

}  // namespace edge
#endif
