// SPDX-License-Identifier: Apache-2.0
// Dense ternary weights (5 to a byte) with AVX-512 VBMI: a byte's first 4 trits are looked up as 2-bit codes, the fifth
// is compared.
#include "kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarm inside GCC 12's own intrinsics
#endif
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c,prefer-vector-width=512")
#endif

namespace edge {
namespace avx512vbmi {
namespace {

#define EDGE_INLINE static inline __attribute__((always_inline))

constexpr int kTokens = 12;
constexpr int kAhead = 8192;
constexpr int kQuads = kDenseColumns / 4;

// Of 0..80, the 4 trits at 2 bits each.
const uint8_t* pair_codes() {
  alignas(64) static const auto table = [] {
    std::array<uint8_t, 128> codes{};
    for (int v = 0; v < 81; ++v) codes[size_t(v)] = uint8_t(v % 3 | v / 3 % 3 << 2 | v / 9 % 3 << 4 | v / 27 << 6);
    return codes;
  }();
  return table.data();
}

struct Trits {
  __m512i four, fifth;
};

EDGE_INLINE Trits unpack(const uint8_t* line, const __m512i& low, const __m512i& high) {
  const __m512i bytes = _mm512_load_si512(line), step = _mm512_set1_epi8(81), ones = _mm512_set1_epi8(1);
  const __mmask64 one = _mm512_cmpge_epu8_mask(bytes, step);
  const __mmask64 two = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(char(162)));
  const __m512i rest = _mm512_mask_sub_epi8(bytes, one, bytes, step);
  const __m512i fifth = _mm512_maskz_mov_epi8(one, ones);
  return {_mm512_permutex2var_epi8(low, _mm512_mask_sub_epi8(rest, two, rest, step), high),
          _mm512_mask_add_epi8(fifth, two, fifth, ones)};
}

EDGE_INLINE __m512i four_columns(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// The first `quads` of a line's 5 quads of columns, for 32 rows and T tokens. With few tokens each place of a byte has
// sums of its own, 4^i times too large.
template <int T, int Chains>
EDGE_INLINE void add_line(const uint8_t* line, const __m512i& low, const __m512i& high, const int8_t* q, int quads,
                          __m512i (&acc)[2][T][Chains]) {
  const Trits trits[2] = {unpack(line, low, high), unpack(line + 64, low, high)};
#pragma GCC unroll 5
  for (int s = 0; s < kQuads; ++s) {
    if (s >= quads) break;
    __m512i codes[2];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r)
      codes[r] = s == 4        ? trits[r].fifth
                 : Chains == 4 ? _mm512_and_si512(trits[r].four, _mm512_set1_epi8(char(3 << s % 4 * 2)))
                               : _mm512_and_si512(_mm512_srli_epi16(trits[r].four, s % 4 * 2), _mm512_set1_epi8(3));
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      const __m512i quad = four_columns(q + (s * T + t) * 4);
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r)
        acc[r][t][s % Chains] = _mm512_dpbusd_epi32(acc[r][t][s % Chains], codes[r], quad);
    }
  }
}

template <int T>
void block(const Matrix& w, int tile, const TokenActivations& x, int t0, float* y, int y_stride, bool add) {
  constexpr int kChains = T <= 3 ? 4 : 1;
  const __m512i low = _mm512_load_si512(pair_codes()), high = _mm512_load_si512(pair_codes() + 64);
  const uint8_t* line = w.tile_codes(tile);
  const int8_t* q = (T == 1 ? x.q : x.blocked) + size_t(t0) * x.cols();
  __m512i acc[2][T][kChains];
#pragma GCC unroll 24
  for (int i = 0; i < 2 * T * kChains; ++i)
    acc[i / (T * kChains)][i / kChains % T][i % kChains] = _mm512_setzero_si512();
  int quads = w.groups * 8;
  for (; quads >= kQuads; quads -= kQuads, line += 128, q += kQuads * 4 * T) {
    _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(line + kAhead + 64), _MM_HINT_T0);
    add_line<T, kChains>(line, low, high, q, kQuads, acc);
  }
  if (quads) add_line<T, kChains>(line, low, high, q, quads, acc);
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      __m512i sum = _mm512_sub_epi32(acc[r][t][0], _mm512_set1_epi32(x.total[t0 + t]));
#pragma GCC unroll 4
      for (int c = 1; c < kChains; ++c) sum = _mm512_add_epi32(sum, _mm512_srai_epi32(acc[r][t][c], 2 * c));
      float* out = y + size_t(t0 + t) * y_stride + tile * kTile + r * kLanes;
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(w.scale));
      const __m512 before = add ? _mm512_loadu_ps(out) : _mm512_setzero_ps();
      _mm512_storeu_ps(out, _mm512_fmadd_ps(scaled, _mm512_set1_ps(x.scale[t0 + t]), before));
    }
}

