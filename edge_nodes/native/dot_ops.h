// SPDX-License-Identifier: Apache-2.0
// Products of low-bit weights with int8 activations, written once for registers of kFloats rows. Each kernels_*.cpp
// includes this after float_ops.h, inside its own namespace and target. The includer also defines
//   Product<Bits>: Acc, sums of one register of rows; dot(acc, codes, quad) adds 4 columns of each row; start(offset)
//     and widen(acc, offset) begin and end the sums and add `offset` once, but for 8-bit codes that dot() took as
//     signed; kNarrow, whether sums must be widened every 256 columns; kInPlace, whether codes up to 192 may be taken;
//     keep(x), which makes the compiler believe that x is used and changed;
//   fused(a, b, c) = a * b + c rounded once;
//   kAccumulators, the registers that sums may take.

constexpr int kRegisters = kTile / kFloats;  // of a tile's rows
constexpr int kPerLine = kLanes / kFloats;   // of a line of 64 bytes
constexpr int kBlockRows = 2;                // registers of rows of a block, which share an activation
constexpr int kAhead = 8192;                 // bytes that are asked for before they are needed
constexpr int kCodeBytes = 256 * 1024;       // of codes that are multiplied with all tokens in turn

typedef int32_t IntVecAny __attribute__((vector_size(4 * kFloats), may_alias));
EDGE_INLINE IntVec load_int(const void* p) { return *static_cast<const IntVecAny*>(p); }

EDGE_INLINE IntVec four_columns(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, sizeof bits);
  return bits - IntVec{};
}

// Of 2-bit codes, those at place i of each byte, 4^i times too large.
EDGE_INLINE IntVec codes_in_place(const uint8_t* group, int r, int s) {
  const uint8_t* half = group + r / kPerLine * 128 + r % kPerLine * (4 * kFloats);
  return load_int(half + s / 4 * 64) & 0x03030303 << (s % 4 * 2);
}

// Codes of register r of a tile's rows, columns 4s .. 4s + 3 of a group, one byte each.
template <int Bits>
EDGE_INLINE IntVec codes_of(const uint8_t* group, int r, int s) {
  const uint8_t* half = group + r / kPerLine * (Bits * 64) + r % kPerLine * (4 * kFloats);
  if (Bits == 2) return load_int(half + s / 4 * 64) >> (s % 4 * 2) & 0x03030303;
  if (Bits == 8) return load_int(half + s * 64);
  const IntVec low = load_int(half + s % 4 * 64) >> (s / 4 * 4) & 0x0f0f0f0f;
  if (Bits == 4) return low;
  const IntVec high = load_int(half + 256 + s / 4 * 64);
  return low | ((s % 4 == 3 ? high >> 2 : high << (4 - s % 4 * 2)) & 0x30303030);
}

// Sums of R registers of rows times T tokens on their way up a SumTree.
template <int R, int T>
struct Branches {
  Vec waiting[kTreeHeight][R][T];
  int height = 0;

  // After a leaf: adds to its sums f those it completes; `last`: they stay in f, else they wait.
  inline __attribute__((always_inline)) void leaf(const SumTree& tree, int index, bool last, Vec (&f)[R][T]) {
    for (int m = tree.merges[size_t(index)]; m; --m) {
      --height;
#pragma GCC unroll 32
      for (int i = 0; i < R * T; ++i) f[i / T][i % T] = waiting[height][i / T][i % T] + f[i / T][i % T];
    }
    if (last) return;
#pragma GCC unroll 32
    for (int i = 0; i < R * T; ++i) {
      waiting[height][i / T][i % T] = f[i / T][i % T];
      f[i / T][i % T] = Vec{};
    }
    ++height;
  }
};

// --- weights with a scale for each 32 or, at 6 bits, 16 columns ---

struct GroupedTile {
  const uint8_t* codes;
  const uint16_t *scales, *mins;
  int zero;
  const uint8_t* unpacked;  // the codes as they lie at 8 bits, or null
};

// Lines that will be needed soon, so many of which are asked for with each group.
struct Ahead {
  const uint8_t* data;
  int lines;
};

