// SPDX-License-Identifier: Apache-2.0
// Walking over the changes of neighbouring tiles. Included inside a namespace, after float_ops.h.

constexpr int kMostQuads = 256;  // head_dim 1024
constexpr int kMostRows = 6;
constexpr size_t kSecondLevel = 1 << 19;  // bytes that surely stay in the second-level cache

// Spreads packed codes under their mask to 64 bytes; returns what follows them. Each delta_*.cpp has its own.
EDGE_INLINE const int8_t* expand(uint64_t mask, const int8_t* codes, int8_t* out);

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

// Which scores are wanted: of keys [first, until[row]).
struct Wanted {
  int first;
  const int* until;
  float* scores;  // [row][stride]
  int stride;
};

template <int Tiles>
struct PackedTiles {
  int tile;  // the first
  const uint64_t* masks;  // [tile][quad]
  const int8_t* codes[Tiles];
  const Escape *escapes, *escapes_end;
};

// Calls f(tiles, their number) for all of them, two neighbours at a time; what is read next is fetched meanwhile.
template <typename F>
EDGE_INLINE void each_tiles(const DeltaTiles& keys, F&& f) {
  const Escape *escape = keys.escapes, *last = keys.escapes + keys.escape_count;
  const auto call = [&](int t, auto count) __attribute__((always_inline)) {
    PackedTiles<count> x;
    x.tile = t;
    x.masks = keys.masks + size_t(t) * keys.quads;
    for (int i = 0; i < count; ++i) x.codes[i] = keys.codes + keys.starts[t + i];
    for (int k = 0; k < count * keys.quads; k += 8) __builtin_prefetch(x.masks + kNextBytes / 8 + k);
    x.escapes = escape;
    while (escape < last && escape->tile < t + count) ++escape;
    x.escapes_end = escape;
    f(x, count);
  };
  int t = 0;
  for (; t + 2 <= keys.tiles; t += 2) call(t, std::integral_constant<int, 2>());
  if (t < keys.tiles) call(t, std::integral_constant<int, 1>());
}

// Spreads changes into `lines` [tile][quad][64], and fetches the tiles' values: spreading leaves the memory idle.
template <int Tiles>
EDGE_INLINE void spread(const DeltaTiles& keys, const PackedTiles<Tiles>& x, int8_t* lines) {
  const size_t first = size_t(x.tile) * keys.value_bytes;
  for (size_t at = 0; at < Tiles * keys.value_bytes && first + at < kSecondLevel; at += 64)
    __builtin_prefetch(keys.values + first + at, 0, 2);
  for (int i = 0; i < Tiles; ++i) {
    const int8_t* codes = x.codes[i];
    for (int k = i * keys.quads; k < (i + 1) * keys.quads; ++k) {
      __builtin_prefetch(codes + kNextBytes / 2);
      codes = expand(x.masks[k], codes, lines + k * 64);
    }
  }
}
