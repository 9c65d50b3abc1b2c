// SPDX-License-Identifier: Apache-2.0
// Kernels of coded keys, written once; each delta_*.cpp includes this after float_ops.h in a namespace of its own, and
// defines before: kCodeZero, kFineZero; expand(mask, codes, line), which returns the next codes; compress(line, codes),
// which returns the mask; running_sums(x, scale, base); products<Rows, Tiles, Fine>(lines, quads, codes, low, out):
// out[row][16 * tile + key] = sum of code * change; kSpreadsInRegisters, and if so spread_products, the same of packed
// changes.

constexpr int kMostQuads = 256;  // head_dim 1024
constexpr int kMostRows = 6;
constexpr size_t kSecondLevel = 1 << 19;  // bytes that surely stay in the second-level cache

static int code_key(const float* key, const float* theta, const float* step, int dim, bool full, int32_t* reference,
                    int32_t* change) {
  int zeros = 0;
  const int32_t always = full ? -1 : 0;
  for (int c = 0; c < dim; ++c) {
    const float exact = key[c] / step[c], off = key[c] - float(reference[c]) * step[c];
    const int32_t code = int32_t(exact + (exact < 0.0f ? -0.5f : 0.5f));
    const int32_t far = (off < 0.0f ? -off : off) > theta[c] ? -1 : 0;
    const int32_t d = (code - reference[c]) & (far | always);
    change[c] = d;
    reference[c] += d;
    zeros += d == 0;
  }
  return zeros;
}

static int pack_tile(const int8_t* lines, int quads, uint64_t* masks, int8_t* codes) {
  int8_t* next = codes;
  for (int k = 0; k < quads; ++k) {
    masks[k] = compress(lines + k * 64, next);
    next += __builtin_popcountll(masks[k]);
  }
  return int(next - codes);
}

static void code_queries(const Attention& a, const float* step, const CodedQueries& x) {
  float scaled[4 * kMostQuads];
  const float most_code = x.fine ? 8191.0f : 127.0f, offset = x.fine ? 8192.5f : 128.5f;
  for (int r = 0; r < x.rows; ++r) {
    const float* q = a.q + a.row(r);
    Vec most{};
    for (int i = 0; i < a.head_dim; i += kFloats) {
      const Vec v = step ? load(q + i) * load(step + i) : load(q + i);
      most = larger(most, larger(v, -v));
      store(scaled + i, v);
    }
    const float largest = max_lanes(most), inverse = largest > 0.0f ? most_code / largest : 0.0f;
    x.scale[r] = largest / most_code;
    uint8_t* codes = reinterpret_cast<uint8_t*>(x.codes + size_t(r) * x.quads);
    if (!x.fine) {
      for (int i = 0; i < a.head_dim; ++i) codes[i] = uint8_t(int(scaled[i] * inverse + offset) + (kCodeZero - 128));
      continue;
    }
    uint8_t* low = reinterpret_cast<uint8_t*>(x.low + size_t(r) * x.quads);
    for (int i = 0; i < a.head_dim; ++i) {
      const int code = int(scaled[i] * inverse + offset);  // positive: rounds to the nearest
      codes[i] = uint8_t((code >> 7) + (kFineZero - 64));
      low[i] = uint8_t(code & 127);
    }
  }
}

EDGE_INLINE int query_code(const CodedQueries& x, int row, int channel) {
  const size_t at = size_t(row) * x.quads * 4 + channel;
  const int code = reinterpret_cast<const uint8_t*>(x.codes)[at];
  if (!x.fine) return int(int8_t(code - kCodeZero));
  return 128 * int(int8_t(code - kFineZero)) + reinterpret_cast<const uint8_t*>(x.low)[at];
}

// Where the codes of neighbouring rows begin.
template <int Rows>
struct RowCodes {
  const uint32_t *codes[Rows], *low[Rows];
  RowCodes(const CodedQueries& x, int row) {
    for (int r = 0; r < Rows; ++r) {
      codes[r] = x.codes + size_t(row + r) * x.quads;
      low[r] = x.low + size_t(row + r) * x.quads;
    }
  }
};