// Of register r of a tile's rows, the scales of columns 16 * half .. of group g, or of the whole group.
template <int Bits>
EDGE_INLINE Vec scales_of(const GroupedTile& w, const uint8_t* codes, int g, int half, int r) {
  if (Bits != 6) return load(w.scales + g * kTile + r * kFloats);
  const int8_t* own = reinterpret_cast<const int8_t*>(codes + Bits * 128) + half * kTile;
  return load(own + r * kFloats) * load(w.scales + g * kGroup / kTernaryBlock * kTile + r * kFloats);
}

// R registers of rows times T tokens over all groups.
template <int Bits, bool Min, bool Unpacked, int T, int R>
static void grouped_block(const GroupedTile& w, int first, const Activations& x, int t0, float* y, int y_stride,
                          bool add, Ahead ahead) {
  using P = Product<Bits>;
  constexpr int kParts = Bits == 6 ? 2 : 1, kQuads = 8 / kParts;  // of a group, with scales of their own
  const uint8_t* codes = w.codes;
  const int unit = x.tree ? x.tree->unit / kGroup : x.groups;
  Branches<R, T> branches;
  Vec f[R][T];
#pragma GCC unroll 16
  for (int i = 0; i < R * T; ++i) f[i / T][i % T] = Vec{};
  for (int g = 0, left = unit; g < x.groups; ++g, codes += packed_bytes(Bits)) {
    for (int i = 0; i < ahead.lines; ++i, ahead.data += 64) __builtin_prefetch(ahead.data);
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      typename P::Acc acc[R][T];
      int offset[T];
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const int32_t* sums = x.sum + (size_t(t0 + t) * x.groups + g) * 2;
        offset[t] = -w.zero * (kParts == 2 ? sums[part] : sums[0] + sums[1]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][t] = P::start(offset[t]);
      }
#pragma GCC unroll 8
      for (int s = part * kQuads; s < (part + 1) * kQuads; ++s) {
        IntVec line[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          line[r] = Unpacked ? codes_of<8>(w.unpacked + g * 1024, first + r, s) : codes_of<Bits>(codes, first + r, s);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
          const IntVec quad = four_columns(x.q + (size_t(t0 + t) * x.groups + g) * kGroup + s * 4);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) acc[r][t] = P::dot(acc[r][t], line[r], quad);
        }
      }
      Vec scales[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) scales[r] = scales_of<Bits>(w, codes, g, part, first + r);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const size_t i = size_t(t0 + t) * x.groups + g;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Vec sums = __builtin_convertvector(P::widen(acc[r][t], offset[t]), Vec);
          f[r][t] = fused(sums, scales[r] * x.scale[i], f[r][t]);
          if (Min) f[r][t] = fused(load(w.mins + g * kTile + (first + r) * kFloats), splat(x.scaled_sum[i]), f[r][t]);
        }
      }
    }
    if (x.tree && (!--left || g + 1 == x.groups)) {
      branches.leaf(*x.tree, g / unit, g + 1 == x.groups, f);
      left = unit;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* out = y + size_t(t0 + t) * y_stride + (first + r) * kFloats;
      for (int root = 0; root < branches.height; ++root, out += x.root_stride)
        store(out, branches.waiting[root][r][t]);
      store(out, add ? load(out) + f[r][t] : f[r][t]);
    }
}

// Registers of rows for a block of some tokens: all of a tile for one token, so that the weights are one stream.
constexpr int block_rows(int tokens, int sums) {
  int rows = kRegisters;
  while (rows > kBlockRows && rows * tokens * sums > kAccumulators) rows /= 2;
  return rows;
}
constexpr int kGroupedTokens = kAccumulators / (2 * kBlockRows);  // int32 and float sums
constexpr int kTernaryTokens = kAccumulators / kBlockRows;

