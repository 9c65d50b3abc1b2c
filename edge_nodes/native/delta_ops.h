// SPDX-License-Identifier: Apache-2.0
// Kernels of coded keys, written once; each delta_*.cpp includes this after delta_tiles.h in a namespace of its own, and
// defines before: kCodeZero, kFineZero; compress(line, codes), which returns the mask; products<Rows, Tiles, Fine>(
// lines, quads, codes, low, out): out[row][16 * tile + key] = sum of code * change; walk<Fine>(keys, queries, wanted),
// which writes the scores.

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

static void delta_scores(const DeltaTiles& keys, const CodedQueries& x, int first, const int* until, float* scores,
                         int stride) {
  const Wanted to{first, until, scores, stride};
  x.fine ? walk<true>(keys, x, to) : walk<false>(keys, x, to);
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