// Puts the lanes [first, until) of a tile's scores where they belong.
EDGE_INLINE void keep(const float* tile, int first, int until, float* scores) {
  if (first <= 0 && until >= kKeyBlock) {
    for (int i = 0; i < kKeyBlock; i += kFloats) store(scores + i, load(tile + i));
    return;
  }
  for (int i = first > 0 ? first : 0; i < until && i < kKeyBlock; ++i) scores[i] = tile[i];
}

// Whether changes stay in registers: few rows take part in one pass over them (see `in_rows`), and heads are narrow: the
// values of wide ones are slow to sum unless fetched before, as `spread` does.
EDGE_INLINE bool in_registers(const CodedQueries& x) {
  constexpr int kNarrow = 16;  // quads
  return kSpreadsInRegisters && x.quads <= kNarrow && (x.rows <= 4 || x.rows == 6);
}

template <int Tiles>
EDGE_INLINE PackedTiles<Tiles> packed(const DeltaTiles& keys, int t) {
  PackedTiles<Tiles> x;
  x.masks = keys.masks + size_t(t) * keys.quads;
  for (int i = 0; i < Tiles; ++i) x.codes[i] = keys.codes + keys.starts[t + i];
  // A quarter of the values (half of those in 8 bits), from the first on: as much as costs the walk nothing.
  const size_t fetched = size_t(t) * keys.quads * 32;
  x.values = keys.values + (fetched < kSecondLevel ? fetched : kSecondLevel);
  return x;
}

// Where a walk over the changes stands.
struct Walk {
  const Escape* escape;
  float* bases;  // [row], sums so far
};

// Spreads changes into `lines` [tile][quad][64], and fetches the tiles' values: spreading leaves the memory idle.
template <int Tiles>
EDGE_INLINE void spread(const DeltaTiles& keys, int t, const PackedTiles<Tiles>& changes, int8_t* lines) {
  const char* values = keys.values + size_t(t) * keys.value_bytes;
  for (size_t at = 0; at < Tiles * keys.value_bytes && at + t * keys.value_bytes < kSecondLevel; at += 64)
    __builtin_prefetch(values + at, 0, 2);
  for (int i = 0; i < Tiles; ++i) {
    const int8_t* codes = changes.codes[i];
    for (int k = i * keys.quads; k < (i + 1) * keys.quads; ++k) {
      __builtin_prefetch(codes + kNextBytes / 2);
      codes = expand(changes.masks[k], codes, lines + k * 64);
    }
  }
}

template <int Tiles, bool Fine>
EDGE_INLINE void walk_tiles(const DeltaTiles& keys, int t, const CodedQueries& x, int first, const int* until,
                            float* scores, int stride, int8_t* lines, Walk& walk) {
  alignas(64) float tile[kMostRows * Tiles * kKeyBlock];
  const Escape *begin = walk.escape, *last = keys.escapes + keys.escape_count;
  const PackedTiles<Tiles> changes = packed<Tiles>(keys, t);
  for (int k = 0; k < Tiles * keys.quads; k += 8) __builtin_prefetch(changes.masks + kNextBytes / 8 + k);
  const bool stored = !in_registers(x);
  if (stored) spread(keys, t, changes, lines);
  while (walk.escape < last && walk.escape->tile < t + Tiles) ++walk.escape;
  in_rows(x.rows, [&](int row, auto count) {
    const RowCodes<count> q(x, row);
    if (stored) {
      products<count, Tiles, Fine>(lines, x.quads, q.codes, q.low, tile);
    } else if constexpr (kSpreadsInRegisters) {
      spread_products<count, Tiles, Fine>(changes, x.quads, q.codes, q.low, tile);
    }
    for (int r = 0; r < count; ++r) {
      float* p = tile + r * Tiles * kKeyBlock;
      for (const Escape* e = begin; e < walk.escape; ++e)
        p[(e->tile - t) * kKeyBlock + e->key] += float(e->extra) * float(query_code(x, row + r, e->channel));
      float* out = scores + size_t(row + r) * stride;
      for (int i = 0; i < Tiles; ++i, p += kKeyBlock) {
        const int at = (t + i) * kKeyBlock;
        float& base = walk.bases[row + r];
        base = running_sums(p, x.scale[row + r], (t + i) % kRefreshTiles ? base : 0.0f);
        keep(p, first - at, until[row + r] - at, out + at);
      }
    }
  });
}