// All registers of rows, in one or more passes; `pass` counts those of all tokens, each of which asks for its part.
template <int Bits, bool Min, bool Unpacked, int T>
static void grouped_rows(const GroupedTile& w, const Activations& x, int t, float* y, int y_stride, bool add,
                         const Ahead& ahead, int& pass) {
  constexpr int kRows = block_rows(T, 2);
  for (int r = 0; r < kRegisters; r += kRows, ++pass) {
    const Ahead part{ahead.data + size_t(pass) * x.groups * ahead.lines * 64, ahead.lines};
    grouped_block<Bits, Min, Unpacked, T, kRows>(w, r, x, t, y, y_stride, add, part);
  }
}

// With many tokens a tile is read from memory once, but multiplied several times: meanwhile the next one is asked for.
template <int Bits, bool Min, bool Unpacked, int... T>
static void grouped_tile(const GroupedTile& w, const Activations& x, int n, float* y, int y_stride, bool add,
                         std::integer_sequence<int, T...>) {
  static constexpr decltype(&grouped_rows<Bits, Min, Unpacked, 1>) run[] = {
      grouped_rows<Bits, Min, Unpacked, T + 1>...};
  constexpr int kLines = packed_bytes(Bits) / 64;
  const int tokens = block_tokens(n, kGroupedTokens);
  const int passes = (n + tokens - 1) / tokens * (kRegisters / block_rows(tokens, 2));
  const size_t distance = passes > 1 ? size_t(x.groups) * packed_bytes(Bits) : kAhead;
  const Ahead ahead{w.codes + distance, (kLines + passes - 1) / passes};
  for (int t = 0, pass = 0; t < n; t += tokens)
    run[std::min(tokens, n - t) - 1](w, x, t, y, y_stride, add, ahead, pass);
}

static void unpack_six_bits(const uint8_t* codes, int groups, uint8_t* out) {
  for (int g = 0; g < groups; ++g, codes += packed_bytes(6), out += 1024)
#pragma GCC unroll 8
    for (int r = 0; r < kRegisters; ++r)
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s)
        *reinterpret_cast<IntVecAny*>(out + r / kPerLine * 512 + s * 64 + r % kPerLine * (4 * kFloats)) =
            codes_of<6>(codes, r, s);
}

static void multiply(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride,
                     bool add, uint8_t* scratch) {
  constexpr std::make_integer_sequence<int, kGroupedTokens> kTokens{};
  // Two passes over six bits cost less than unpacking them.
  const uint8_t* unpacked = w.bits == 6 && n > 2 * kGroupedTokens ? scratch : nullptr;
  for (int tile = begin; tile < end; ++tile) {
    const size_t at = size_t(tile) * w.scale_groups() * kTile;
    const GroupedTile t{w.tile_codes(tile), w.scales.data() + at, w.has_min ? w.mins.data() + at : nullptr, w.zero,
                        unpacked};
    if (unpacked) unpack_six_bits(t.codes, w.groups, scratch);
    float* out = y + tile * kTile;
    if (w.bits == 8)
      grouped_tile<8, false, false>(t, x, n, out, y_stride, add, kTokens);
    else if (unpacked)
      grouped_tile<6, false, true>(t, x, n, out, y_stride, add, kTokens);
    else if (w.bits == 6)
      grouped_tile<6, false, false>(t, x, n, out, y_stride, add, kTokens);
    else if (w.has_min)
      grouped_tile<4, true, false>(t, x, n, out, y_stride, add, kTokens);
    else
      grouped_tile<4, false, false>(t, x, n, out, y_stride, add, kTokens);
  }
}

// --- ternary weights ---

// Adds the sums of one register of rows over columns that share a scale, and finishes the product after the last ones.
EDGE_INLINE void add_sums(const Matrix& w, const TokenActivations& x, IntVec sum, int row, int t, int block,
                          Vec& total) {
  sum -= x.sum[size_t(t) * x.blocks + block];
  const uint16_t* scales = w.scales.data() + (size_t(row / kTile) * x.blocks + block) * kTile + row % kTile;
  total = fused(__builtin_convertvector(sum, Vec), load(scales), total);
}

// Lines that registers [first, first + R) of a tile will need soon.
template <int R>
EDGE_INLINE void prefetch_ternary(const uint8_t* group, int first) {
  constexpr int kLines = R < kPerLine ? 2 : 2 * R / kPerLine;
  const uint8_t* p = group + first / kPerLine * 128 + kAhead;
#pragma GCC unroll 4
  for (int i = 0; i < kLines; ++i) __builtin_prefetch(p + i * 64);
}

