// SPDX-License-Identifier: Apache-2.0
// Products of several matrices with the same activations, shared out among threads by tiles of rows.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "pool.h"

namespace edge {

struct Product {
  const Matrix* matrix;
  float* y;         // [token][stride]
  int stride = 0;   // 0: tiles * 32, which is the least

  int y_stride() const { return stride ? stride : matrix->tiles * kTile; }
};

inline int tiles_of(const Product* products, int count) {
  int tiles = 0;
  for (int i = 0; i < count; ++i) tiles += products[i].matrix->tiles;
  return tiles;
}

// Calls work(product, begin, end, thread) for all tiles, `chunk` of them at a time. Small chunks even out threads of
// unequal speed; they never change a result.
template <typename Work>
void share_tiles(Pool& pool, const Product* products, int count, int chunk, Work&& work) {
  const int tiles = tiles_of(products, count);
  pool.run((tiles + chunk - 1) / chunk, [&](int index, int thread) {
    int begin = index * chunk, end = std::min(tiles, begin + chunk);
    for (int i = 0; i < count && end > 0; ++i) {
      const Product& p = products[i];
      const int stop = std::min(end, p.matrix->tiles);
      if (begin < stop) work(p, begin, stop, thread);
      begin = std::max(0, begin - p.matrix->tiles);
      end -= p.matrix->tiles;
    }
  });
}

inline int small_chunk(int tiles, int threads) { return std::min(64, std::max(1, tiles / (8 * threads))); }

// y (+)= W x for n tokens and matrices with a scale for each 32 columns; `scratch`: scratch_size bytes a thread.
inline void multiply_grouped(Pool& pool, const Kernels& kernels, const Product* products, int count,
                             const Activations& x, int n, bool add, uint8_t* scratch, size_t scratch_size) {
  const int chunk = small_chunk(tiles_of(products, count), pool.threads());
  share_tiles(pool, products, count, chunk, [&](const Product& p, int begin, int end, int thread) {
    kernels.multiply(*p.matrix, begin, end, x, n, p.y, p.y_stride(), add,
                     scratch + scratch_size * size_t(thread));
  });
}

}  // namespace edge
