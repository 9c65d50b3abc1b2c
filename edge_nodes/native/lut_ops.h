// SPDX-License-Identifier: Apache-2.0
// Vector look-up tables for ternary weights (Vec-LUT, arXiv 2512.06443): one table serves 32 tokens, and one index
// fetches one row of 32 sums. Included by each kernels_*.cpp like float_ops.h; the includer also defines
//   lut_offsets(line, out): 16 rows x 16 columns of packed codes -> for each row, 4 byte offsets of 16 bits.

typedef int16_t ShortVec __attribute__((vector_size(4 * kFloats)));
typedef int16_t ShortVecAny __attribute__((vector_size(4 * kFloats), aligned(2), may_alias));
constexpr int kParts = kTableTokens * 2 / (4 * kFloats);  // registers of one row of a table
constexpr int kPatterns = 81;                             // of 4 ternary weights
constexpr int kTable = kPatterns * kTableTokens;

struct LutRow {
  ShortVec part[kParts];
};

EDGE_INLINE LutRow load_lut(const void* p) {
  LutRow row;
  for (int i = 0; i < kParts; ++i) row.part[i] = static_cast<const ShortVec*>(p)[i];
  return row;
}
EDGE_INLINE void store_lut(void* p, const LutRow& row) {
  for (int i = 0; i < kParts; ++i) static_cast<ShortVec*>(p)[i] = row.part[i];
}
EDGE_INLINE void add_lut(LutRow& a, const LutRow& b) {
  for (int i = 0; i < kParts; ++i) a.part[i] += b.part[i];
}

EDGE_INLINE LutRow add_rows(const LutRow& a, const LutRow& b) {
  LutRow sum = a;
  add_lut(sum, b);
  return sum;
}

EDGE_INLINE LutRow widen_column(const int8_t* column) {
  typedef int8_t Bytes __attribute__((vector_size(2 * kFloats)));
  LutRow row;
  for (int p = 0; p < kParts; ++p) {
    Bytes part;
    std::memcpy(&part, column + p * 2 * kFloats, sizeof part);
    row.part[p] = __builtin_convertvector(part, ShortVec);
  }
  return row;
}

// Sums of every pattern of 4 weights (-1, 0, 1; the first is the least significant digit) with 4 columns of
// activations: each entry is one addition away from two that are there already.
static void build_table(const int8_t* columns, int16_t* table) {
  LutRow pairs[2][9];  // patterns of columns 0 and 1, and of 2 and 3
  for (int half = 0; half < 2; ++half) {
    const LutRow a = widen_column(columns + 2 * half * kTableTokens);
    const LutRow b = widen_column(columns + (2 * half + 1) * kTableTokens);
    for (int p = 0; p < kParts; ++p) {
      const ShortVec& x = a.part[p];
      const ShortVec& y = b.part[p];
      const ShortVec rows[9] = {-x - y, -y, x - y, -x, ShortVec{}, x, y - x, y, x + y};
      for (int i = 0; i < 9; ++i) pairs[half][i].part[p] = rows[i];
    }
  }
  for (int high = 0; high < 9; ++high)
    for (int low = 0; low < 9; ++low, table += kTableTokens) store_lut(table, add_rows(pairs[0][low], pairs[1][high]));
}

EDGE_INLINE void add_entry(LutRow& sum, const int16_t* table, uint32_t offset) {
  add_lut(sum, load_lut(reinterpret_cast<const char*>(table) + offset));
}

// int32 sums of a row: of each register of int16 sums the even tokens, then the odd ones.
constexpr int total_of(int token) {
  return token / (2 * kFloats) * 2 * kFloats + token % 2 * kFloats + token % (2 * kFloats) / 2;
}
EDGE_INLINE void add_total(int32_t* totals, const LutRow& sum) {
  for (int p = 0; p < kParts; ++p, totals += 2 * kFloats) {
    const IntVec both = (IntVec)sum.part[p];
    IntVec* out = reinterpret_cast<IntVec*>(totals);
    out[0] += both << 16 >> 16;
    out[1] += both >> 16;
  }
}

struct LutSums {
  int16_t* narrow;
  int32_t* wide;
  int rows;
};

