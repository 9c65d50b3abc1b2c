// SPDX-License-Identifier: Apache-2.0
// Kernels in plain C++ for every processor; the definition that the others must equal bit for bit.
#include <algorithm>
#include <cstring>

#include "kernel_table.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // 64-byte vectors never cross a translation unit

namespace edge {
namespace portable {
namespace {

constexpr int kFloats = 4, kTernaryTokens = 1;

#include "float_ops.h"

inline float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return float(double(a) * double(b) + double(c));  // one rounding, save for ties of the second: no libm call
#endif
}

// Codes of a group of a tile at 4 or 6 bits, as they lie at 8 bits.
void unpack(const uint8_t* packed, int bits, uint8_t* codes) {
  for (int half = 0; half < 2; ++half, packed += bits * 64)
    for (int s = 0; s < 8; ++s, codes += 64)
      for (int i = 0; i < 64; ++i) {
        codes[i] = packed[s % 4 * 64 + i] >> (s / 4 * 4) & 15;
        if (bits == 6) codes[i] |= (packed[256 + s / 4 * 64 + i] >> (s % 4 * 2) & 3) << 4;
      }
}

typedef uint8_t Bytes __attribute__((vector_size(8)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

// Sums of neighbouring int16 lanes.
inline Ints add_pairs(const Shorts& v) { return (((Ints)v << 16) >> 16) + ((Ints)v >> 16); }

// acc[r] += sum over columns [4 * Begin, 4 * End) of a group of code * q. A product fits in int16 (255 * 127); with
// 4-bit codes the sum over 8 lines does too (8 * 15 * 127), with 6-bit codes that over 4 (4 * 63 * 127).
template <int Bits, int Begin = 0, int End = 8>
void dot_group(const uint8_t* codes, const int8_t* q, int32_t* acc) {
  Shorts columns[8];
  for (int s = Begin; s < End; ++s)
    for (int i = 0; i < 8; ++i) columns[s][i] = q[4 * s + i % 4];
  for (int half = 0; half < 2; ++half, codes += 512, acc += kLanes) {
    Shorts narrow[8] = {};
    Ints wide[8] = {};
    for (int s = Begin; s < End; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {  // 2 rows each
        Bytes bytes;
        std::memcpy(&bytes, codes + s * 64 + i * 8, sizeof bytes);
        const Shorts product = __builtin_convertvector(bytes, Shorts) * columns[s];
        if (Bits < 8)
          narrow[i] += product;
        else
          wide[i] += add_pairs(product);
      }
    }
    for (int i = 0; i < 8; ++i) {
      const Ints sums = Bits < 8 ? add_pairs(narrow[i]) : wide[i];
      acc[2 * i] += sums[0] + sums[1];
      acc[2 * i + 1] += sums[2] + sums[3];
    }
  }
}

// Half precision to float without branches; infinities, which no weight has, come out finite.
void widen(const uint16_t* halves, int count, float* out) {
  for (int i = 0; i < count; ++i) {
    const uint32_t magnitude = uint32_t(halves[i] & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 5.192296858534828e33f;  // 2^112
    out[i] = halves[i] & 0x8000u ? -value : value;
  }
}

// Scales of a tile's groups or, at 6 bits, of halves of them.
void tile_scales(const Matrix& w, int tile, float* out) {
  const uint16_t* halves = w.scales.data() + size_t(tile) * w.scale_groups() * kTile;
  if (w.bits != 6) return widen(halves, w.groups * kTile, out);
  float block[kTile];
  for (int g = 0; g < w.groups; ++g) {
    if (g * kGroup % kTernaryBlock == 0) widen(halves + g * kGroup / kTernaryBlock * kTile, kTile, block);
    const uint8_t* own = w.tile_codes(tile) + size_t(g + 1) * w.group_bytes() - 2 * kTile;
    for (int i = 0; i < 2 * kTile; ++i) *out++ = float(int8_t(own[i])) * block[i % kTile];
  }
}

// sum[r] += scale * (code - zero) * q over one group of a tile; `codes` lie at 8 bits.
void add_group(const Matrix& w, const uint8_t* codes, const float* scales, const Activations& x, size_t at, float* sum) {
  const int8_t* q = x.q + at * kGroup;
  const int32_t* sums = x.sum + 2 * at;
  const int parts = w.bits == 6 ? 2 : 1;
  for (int part = 0; part < parts; ++part, scales += kTile) {
    int32_t acc[kTile];
    std::fill_n(acc, kTile, -w.zero * (parts == 2 ? sums[part] : sums[0] + sums[1]));
    if (w.bits == 6)
      (part ? dot_group<6, 4, 8> : dot_group<6, 0, 4>)(codes, q, acc);
    else
      (w.bits == 4 ? dot_group<4> : dot_group<8>)(codes, q, acc);
    for (int r = 0; r < kTile; ++r) sum[r] = multiply_add(float(acc[r]), scales[r] * x.scale[at], sum[r]);
  }
}

// Sums of a tile's rows on their way up a SumTree, if there is one.
struct Branches {
  explicit Branches(const SumTree* of) : tree(of) {}
  const SumTree* tree;
  float waiting[kTreeHeight][kTile];
  int height = 0;

  // After the columns up to `column`: if a leaf ends there, adds to its sums those it completes, which wait then.
  void leaf(int column, bool last, float* sum) {
    if (!tree || !(last || column % tree->unit == 0)) return;
    for (int m = tree->merges[size_t((column - 1) / tree->unit)]; m; --m) {
      --height;
      for (int r = 0; r < kTile; ++r) sum[r] = waiting[height][r] + sum[r];
    }
    if (last) return;
    std::copy_n(sum, kTile, waiting[height++]);
    std::fill_n(sum, kTile, 0.0f);
  }
};

void multiply(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride, bool add,
              uint8_t* scratch) {
  for (int tile = begin; tile < end; ++tile) {
    const uint8_t* codes = w.tile_codes(tile);
    if (w.bits != 8) {
      for (int g = 0; g < w.groups; ++g) unpack(codes + g * w.group_bytes(), w.bits, scratch + g * 1024);
      codes = scratch;
    }
    const int rows = w.groups * kTile;  // at 6 bits, which have no minima, scales take twice as much
    float* scales = reinterpret_cast<float*>(scratch + size_t(w.groups) * 1024);
    float* mins = scales + rows;
    tile_scales(w, tile, scales);
    if (w.has_min) widen(w.mins.data() + size_t(tile) * rows, rows, mins);
    for (int t = 0; t < n; ++t) {
      float sum[kTile] = {};
      Branches branches(x.tree);
      for (int g = 0; g < w.groups; ++g) {
        const size_t at = size_t(t) * w.groups + g;
        add_group(w, codes + g * 1024, scales + g * kTile * (w.bits == 6 ? 2 : 1), x, at, sum);
        if (w.has_min)
          for (int r = 0; r < kTile; ++r) sum[r] = multiply_add(mins[g * kTile + r], x.scaled_sum[at], sum[r]);
        branches.leaf((g + 1) * kGroup, g + 1 == w.groups, sum);
      }
      float* out = y + size_t(t) * y_stride + tile * kTile;
      for (int root = 0; root < branches.height; ++root, out += x.root_stride)
        std::copy_n(branches.waiting[root], kTile, out);
      for (int r = 0; r < kTile; ++r) out[r] = add ? out[r] + sum[r] : sum[r];
    }
  }
}

void unpack_ternary(const uint8_t* packed, int groups, uint8_t* codes) {
  for (int half = 0; half < 2 * groups; ++half, packed += 128, codes += 512)
    for (int s = 0; s < 8; ++s)
      for (int i = 0; i < 64; ++i) codes[s * 64 + i] = packed[s / 4 * 64 + i] >> (s % 4 * 2) & 3;
}

void unpack_dense(const uint8_t* packed, int groups, uint8_t* codes) {
  static const int powers[] = {1, 3, 9, 27, 81};
  for (int quad = 0; quad < groups * 8; ++quad)
    for (int i = 0; i < 128; ++i)
      codes[quad / 8 * 1024 + i / 64 * 512 + quad % 8 * 64 + i % 64] =
          uint8_t(packed[quad / 5 * 128 + i] / powers[quad % 5] % 3);
}

void ternary_dot(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                 bool add, uint8_t* scratch) {
  const bool uniform = !w.scales.size();
  const int step = uniform ? w.groups : kTernaryBlock / kGroup;
  for (int tile = begin; tile < end; ++tile) {
    (w.dense ? unpack_dense : unpack_ternary)(w.tile_codes(tile), w.groups, scratch);
    for (int t = 0; t < n; ++t) {
      float sum[kTile] = {};
      Branches branches(uniform ? nullptr : x.tree);
      for (int b = 0, g = 0; g < w.groups; ++b) {
        int32_t acc[kTile];
        for (int r = 0; r < kTile; ++r) acc[r] = uniform ? -x.total[t] : -x.sum[size_t(t) * x.blocks + b];
        for (const int stop = std::min(w.groups, g + step); g < stop; ++g)
          dot_group<4>(scratch + g * 1024, x.q + (size_t(t) * w.groups + g) * kGroup, acc);
        for (int r = 0; r < kTile; ++r) {
          const float scale =
              uniform ? w.scale : half_to_float(w.scales[(size_t(tile) * x.blocks + b) * kTile + r]);
          sum[r] = multiply_add(float(acc[r]), scale, sum[r]);
        }
        branches.leaf(g * kGroup, g == w.groups, sum);
      }
      float* out = y + size_t(t) * y_stride + tile * kTile;
      for (int root = 0; root < branches.height; ++root, out += x.root_stride)
        for (int r = 0; r < kTile; ++r) out[r] = branches.waiting[root][r] * x.scale[t];
      for (int r = 0; r < kTile; ++r) out[r] = multiply_add(sum[r], x.scale[t], add ? out[r] : 0.0f);
    }
  }
}

void lut_offsets(const uint8_t* line, uint64_t* out) {
  for (int r = 0; r < kLanes; ++r, line += 4) {
    uint64_t row = 0;
    for (int i = 0; i < 4; ++i) {
      int index = 0;
      for (int j = 3; j >= 0; --j) index = index * 3 + (line[j] >> 2 * i & 3);
      row |= uint64_t(index * kTableTokens * 2) << 16 * i;
    }
    out[r] = row;
  }
}

#include "lut_ops.h"

long product_peak(long) { return 0; }

}  // namespace
}  // namespace portable

const Kernels& portable_kernels() {
  static const Kernels table = EDGE_KERNELS("portable", portable, 32, portable::ternary_dot);
  return table;
}

}  // namespace edge
