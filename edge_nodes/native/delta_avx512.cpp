// SPDX-License-Identifier: Apache-2.0
// Coded keys with AVX-512: VBMI2 spreads the changes under their mask, VNNI multiplies 4 channels of 16 keys at once.
#include "delta_kernels.h"

#if EDGE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
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

// GCC 12 copies the sums to other registers and back around the intrinsic.
EDGE_INLINE void add_products(__m512i& sum, __m512i codes, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
}

// Query bytes are unsigned: their zero times the sum of the changes is taken off at the end. `line(tile, quad)` is
// called once for each, quad by quad; `done(row, tile, high, low)` with the sums of codes and, if fine, of low ones.
template <int Rows, int Tiles, bool Fine, typename Line, typename Done>
EDGE_INLINE void products_of(Line&& line, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                             Done&& done) {
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
      add_products(sum[t], ones, x[t]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512i q = _mm512_set1_epi32(int(codes[r][k]));
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) add_products(h[r][t], q, x[t]);
      if (!Fine) continue;
      const __m512i fine = _mm512_set1_epi32(int(low[r][k]));
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) add_products(l[r][t], fine, x[t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t)
      done(r, t, _mm512_sub_epi32(h[r][t], _mm512_slli_epi32(sum[t], Fine ? 6 : 7)), l[r][t]);
  }
}

template <bool Fine>
EDGE_INLINE __m512 as_floats(__m512i high, __m512i low) {
  const __m512 y = _mm512_cvtepi32_ps(high);
  return Fine ? _mm512_fmadd_ps(y, _mm512_set1_ps(128.0f), _mm512_cvtepi32_ps(low)) : y;
}

template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void products(const int8_t* lines, int quads, const uint32_t* const* codes, const uint32_t* const* low,
                          float* out) {
  products_of<Rows, Tiles, Fine>(
      [&](int t, int k) __attribute__((always_inline)) { return _mm512_load_si512(lines + (t * quads + k) * 64); },
      quads, codes, low, [&](int r, int t, __m512i high, __m512i fine) __attribute__((always_inline)) {
        _mm512_store_ps(out + (r * Tiles + t) * kKeyBlock, as_floats<Fine>(high, fine));
      });
}

template <int Lanes>
EDGE_INLINE __m512i shifted(__m512i x) {
  return _mm512_alignr_epi32(x, _mm512_setzero_si512(), 16 - Lanes);
}

// Sums over the lanes before and the lane itself, on top of `base`, which is 16 times the last of them afterwards.
EDGE_INLINE __m512i summed(__m512i x, int32_t* base) {
  x = _mm512_add_epi32(x, shifted<1>(x));
  x = _mm512_add_epi32(x, shifted<2>(x));
  x = _mm512_add_epi32(x, shifted<4>(x));
  x = _mm512_add_epi32(x, shifted<8>(x));
  x = _mm512_add_epi32(x, _mm512_load_si512(base));
  _mm512_store_si512(base, _mm512_permutexvar_epi32(_mm512_set1_epi32(15), x));
  return x;
}

// Products of a tile's lanes with those escapes that are in it.
template <int Tiles>
EDGE_INLINE __m512i with_escapes(__m512i x, const PackedTiles<Tiles>& tiles, int tile, const uint32_t* codes, int zero) {
  alignas(64) int32_t lanes[kKeyBlock];
  _mm512_store_si512(lanes, x);
  const uint8_t* code = reinterpret_cast<const uint8_t*>(codes);
  for (const Escape* e = tiles.escapes; e < tiles.escapes_end; ++e)
    if (e->tile == tile) lanes[e->key] += e->extra * (int32_t(code[e->channel]) - zero);
  return _mm512_load_si512(lanes);
}

// Stores the lanes [first, until).
EDGE_INLINE void keep_lanes(__m512 x, int first, int until, float* out) {
  const uint32_t from = first < kKeyBlock ? ~0u << (first > 0 ? first : 0) : 0;
  const uint32_t below = until < kKeyBlock ? (1u << (until > 0 ? until : 0)) - 1 : 0xffff;
  _mm512_mask_storeu_ps(out, __mmask16(from & below), x);
}

// Running sums of neighbouring rows, [row][codes, low ones][16 times the same].
using Sums = int32_t[2][kKeyBlock];