// Adds to each row's sums the table rows that its offsets name: 4 of `four`, and with `Six` 2 more. The first pass over
// some columns begins the int16 sums, the last one adds them to the int32 sums.
template <bool Six, bool First, bool Last>
static void look_up(const int16_t* tables, const uint64_t* four, const uint32_t* two, const LutSums& sums) {
  int16_t* narrow = sums.narrow;
  int32_t* wide = sums.wide;
  for (int r = 0; r < sums.rows; ++r, narrow += kTableTokens, wide += kTableTokens) {
    const uint64_t a = four[r];
    LutRow sum = load_lut(reinterpret_cast<const char*>(tables) + uint16_t(a));
    if (!First) add_lut(sum, load_lut(narrow));
    add_entry(sum, tables + kTable, uint16_t(a >> 16));
    add_entry(sum, tables + 2 * kTable, uint16_t(a >> 32));
    add_entry(sum, tables + 3 * kTable, uint16_t(a >> 48));
    if (Six) {
      const uint32_t b = two[2 * r];
      add_entry(sum, tables + 4 * kTable, uint16_t(b));
      add_entry(sum, tables + 5 * kTable, uint16_t(b >> 16));
    }
    if (Last)
      add_total(wide, sum);
    else
      store_lut(narrow, sum);
  }
}

template <bool Six>
static void look_up(bool first, bool last, const int16_t* tables, const uint64_t* four, const uint32_t* two,
                    const LutSums& sums) {
  const auto run = first ? (last ? look_up<Six, true, true> : look_up<Six, true, false>)
                         : (last ? look_up<Six, false, true> : look_up<Six, false, false>);
  run(tables, four, two, sums);
}

// Adds the products of `lines` lines (16 columns each); tables are streamed, six of them alive at a time.
static void sum_lines(const int8_t* columns, int lines, const uint64_t* offsets, size_t stride, int16_t* tables,
                      const LutSums& sums) {
  constexpr int kColumns = 4 * kTableTokens;  // activations of one table
  const auto build = [&](int first, int count) {
    for (int i = first; i < first + count; ++i, columns += kColumns) build_table(columns, tables + i * kTable);
  };
  for (int line = 0; line < lines;) {
    const bool first = line == 0;
    const uint64_t* four = offsets + line * stride;
    build(0, 4);
    if (line + 3 > lines) {
      look_up<false>(first, ++line == lines, tables, four, nullptr, sums);
      continue;
    }
    const uint64_t* next = four + stride;
    const uint32_t* halves = reinterpret_cast<const uint32_t*>(next);
    build(4, 2);
    look_up<true>(first, false, tables, four, halves, sums);
    build(4, 2);
    build(0, 4);
    line += 3;
    look_up<true>(false, line == lines, tables, next + stride, halves + 1, sums);
  }
}

// floats[row][t] = totals * scale of the row in this block + floats; totals become 0.
static void scale_block(const Matrix& w, int begin, int rows, int block, int32_t* totals, float* floats) {
  for (int r = 0; r < rows; ++r, totals += kTableTokens, floats += kTableTokens) {
    const float s = half_to_float(w.scales[(size_t(begin + r / kTile) * w.blocks() + block) * kTile + r % kTile]);
    for (int t = 0; t < kTableTokens; ++t) floats[t] = multiply_add(float(totals[t]), s, floats[t]);
    std::memset(totals, 0, kTableTokens * sizeof(int32_t));
  }
}

static void finish_lut(const Matrix& w, int rows, const int32_t* totals, const float* floats, const float* scale,
                       int tokens, float* y, int y_stride, bool add) {
  const bool uniform = !w.scales.size();
  for (int first = 0; first < rows; first += kLanes)  // a block of sums stays in the first-level cache
    for (int t = 0; t < tokens; ++t) {
      float* out = y + size_t(t) * y_stride + first;
      const size_t at = size_t(first) * kTableTokens + total_of(t);
      for (int r = 0; r < kLanes; ++r) {
        const size_t i = at + size_t(r) * kTableTokens;
        const float sum = uniform ? float(totals[i]) * w.scale : floats[i];
        out[r] = multiply_add(sum, scale[t], add ? out[r] : 0.0f);
      }
    }
}

