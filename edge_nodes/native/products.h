// SPDX-License-Identifier: Apache-2.0
// Products of several matrices with the same activations, shared out among threads by tiles of rows.
#pragma once

#include <algorithm>
#include <vector>

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

// Calls work(product, begin, end, thread) for tiles [begin, end) of all products' tiles taken together.
template <typename Work>
void on_tiles(const Product* products, int count, int begin, int end, int thread, Work&& work) {
  for (int i = 0; i < count && end > 0; ++i) {
    const Product& p = products[i];
    const int stop = std::min(end, p.matrix->tiles);
    if (begin < stop) work(p, begin, stop, thread);
    begin = std::max(0, begin - p.matrix->tiles);
    end -= p.matrix->tiles;
  }
}

// Calls work(product, begin, end, thread) for all tiles, `chunk` of them at a time; never does this change a result.
template <typename Work>
void share_tiles(Pool& pool, const Product* products, int count, int chunk, Work&& work) {
  const int tiles = tiles_of(products, count);
  pool.run((tiles + chunk - 1) / chunk, [&](int index, int thread) {
    on_tiles(products, count, index * chunk, std::min(tiles, (index + 1) * chunk), thread, work);
  });
}

constexpr int kMostTiles = 64;  // of a chunk

// The same in chunks that become smaller, down to one tile: threads of unequal speed end at about the same time.
template <typename Work>
void share_tiles_evenly(Pool& pool, const Product* products, int count, Work&& work) {
  const int tiles = tiles_of(products, count), threads = pool.threads();
  static thread_local std::vector<int> bounds;  // kept: no allocation for a step
  bounds.assign(1, 0);
  for (int at = 0; at < tiles; bounds.push_back(at))
    at += std::max(1, std::min(kMostTiles, (tiles - at) / (4 * threads)));
  const int* cuts = bounds.data();  // a worker has no bounds of its own
  pool.run(int(bounds.size()) - 1, [&, cuts](int index, int thread) {
    on_tiles(products, count, cuts[index], cuts[index + 1], thread, work);
  });
}

// y (+)= W x for n tokens and matrices with a scale for each 32 columns; `scratch`: scratch_size bytes a thread.
inline void multiply_grouped(Pool& pool, const Kernels& kernels, const Product* products, int count,
                             const Activations& x, int n, bool add, uint8_t* scratch, size_t scratch_size) {
  share_tiles_evenly(pool, products, count, [&](const Product& p, int begin, int end, int thread) {
    kernels.multiply(*p.matrix, begin, end, x, n, p.y, p.y_stride(), add,
                     scratch + scratch_size * size_t(thread));
  });
}

}  // namespace edge