// R registers of rows, from register `first` of a tile, times T tokens, straight from the packed codes.
template <bool Uniform, int T, int R>
static void ternary_block(const Matrix& w, int tile, int first, const TokenActivations& x, int t0, float* y,
                          int y_stride, bool add) {
  using P = Product<2>;
  constexpr int kChains = T * R * 4 <= kAccumulators ? 4 : T * R * 2 <= kAccumulators ? 2 : 1;  // of dependent sums
  constexpr int kStep = kTernaryBlock / kGroup;
  constexpr bool kInPlace = P::kInPlace && kChains == 4;  // each place of the byte has sums of its own
  constexpr bool kWhole = Uniform && !P::kNarrow;
  const uint8_t* codes = w.tile_codes(tile);
  const int8_t* q = (T == 1 ? x.q : x.blocked) + size_t(t0) * x.cols();
  IntVec totals[R][T];
  Vec floats[R][T];
  Branches<Uniform ? 1 : R, Uniform ? 1 : T> branches;
#pragma GCC unroll 32
  for (int i = 0; i < R * T; ++i) {
    totals[i / T][i % T] = IntVec{} - x.total[t0 + i % T];
    floats[i / T][i % T] = Vec{};
  }
  for (int g = 0; g < w.groups;) {
    typename P::Acc acc[R][T][kChains];
#pragma GCC unroll 32
    for (int i = 0; i < R * T * kChains; ++i) acc[i / (T * kChains)][i / kChains % T][i % kChains] = P::start(0);
    const int begin = g, stop = kWhole ? w.groups : std::min(g + kStep, w.groups);
    for (; g < stop; ++g, codes += 256) {
      prefetch_ternary<R>(codes, first);
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s, q += 4 * T) {
        IntVec line[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          line[r] = kInPlace ? codes_in_place(codes, first + r, s) : codes_of<2>(codes, first + r, s);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
          const IntVec quad = four_columns(q + 4 * t);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) acc[r][t][s % kChains] = P::dot(acc[r][t][s % kChains], line[r], quad);
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        IntVec sum = P::widen(acc[r][t][0], 0);
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sum += P::widen(acc[r][t][c], 0) >> (kInPlace ? 2 * c : 0);
        if (Uniform)
          totals[r][t] += sum;
        else
          add_sums(w, x, sum, tile * kTile + (first + r) * kFloats, t0 + t, begin / kStep, floats[r][t]);
      }
    if constexpr (!Uniform)
      if (x.tree && (g * kGroup % x.tree->unit == 0 || g == w.groups))
        branches.leaf(*x.tree, begin * kGroup / x.tree->unit, g == w.groups, floats);
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* out = y + size_t(t0 + t) * y_stride + tile * kTile + (first + r) * kFloats;
      if constexpr (!Uniform)
        for (int root = 0; root < branches.height; ++root, out += x.root_stride)
          store(out, branches.waiting[root][r][t] * x.scale[t0 + t]);
      const Vec sum = Uniform ? __builtin_convertvector(totals[r][t], Vec) * w.scale : floats[r][t];
      store(out, fused(sum, splat(x.scale[t0 + t]), add ? load(out) : Vec{}));
    }
}

template <bool Uniform, int T>
static void ternary_rows(const Matrix& w, int tile, const TokenActivations& x, int t, float* y, int y_stride,
                         bool add) {
  constexpr int kRows = T == 1 ? kRegisters < 4 ? kRegisters : 4 : kBlockRows;  // one token: one stream of weights
  for (int r = 0; r < kRegisters; r += kRows) ternary_block<Uniform, T, kRows>(w, tile, r, x, t, y, y_stride, add);
}

template <bool Uniform, int... T>
static void ternary_tiles(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y,
                          int y_stride, bool add, std::integer_sequence<int, T...>) {
  static constexpr decltype(&ternary_rows<Uniform, 1>) run[] = {ternary_rows<Uniform, T + 1>...};
  const int tokens = block_tokens(n, kTernaryTokens);
  for (int t = 0; t < n; t += tokens)
    for (int tile = begin; tile < end; ++tile) run[std::min(tokens, n - t) - 1](w, tile, x, t, y, y_stride, add);
}

