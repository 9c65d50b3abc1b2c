// SPDX-License-Identifier: Apache-2.0
#include "ternary.h"

#include <algorithm>
#include <stdexcept>
#include <string>

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

// Of n tokens, those that are multiplied by tables: whole sets of 32, and what is left if it is enough.
int TernaryWork::table_tokens(const Kernels& kernels, const Product* products, int count, const TokenActivations& x,
                              int n) const {
  constexpr int kFewTokens = 8;  // with fewer, most of a row of a table is not used
  if (!kernels.ternary_lut || method_ == Method::dot) return 0;
  if (x.tree && products->matrix->scales.size()) return 0;  // tables add up one block after the other
  int from = method_ == Method::lut ? kFewTokens : kernels.lut_from;
  const Product* largest = std::max_element(
      products, products + count, [](const Product& a, const Product& b) { return a.matrix->rows < b.matrix->rows; });
  if (method_ == Method::automatic)
    for (const TableChoice& c : choices_)
      if (c.rows == largest->matrix->rows && c.cols == largest->matrix->cols) from = c.tokens;
  if (n < from || from > kTableTokens) return 0;
  const int rest = n % kTableTokens;
  return rest >= from ? n : n - rest;
}

void TernaryWork::look_up(Pool& pool, const Kernels& kernels, const Product* products, int count,
                          const TokenActivations& x, int n, bool add) {
  pool.run((n + kTableTokens - 1) / kTableTokens, [&](int set, int) {
    column_activations(x, set * kTableTokens, std::min(n, (set + 1) * kTableTokens));
  });
  // Rows of one chunk share the tables, which wants large chunks of equal size.
  const int tiles = tiles_of(products, count);
  const int parts = round_up((tiles + kLutTiles - 1) / kLutTiles, pool.threads());
  share_tiles(pool, products, count, (tiles + parts - 1) / parts,
              [&](const Product& p, int begin, int end, int thread) {
                (p.matrix->dense ? kernels.dense_lut : kernels.ternary_lut)(
                    *p.matrix, begin, end, x, n, p.y, p.y_stride(), add,
                    scratch_.data() + scratch_size_ * size_t(thread));
              });
}

// Tokens [first, n).
void TernaryWork::dot(Pool& pool, const Kernels& kernels, const Product* products, int count,
                      const TokenActivations& all, int first, int n, bool add) {
  const TokenActivations x = all.from(first);
  const int tokens = n - first;
  if (tokens > 1 && kernels.tokens > 1) {
    const int step = block_tokens(tokens, kernels.tokens);
    pool.run((tokens + step - 1) / step,
             [&](int block, int) { block_activations(x, block * step, std::min(tokens, (block + 1) * step)); });
  }
  share_tiles_evenly(pool, products, count, [&](const Product& p, int begin, int end, int thread) {
    const int stride = p.y_stride();
    (p.matrix->dense ? kernels.dense_dot : kernels.ternary_dot)(
        *p.matrix, begin, end, x, tokens, p.y + size_t(first) * stride, stride, add,
        scratch_.data() + scratch_size_ * size_t(thread));
  });
}

void TernaryWork::multiply(Pool& pool, const Kernels& kernels, const Product* products, int count,
                           const TokenActivations& x, int n, bool add) {
  const int tables = table_tokens(kernels, products, count, x, n);
  if (tables) look_up(pool, kernels, products, count, x, tables, add);
  if (tables < n) dot(pool, kernels, products, count, x, tables, n, add);
}

size_t TernaryWork::bytes() const {
  return q_.bytes() + blocked_.bytes() + columns_.bytes() + scale_.bytes() + sum_.bytes() + total_.bytes() +
         scratch_.bytes();
}

}  // namespace edge