template <bool Fine>
EDGE_INLINE void walk(const DeltaTiles& keys, const CodedQueries& x, int first, const int* until, float* scores,
                      int stride) {
  alignas(64) int8_t lines[2 * kMostQuads * 64];
  std::vector<float> bases(size_t(x.rows), 0.0f);
  Walk at{keys.escapes, bases.data()};
  int t = 0;
  for (; t + 2 <= keys.tiles; t += 2)
    walk_tiles<2, Fine>(keys, t, x, first, until, scores, stride, lines, at);
  if (t < keys.tiles) walk_tiles<1, Fine>(keys, t, x, first, until, scores, stride, lines, at);
}

static void delta_scores(const DeltaTiles& keys, const CodedQueries& x, int first, const int* until, float* scores,
                         int stride) {
  if (x.fine)
    walk<true>(keys, x, first, until, scores, stride);
  else
    walk<false>(keys, x, first, until, scores, stride);
}

template <int Tiles>
EDGE_INLINE void int8_tiles(const int8_t* keys, const float* key_scales, const CodedQueries& x, float* scores,
                            int stride) {
  alignas(64) float tile[kMostRows * Tiles * kKeyBlock];
  for (int k = 0; k < Tiles * x.quads; ++k) __builtin_prefetch(keys + kNextBytes + k * 64);
  in_rows(x.rows, [&](int row, auto count) {
    const RowCodes<count> q(x, row);
    products<count, Tiles, false>(keys, x.quads, q.codes, q.low, tile);
    for (int r = 0; r < count; ++r)
      for (int i = 0; i < Tiles * kKeyBlock; i += kFloats)
        store(scores + size_t(row + r) * stride + i,
              load(tile + r * Tiles * kKeyBlock + i) * load(key_scales + i) * x.scale[row + r]);
  });
}

static void int8_scores(const int8_t* keys, const float* key_scales, int tiles, const CodedQueries& x, float* scores,
                        int stride) {
  int t = 0;
  for (; t + 2 <= tiles; t += 2)
    int8_tiles<2>(keys + size_t(t) * x.quads * 64, key_scales + t * kKeyBlock, x, scores + t * kKeyBlock, stride);
  if (t < tiles)
    int8_tiles<1>(keys + size_t(t) * x.quads * 64, key_scales + t * kKeyBlock, x, scores + t * kKeyBlock, stride);
}

static void exact_scores(const Attention& a, int begin, int end, int stride) {
  score(a, static_cast<const uint16_t*>(a.keys), begin, end, stride);
}

static void weigh(const Attention& a, int stride) {
  softmax_rows(a, stride);
  mix<uint16_t>(a, stride);
}

static void weigh_int8(const Attention& a, const float* value_scales, int stride) {
  softmax_rows(a, stride);
  for (int r = 0; r < a.tokens * a.heads_per_kv; ++r) {
    float* p = a.scores + size_t(r) * stride;
    for (int i = 0; i < stride; i += kFloats) store(p + i, load(p + i) * load(value_scales + i));
  }
  mix<int8_t>(a, stride);
}

#define EDGE_DELTA_TABLE(label) \
  { label, kCodeZero, kFineZero, code_key, pack_tile, code_queries, delta_scores, int8_scores, exact_scores, weigh, weigh_int8 }