// Some tiles at a time, whose codes stay in the second-level cache, so that activations are read seldom.
static void ternary_dot(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                        bool add, uint8_t*) {
  constexpr std::make_integer_sequence<int, kTernaryTokens> kTokens{};
  const int step = std::max(1, kCodeBytes / (w.groups * w.group_bytes()));
  for (int tile = begin; tile < end; tile += step) {
    const int stop = std::min(end, tile + step);
    if (w.scales.size())
      ternary_tiles<false>(w, tile, stop, x, n, y, y_stride, add, kTokens);
    else
      ternary_tiles<true>(w, tile, stop, x, n, y, y_stride, add, kTokens);
  }
}

// --- dense weights: repacked to 2 bits, a tile at a time ---

typedef uint16_t WordVec __attribute__((vector_size(4 * kFloats)));

// Of bytes of 5 trits, in lanes of 16 bits: the trits at 2 bits each.
EDGE_INLINE WordVec five_codes(const WordVec& bytes) {
  WordVec left = bytes, codes{};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const WordVec third = left * 171 >> 9;  // exact below 384
    codes |= (left - third * 3) << 2 * i;
    left = third;
  }
  return codes | left << 8;
}

// Lines of 16 columns, of which 5 are as long as the 4 dense ones that `p` has the codes of.
EDGE_INLINE WordVec two_bit_line(const WordVec* p, int line) {
  switch (line) {
    case 0:
      return p[0] & 255;
    case 1:
      return p[0] >> 8 | (p[1] & 63) << 2;
    case 2:
      return p[1] >> 6 | (p[2] & 15) << 4;
    case 3:
      return p[2] >> 4 | (p[3] & 3) << 6;
    default:
      return p[3] >> 2;
  }
}

static void two_bit_tile(const Matrix& w, int tile, uint8_t* out) {
  constexpr int kBytes = kTile * 4;  // of a dense line
  const uint8_t* codes = w.tile_codes(tile);
  const int lines = w.groups * 2, dense_lines = w.dense_lines();
  for (int line = 0, dense = 0; dense < dense_lines; line += 5, dense += 4, codes += 4 * kBytes)
    for (int i = 0; i < kBytes; i += 4 * kFloats) {
      WordVec even[4], odd[4];
#pragma GCC unroll 4
      for (int d = 0; d < 4; ++d) {
        const WordVec both = dense + d < dense_lines ? (WordVec)load_int(codes + d * kBytes + i) : WordVec{};
        even[d] = five_codes(both & 255);
        odd[d] = five_codes(both >> 8);
      }
#pragma GCC unroll 5
      for (int l = 0; l < 5; ++l) {
        if (line + l >= lines) break;
        const WordVec bytes = two_bit_line(even, l) | two_bit_line(odd, l) << 8;
        *reinterpret_cast<IntVecAny*>(out + (line + l) / 2 * 256 + i / 64 * 128 + (line + l) % 2 * 64 + i % 64) =
            (IntVec)bytes;
      }
    }
}

[[maybe_unused]] static void dense_dot(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y,
                                       int y_stride, bool add, uint8_t* scratch) {
  multiply_unpacked(w, begin, end, x, n, y, y_stride, add, scratch, two_bit_tile, ternary_dot);
}

// --- the bound of the above, for measurements ---

static long product_peak(long steps) {
  using P = Product<2>;
  IntVec codes = IntVec{} + 0x01010101, quad = IntVec{} + 0x02020202;
  P::Acc acc[kAccumulators];
#pragma GCC unroll 24
  for (int j = 0; j < kAccumulators; ++j) acc[j] = P::start(0);
  for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kAccumulators; ++j) {
      P::keep(quad);  // the compiler must not see that nothing changes
      acc[j] = P::dot(acc[j], codes, quad);
      P::keep(acc[j]);
    }
  }
  return steps * kAccumulators * 4 * kFloats;
}