// Lines whose sums fit in int16, as equal as they come, up to where the scale changes.
static int lut_lines(const Matrix& w, int line) {
  constexpr int kBlockLines = kTernaryBlock / 16;
  const int lines = w.groups * 2;
  const int left = (w.scales.size() ? std::min(lines, (line / kBlockLines + 1) * kBlockLines) : lines) - line;
  return left > 2 * kLutLines ? kLutLines : block_tokens(left, kLutLines);
}

// Offsets of a tile's rows for lines [begin, end): out[(line - begin) * stride + row].
static void unpack_offsets(const uint8_t* codes, int begin, int end, uint64_t* out, size_t stride) {
  constexpr int kNext = kLutLines * 128;  // the codes of the next lines are far from those of the tile's neighbours
  for (int line = begin; line < end; ++line, out += stride)
    for (int half = 0; half < kTile / kLanes; ++half) {
      const uint8_t* p = codes + size_t(line / 2) * 256 + half * 128 + line % 2 * 64;
      __builtin_prefetch(p + kNext);
      lut_offsets(p, out + half * kLanes);
    }
}

// Sets of 32 tokens share the unpacked offsets of 240 columns; each set has its own sums.
static void lut_rows(const Matrix& w, int begin, int rows, const TokenActivations& x, int t0, int sets, int n, float* y,
                     int y_stride, bool add, uint8_t* scratch) {
  const bool uniform = !w.scales.size();
  constexpr int kBlockLines = kTernaryBlock / 16;
  const size_t size = size_t(rows) * kTableTokens;
  int16_t* tables = reinterpret_cast<int16_t*>(scratch);
  uint64_t* offsets = reinterpret_cast<uint64_t*>(scratch + size_t(kTableRows) * 64);
  const size_t stride = size_t(rows) + kLutPadding;
  int16_t* narrow = reinterpret_cast<int16_t*>(offsets + stride * kLutLines);
  int32_t* totals = reinterpret_cast<int32_t*>(narrow + size);
  float* floats = reinterpret_cast<float*>(totals + size * sets);
  std::memset(totals, 0, size * sets * sizeof(int32_t));
  if (!uniform) std::memset(floats, 0, size * sets * sizeof(float));
  for (int line = 0, stop; line < w.groups * 2; line = stop) {
    stop = line + lut_lines(w, line);
    for (int r = 0; r < rows; r += kTile)
      unpack_offsets(w.tile_codes(begin + r / kTile), line, stop, offsets + r, stride);
    const bool scale = !uniform && (stop % kBlockLines == 0 || stop == w.groups * 2);
    for (int s = 0; s < sets; ++s) {
      const int8_t* columns = x.columns + (size_t(t0 + s * kTableTokens) * x.cols()) + size_t(line) * 16 * kTableTokens;
      sum_lines(columns, stop - line, offsets, stride, tables, {narrow, totals + size * s, rows});
      if (scale) scale_block(w, begin, rows, line / kBlockLines, totals + size * s, floats + size * s);
    }
  }
  for (int s = 0; s < sets; ++s) {
    const int t = t0 + s * kTableTokens;
    finish_lut(w, rows, totals + size * s, floats + size * s, x.scale + t, std::min(kTableTokens, n - t),
               y + size_t(t) * y_stride + begin * kTile, y_stride, add);
  }
}

static void ternary_lut(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                        bool add, uint8_t* scratch) {
  const int sets = (n + kTableTokens - 1) / kTableTokens;
  for (int s = 0; s < sets; s += kLutGroups)
    lut_rows(w, begin, (end - begin) * kTile, x, s * kTableTokens, std::min(kLutGroups, sets - s), n, y, y_stride, add,
             scratch);
}

// --- dense weights: 5 columns to an index, which is the byte itself ---

constexpr int kDensePatterns = 243;  // of 5 ternary weights; two tables of them fit in the first-level cache
constexpr int kDenseTable = kDensePatterns * kTableTokens;
constexpr int kDenseLines = 12;  // lines of 20 columns summed in int16