// Scores of neighbouring tiles of which `line` gives the changes; `Plain`: all are wanted, and nothing escapes. Sums
// are of integers, in registers: 32 bits hold them while the elements of a key add up to less than 2^24 steps.
template <int Rows, int Tiles, bool Fine, bool Plain, typename Line>
EDGE_INLINE void tile_scores(Line&& line, const PackedTiles<Tiles>& tiles, const CodedQueries& x, int row,
                             const RowCodes<Rows>& q, const Wanted& to, Sums* sums) {
  products_of<Rows, Tiles, Fine>(
      line, x.quads, q.codes, q.low, [&](int r, int t, __m512i high, __m512i low) __attribute__((always_inline)) {
        const int tile = tiles.tile + t, at = tile * kKeyBlock;
        if (!Plain) {
          high = with_escapes(high, tiles, tile, q.codes[r], Fine ? kFineZero : kCodeZero);
          if (Fine) low = with_escapes(low, tiles, tile, q.low[r], 0);
        }
        high = summed(high, sums[r][0]);
        if (Fine) low = summed(low, sums[r][1]);
        const __m512 y = _mm512_mul_ps(as_floats<Fine>(high, low), _mm512_set1_ps(x.scale[row + r]));
        float* out = to.scores + size_t(row + r) * to.stride + at;
        Plain ? _mm512_storeu_ps(out, y) : keep_lanes(y, to.first - at, to.until[row + r] - at, out);
      });
}

// Whether all keys of the tiles are wanted by all rows, `least` of which end first, and nothing escapes.
template <int Tiles>
EDGE_INLINE bool is_plain(const PackedTiles<Tiles>& tiles, const Wanted& to, int least) {
  return tiles.escapes == tiles.escapes_end && to.first <= tiles.tile * kKeyBlock &&
         least >= (tiles.tile + Tiles) * kKeyBlock;
}

constexpr int kWalkBytes = 16;  // of the values, fetched for each 4 channels of a tile: costs the walk nothing

// Changes spread in registers: the chains of the tiles' addresses run side by side.
template <int Rows, bool Fine>
EDGE_INLINE void walk_in_registers(const DeltaTiles& keys, const CodedQueries& x, const Wanted& to) {
  alignas(64) Sums sums[Rows];
  const RowCodes<Rows> q(x, 0);
  const int least = *std::min_element(to.until, to.until + Rows);
  each_tiles(keys, [&](const auto& tiles, auto count) __attribute__((always_inline)) {
    constexpr int kTiles = count;
    const size_t fetched = size_t(tiles.tile) * keys.quads * kWalkBytes;
    const char* values = keys.values + (fetched < kSecondLevel ? fetched : kSecondLevel);
    const int8_t* next[kTiles];
    for (int t = 0; t < kTiles; ++t) next[t] = tiles.codes[t];
    const auto line = [&](int t, int k) __attribute__((always_inline)) {
      if (t == 0 && k % 2 == 0) __builtin_prefetch(values + 32 * k, 0, 2);
      const uint64_t mask = tiles.masks[size_t(t) * keys.quads + k];
      __builtin_prefetch(next[t] + kNextBytes);
      const __m512i x = _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(next[t]));
      next[t] += __builtin_popcountll(mask);
      return x;
    };
    if (tiles.tile % kRefreshTiles == 0) std::memset(sums, 0, sizeof(sums));
    if (is_plain(tiles, to, least))
      tile_scores<Rows, kTiles, Fine, true>(line, tiles, x, 0, q, to, sums);
    else
      tile_scores<Rows, kTiles, Fine, false>(line, tiles, x, 0, q, to, sums);
  });
}

template <bool Fine>
EDGE_INLINE void walk(const DeltaTiles& keys, const CodedQueries& x, const Wanted& to) {
  // Rows that one pass takes (see `in_rows`); for more of them, changes are spread once.
  if (x.rows <= 4 || x.rows == kMostRows)
    return in_rows(x.rows, [&](int, auto rows) { walk_in_registers<rows, Fine>(keys, x, to); });
  alignas(64) int8_t lines[2 * kMostQuads * 64];
  Buffer<int32_t> sums(size_t(x.rows) * 2 * kKeyBlock);
  const int least = *std::min_element(to.until, to.until + x.rows);
  each_tiles(keys, [&](const auto& tiles, auto count) {
    spread(keys, tiles, lines);
    const auto line = [&](int t, int k) __attribute__((always_inline)) {
      return _mm512_load_si512(lines + (t * keys.quads + k) * 64);
    };
    if (tiles.tile % kRefreshTiles == 0) std::memset(sums.data(), 0, sums.bytes());
    const bool plain = is_plain(tiles, to, least);
    in_rows(x.rows, [&](int row, auto rows) {
      const RowCodes<rows> q(x, row);
      Sums* own = reinterpret_cast<Sums*>(sums.data()) + row;
      if (plain)
        tile_scores<rows, count, Fine, true>(line, tiles, x, row, q, to, own);
      else
        tile_scores<rows, count, Fine, false>(line, tiles, x, row, q, to, own);
    });
  });
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