template <int... T>
void tiles(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride, bool add,
           std::integer_sequence<int, T...>) {
  static constexpr decltype(&block<1>) run[] = {block<T + 1>...};
  const int tokens = block_tokens(n, kTokens);
  for (int t = 0; t < n; t += tokens)
    for (int tile = begin; tile < end; ++tile) run[std::min(tokens, n - t) - 1](w, tile, x, t, y, y_stride, add);
}

EDGE_INLINE __m512i bits(const __m512i& bytes, int mask) { return _mm512_and_si512(bytes, _mm512_set1_epi8(char(mask))); }

// Of 4 dense lines, the 5 lines at 2 bits that are as long.
EDGE_INLINE void two_bit_lines(const Trits (&t)[4], __m512i (&out)[5]) {
  out[0] = t[0].four;
  out[1] = _mm512_or_si512(t[0].fifth, bits(_mm512_slli_epi16(t[1].four, 2), 0xfc));
  out[2] = _mm512_or_si512(bits(_mm512_srli_epi16(t[1].four, 6), 0x03), _mm512_slli_epi16(t[1].fifth, 2));
  out[2] = _mm512_or_si512(out[2], bits(_mm512_slli_epi16(t[2].four, 4), 0xf0));
  out[3] = _mm512_or_si512(bits(_mm512_srli_epi16(t[2].four, 4), 0x0f), _mm512_slli_epi16(t[2].fifth, 4));
  out[3] = _mm512_or_si512(out[3], bits(_mm512_slli_epi16(t[3].four, 6), 0xc0));
  out[4] = _mm512_or_si512(bits(_mm512_srli_epi16(t[3].four, 2), 0x3f), _mm512_slli_epi16(t[3].fifth, 6));
}

// A tile's codes as `Matrix` has them at 2 bits.
void two_bit_tile(const Matrix& w, int tile, uint8_t* out) {
  const __m512i low = _mm512_load_si512(pair_codes()), high = _mm512_load_si512(pair_codes() + 64);
  const uint8_t* codes = w.tile_codes(tile);
  const int lines = w.groups * 2, dense_lines = w.dense_lines();
  for (int line = 0, dense = 0; dense < dense_lines; line += 5, dense += 4, codes += 512)
    for (int half = 0; half < 2; ++half) {
      Trits trits[4];
      __m512i made[5];
#pragma GCC unroll 4
      for (int d = 0; d < 4; ++d) {
        trits[d] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        if (dense + d < dense_lines) trits[d] = unpack(codes + d * 128 + half * 64, low, high);
      }
      two_bit_lines(trits, made);
#pragma GCC unroll 5
      for (int l = 0; l < 5; ++l)
        if (line + l < lines)
          _mm512_storeu_si512(out + (line + l) / 2 * 256 + half * 128 + (line + l) % 2 * 64, made[l]);
    }
}

}  // namespace
}  // namespace avx512vbmi

void dense_dot_vbmi(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                    bool add, uint8_t* scratch) {
  if (n > avx512vbmi::kTokens)  // then unpacking a tile for all of them costs less than for a block of them at a time
    return multiply_unpacked(w, begin, end, x, n, y, y_stride, add, scratch, avx512vbmi::two_bit_tile,
                             avx512_kernels().ternary_dot);
  constexpr int kCodeBytes = 256 * 1024;  // as in dot_ops.h
  const int step = std::max(1, int(kCodeBytes / w.tile_bytes()));
  for (int tile = begin; tile < end; tile += step)
    avx512vbmi::tiles(w, tile, std::min(end, tile + step), x, n, y, y_stride, add,
                      std::make_integer_sequence<int, avx512vbmi::kTokens>{});
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace edge
#endif
