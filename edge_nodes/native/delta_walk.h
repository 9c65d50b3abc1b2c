// SPDX-License-Identifier: Apache-2.0
// Scores by running sums in float, for processors without room for them in registers. Included inside a namespace,
// after delta_tiles.h; before it are defined products (see delta_ops.h) and running_sums(x, scale, base).

EDGE_INLINE int query_code(const CodedQueries& x, int row, int channel) {
  const size_t at = size_t(row) * x.quads * 4 + channel;
  const int code = reinterpret_cast<const uint8_t*>(x.codes)[at];
  if (!x.fine) return int(int8_t(code - kCodeZero));
  return 128 * int(int8_t(code - kFineZero)) + reinterpret_cast<const uint8_t*>(x.low)[at];
}

// Puts the lanes [first, until) of a tile's scores where they belong.
EDGE_INLINE void keep(const float* tile, int first, int until, float* scores) {
  if (first <= 0 && until >= kKeyBlock) {
    for (int i = 0; i < kKeyBlock; i += kFloats) store(scores + i, load(tile + i));
    return;
  }
  for (int i = first > 0 ? first : 0; i < until && i < kKeyBlock; ++i) scores[i] = tile[i];
}

template <int Tiles, bool Fine>
EDGE_INLINE void tile_scores(const int8_t* lines, const PackedTiles<Tiles>& tiles, const CodedQueries& x,
                             const Wanted& to, float* bases) {
  alignas(64) float tile[kMostRows * Tiles * kKeyBlock];
  in_rows(x.rows, [&](int row, auto count) {
    const RowCodes<count> q(x, row);
    products<count, Tiles, Fine>(lines, x.quads, q.codes, q.low, tile);
    for (int r = row; r < row + count; ++r) {
      float* p = tile + (r - row) * Tiles * kKeyBlock;
      for (const Escape* e = tiles.escapes; e < tiles.escapes_end; ++e)
        p[(e->tile - tiles.tile) * kKeyBlock + e->key] += float(e->extra) * float(query_code(x, r, e->channel));
      for (int i = tiles.tile; i < tiles.tile + Tiles; ++i, p += kKeyBlock) {
        const int at = i * kKeyBlock;
        bases[r] = running_sums(p, x.scale[r], i % kRefreshTiles ? bases[r] : 0.0f);
        keep(p, to.first - at, to.until[r] - at, to.scores + size_t(r) * to.stride + at);
      }
    }
  });
}

template <bool Fine>
EDGE_INLINE void walk(const DeltaTiles& keys, const CodedQueries& x, const Wanted& to) {
  alignas(64) int8_t lines[2 * kMostQuads * 64];
  std::vector<float> bases(size_t(x.rows), 0.0f);
  each_tiles(keys, [&](const auto& tiles, auto count) {
    spread(keys, tiles, lines);
    tile_scores<count, Fine>(lines, tiles, x, to, bases.data());
  });
}
