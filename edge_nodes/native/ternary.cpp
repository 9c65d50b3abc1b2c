// SPDX-License-Identifier: Apache-2.0
#include "ternary.h"

#include <algorithm>
#include <stdexcept>

namespace edge {

Method method_of(const std::string& name) {
  if (name == "auto") return Method::automatic;
  if (name == "dot") return Method::dot;
  if (name == "lut") return Method::lut;
  throw std::invalid_argument("no method '" + name + "'; there are: auto, dot, lut");
}

TernaryWork::TernaryWork(int tokens, int cols, int threads, Method method) : method_(method) {
  const size_t size = size_t(tokens) * cols;
  const size_t blocks = size_t(cols + kTernaryBlock - 1) / kTernaryBlock;
  q_.resize(size);
  blocked_.resize(size);
  columns_.resize(size_t(round_up(tokens, kTableTokens)) * cols);
  scale_.resize(size_t(tokens));
  sum_.resize(size_t(tokens) * blocks);
  total_.resize(size_t(tokens));
  scratch_size_ = std::max(size_t(cols) * kTile, lut_scratch());
  scratch_.resize(scratch_size_ * size_t(threads));
}

TokenActivations TernaryWork::activations(int cols) {
  return {cols / kGroup,   (cols + kTernaryBlock - 1) / kTernaryBlock,
          q_.data(),       blocked_.data(),
          columns_.data(), scale_.data(),
          sum_.data(),     total_.data()};
}

bool TernaryWork::use_tables(const Kernels& kernels, int n) const {
  constexpr int kFewTokens = 8;  // a row of a table is 32 tokens wide
  if (!kernels.ternary_lut || method_ == Method::dot) return false;
  return n >= (method_ == Method::lut ? kFewTokens : kernels.lut_from);
}

void TernaryWork::arrange(Pool& pool, const Kernels& kernels, const TokenActivations& x, int n, bool tables) {
  if (!tables && (n == 1 || kernels.tokens == 1)) return;
  const int step = tables ? kTableTokens : block_tokens(n, kernels.tokens);
  pool.run((n + step - 1) / step, [&](int block, int) {
    (tables ? column_activations : block_activations)(x, block * step, std::min(n, (block + 1) * step));
  });
}

void TernaryWork::multiply(Pool& pool, const Kernels& kernels, const Product* products, int count,
                           const TokenActivations& x, int n, bool add) {
  const bool tables = use_tables(kernels, n);
  arrange(pool, kernels, x, n, tables);
  int tiles = 0;
  for (int i = 0; i < count; ++i) tiles += products[i].matrix->tiles;
  // Rows of one chunk share the tables, which wants large chunks; otherwise small ones even out unequal threads.
  const int parts = round_up((tiles + kLutTiles - 1) / kLutTiles, pool.threads());
  const int chunk = tables ? (tiles + parts - 1) / parts
                           : std::min(64, std::max(1, tiles / (8 * pool.threads())));
  const auto run = tables ? kernels.ternary_lut : kernels.ternary_dot;
  pool.run((tiles + chunk - 1) / chunk, [&](int index, int thread) {
    int begin = index * chunk, end = std::min(tiles, begin + chunk);
    for (int i = 0; i < count && end > 0; ++i) {
      const Product& p = products[i];
      const int stop = std::min(end, p.matrix->tiles);
      if (begin < stop)
        run(*p.matrix, begin, stop, x, n, p.y, p.matrix->tiles * kTile, add,
            scratch_.data() + scratch_size_ * size_t(thread));
      begin = std::max(0, begin - p.matrix->tiles);
      end -= p.matrix->tiles;
    }
  });
}

size_t TernaryWork::bytes() const {
  return q_.bytes() + blocked_.bytes() + columns_.bytes() + scale_.bytes() + sum_.bytes() + total_.bytes() +
         scratch_.bytes();
}

}  // namespace edge