// Sums of every pattern of `left` columns, 4 apart; missing columns are zero. The 27 of the first three and the 9 of
// the others are made one addition at a time, then each pair of them is added.
static void build_dense_table(const int8_t* columns, int left, int16_t* table) {
  LutRow low[27], high[9];
  LutRow* const parts[2] = {low, high};
  for (int half = 0, i = 0; half < 2; ++half) {
    LutRow* rows = parts[half];
    rows[0] = LutRow{};
    for (int done = 1; done < (half ? 9 : 27); done *= 3, ++i) {
      const LutRow y = i < left ? widen_column(columns + i * 4 * kTableTokens) : LutRow{};
      for (int e = 0; e < done; ++e) {  // the digits -1, 0 and 1: less y, as it is, more y
        rows[e + done] = rows[e];
        rows[e + 2 * done] = add_rows(rows[e], y);
        for (int p = 0; p < kParts; ++p) rows[e].part[p] -= y.part[p];
      }
    }
  }
  for (const LutRow& h : high)
    for (const LutRow& l : low) {
      store_lut(table, add_rows(l, h));
      table += kTableTokens;
    }
}

// As look_up, for bytes 2 * pair and 2 * pair + 1 of a line.
template <bool First, bool Last>
static void look_up_dense(const Matrix& w, int begin, int line, int pair, const int16_t* tables, const LutSums& sums) {
  for (int r = 0; r < sums.rows; r += kTile) {
    const uint8_t* codes = w.tile_codes(begin + r / kTile) + size_t(line) * kTile * 4 + pair * 2;
    __builtin_prefetch(codes + kTile * 8);
    int16_t* narrow = sums.narrow + size_t(r) * kTableTokens;
    int32_t* wide = sums.wide + size_t(r) * kTableTokens;
    for (int i = 0; i < kTile; ++i, narrow += kTableTokens, wide += kTableTokens) {
      LutRow sum = load_lut(tables + codes[4 * i] * kTableTokens);
      add_lut(sum, load_lut(tables + kDenseTable + codes[4 * i + 1] * kTableTokens));
      if (!First) add_lut(sum, load_lut(narrow));
      if (Last)
        add_total(wide, sum);
      else
        store_lut(narrow, sum);
    }
  }
}

static void dense_lut(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                      bool add, uint8_t* scratch) {
  const int rows = (end - begin) * kTile, lines = w.dense_lines();
  int16_t* tables = reinterpret_cast<int16_t*>(scratch);
  const LutSums sums{tables + 2 * kDenseTable, reinterpret_cast<int32_t*>(tables + 2 * kDenseTable + rows * kTableTokens),
                     rows};
  for (int t = 0; t < n; t += kTableTokens) {
    std::memset(sums.wide, 0, size_t(rows) * kTableTokens * sizeof(int32_t));
    for (int line = 0; line < lines; ++line)
      for (int pair = 0; pair < 2; ++pair) {
        for (int j = 0; j < 2; ++j) {
          const int column = line * kDenseColumns + pair * 2 + j;
          build_dense_table(x.columns + size_t(t) * x.cols() + size_t(column) * kTableTokens,
                            (x.cols() - column + 3) / 4, tables + j * kDenseTable);
        }
        const bool first = line % kDenseLines == 0 && pair == 0;
        const bool last = pair == 1 && (line % kDenseLines == kDenseLines - 1 || line + 1 == lines);
        (first ? look_up_dense<true, false> : last ? look_up_dense<false, true> : look_up_dense<false, false>)(
            w, begin, line, pair, tables, sums);
      }
    finish_lut(w, rows, sums.wide, nullptr, x.scale + t, std::min(kTableTokens, n - t),
               y + size_t(t) * y_stride + begin * kTile, y_stride, add);
  }
}

// --- the bounds of the above, for measurements ---

static int table_rows(const int16_t* table, const uint64_t* offsets, int count) {
  LutRow sums[4] = {};
  for (const uint64_t* end = offsets + count / 4; offsets != end; ++offsets)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) add_entry(sums[j], table, uint16_t(*offsets >> 16 * j));
  int total = 0;
  for (const LutRow& sum : sums)
    for (const ShortVec& part : sum.part) total += part[0];  // of every register, or its loads would be left out
  return total;
}

static uint64_t read_memory(const uint8_t* data, size_t bytes) {
  IntVec sums[8] = {};
  constexpr size_t kStep = sizeof sums;
  for (size_t i = 0; i + kStep <= bytes; i += kStep) {
    __builtin_prefetch(data + i + 4096);
    for (int j = 0; j < 8; ++j) sums[j] += reinterpret_cast<const IntVec*>(data + i)[j];
  }
  for (int j = 1; j < 8; ++j) sums[0] += sums[j];
  return uint64_t(uint32_t(sums[0][0]));
}
