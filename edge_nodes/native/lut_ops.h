// SPDX-License-Identifier: Apache-2.0
// Vector look-up tables for ternary weights (Vec-LUT, arXiv 2512.06443): one table serves 32 tokens, and one index
// fetches one row of 32 sums. Included by each kernels_*.cpp like float_ops.h; the includer also defines
//   lut_offsets(line, out, stride): 16 rows x 16 columns of packed codes -> for each row, 4 byte offsets of 16 bits.

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

// Sums of every pattern of 4 weights (-1, 0, 1; the first is the least significant digit) with 4 columns of
// activations: from the pattern of all -1, each entry is one addition away from one that is there already.
static void build_table(const int8_t* columns, int16_t* table) {
  LutRow y[4], least{};
  for (int i = 0; i < 4; ++i) {
    int16_t wide[kTableTokens];
    for (int t = 0; t < kTableTokens; ++t) wide[t] = columns[i * kTableTokens + t];
    for (int p = 0; p < kParts; ++p) {
      y[i].part[p] = *reinterpret_cast<const ShortVecAny*>(wide + p * 2 * kFloats);
      least.part[p] -= y[i].part[p];
    }
  }
  store_lut(table, least);
  for (int i = 0, done = 1; i < 4; ++i, done *= 3)
    for (int e = 0; e < done; ++e) {
      LutRow row = load_lut(table + e * kTableTokens);
      add_lut(row, y[i]);
      store_lut(table + (e + done) * kTableTokens, row);
      add_lut(row, y[i]);
      store_lut(table + (e + 2 * done) * kTableTokens, row);
    }
}

EDGE_INLINE void add_entry(LutRow& sum, const int16_t* table, uint32_t offset) {
  add_lut(sum, load_lut(reinterpret_cast<const char*>(table) + offset));
}

// sums[r] += the rows that the offsets name: 4 of `four`, and with `two` 2 more.
template <bool Six>
static void look_up(const int16_t* tables, const uint64_t* four, const uint32_t* two, int rows, int16_t* sums) {
  for (int r = 0; r < rows; ++r, sums += kTableTokens) {
    const uint64_t a = four[r];
    LutRow sum = load_lut(sums);
    add_entry(sum, tables, uint16_t(a));
    add_entry(sum, tables + kTable, uint16_t(a >> 16));
    add_entry(sum, tables + 2 * kTable, uint16_t(a >> 32));
    add_entry(sum, tables + 3 * kTable, uint16_t(a >> 48));
    if (Six) {
      const uint32_t b = two[2 * r];
      add_entry(sum, tables + 4 * kTable, uint16_t(b));
      add_entry(sum, tables + 5 * kTable, uint16_t(b >> 16));
    }
    store_lut(sums, sum);
  }
}

// int16 sums of `lines` lines (16 columns each) for all rows; tables are streamed, six of them alive at a time.
static void sum_lines(const int8_t* columns, int lines, const uint64_t* offsets, int rows, int16_t* tables,
                      int16_t* sums) {
  constexpr int kColumns = 4 * kTableTokens;  // activations of one table
  std::memset(sums, 0, size_t(rows) * kTableTokens * sizeof(int16_t));
  int line = 0;
  for (; line + 3 <= lines; line += 3, offsets += 3 * size_t(rows)) {
    const uint64_t *first = offsets, *second = first + rows, *third = second + rows;
    const uint32_t* halves = reinterpret_cast<const uint32_t*>(second);
    for (int i = 0; i < 6; ++i, columns += kColumns) build_table(columns, tables + i * kTable);
    look_up<true>(tables, first, halves, rows, sums);
    for (int i = 0; i < 2; ++i, columns += kColumns) build_table(columns, tables + (4 + i) * kTable);
    for (int i = 0; i < 4; ++i, columns += kColumns) build_table(columns, tables + i * kTable);
    look_up<true>(tables, third, halves + 1, rows, sums);
  }
  for (; line < lines; ++line, offsets += rows) {
    for (int i = 0; i < 4; ++i, columns += kColumns) build_table(columns, tables + i * kTable);
    look_up<false>(tables, offsets, nullptr, rows, sums);
  }
}

static void widen_sums(const int16_t* sums, int rows, int32_t* totals) {
  for (int i = 0; i < rows * kTableTokens; ++i) totals[i] += sums[i];
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
      const size_t at = size_t(first) * kTableTokens + t;
      for (int r = 0; r < kLanes; ++r) {
        const size_t i = at + size_t(r) * kTableTokens;
        const float sum = uniform ? float(totals[i]) * w.scale : floats[i];
        out[r] = multiply_add(sum, scale[t], add ? out[r] : 0.0f);
      }
    }
}

// Sets of 32 tokens share the unpacked offsets of 240 columns; each set has its own sums.
static void lut_rows(const Matrix& w, int begin, int rows, const TokenActivations& x, int t0, int sets, int n, float* y,
                     int y_stride, bool add, uint8_t* scratch) {
  const bool uniform = !w.scales.size();
  int16_t* tables = reinterpret_cast<int16_t*>(scratch);
  uint64_t* offsets = reinterpret_cast<uint64_t*>(scratch + size_t(kTableRows) * 64);
  int16_t* sums = reinterpret_cast<int16_t*>(offsets + size_t(rows) * kLutLines);
  int32_t* totals = reinterpret_cast<int32_t*>(sums + size_t(rows) * kTableTokens);
  const size_t size = size_t(rows) * kTableTokens;
  float* floats = reinterpret_cast<float*>(totals + size * sets);
  std::memset(totals, 0, size * sets * sizeof(int32_t));
  if (!uniform) std::memset(floats, 0, size * sets * sizeof(float));
  const int lines = w.groups * 2;
  for (int line = 0; line < lines;) {
    constexpr int kBlockLines = kTernaryBlock / 16;
    const int limit = uniform ? lines : (line / kBlockLines + 1) * kBlockLines;
    const int stop = std::min({line + kLutLines, limit, lines});
    for (int l = line; l < stop; ++l)
      for (int r = 0; r < rows; r += kLanes) {
        const uint8_t* group = w.tile_codes(begin + r / kTile) + size_t(l / 2) * w.group_bytes();
        lut_offsets(group + r % kTile / kLanes * 128 + l % 2 * 64, offsets + size_t(l - line) * rows + r);
      }
    for (int s = 0; s < sets; ++s) {
      const int8_t* columns = x.columns + (size_t(t0 + s * kTableTokens) * x.cols()) + size_t(line) * 16 * kTableTokens;
      sum_lines(columns, stop - line, offsets, rows, tables, sums);
      widen_sums(sums, rows, totals + size * s);
      if (!uniform && (stop == limit || stop == lines))
        scale_block(w, begin, rows, line / kBlockLines, totals + size * s, floats + size * s);
    }
    line = stop;
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

// --- the bounds of the above, for measurements ---

static int table_rows(const int16_t* table, const uint32_t* offsets, int count) {
  LutRow sums[4] = {};
  for (int i = 0; i + 4 <= count; i += 4)
    for (int j = 0; j < 4; ++j) add_entry(sums[j], table, offsets[i + j]);
  for (int j = 1; j < 4; ++j) add_lut(sums[0], sums[j]);
  return sums[0].part[0][0];
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
