// SPDX-License-Identifier: Apache-2.0
// Packed changes of neighbouring tiles. Included inside a namespace, after float_ops.h.

template <int Tiles>
struct PackedTiles {
  const uint64_t* masks;  // [tile][quad]
  const int8_t* codes[Tiles];
  const char* values;  // to fetch meanwhile: a line of 64 bytes for each quad
};

// Sums of code * change as `products` of delta_ops.h gives them; only where kSpreadsInRegisters.
template <int Rows, int Tiles, bool Fine>
EDGE_INLINE void spread_products(const PackedTiles<Tiles>& x, int quads, const uint32_t* const* codes,
                                 const uint32_t* const* low, float* out);
