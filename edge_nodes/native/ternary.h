// SPDX-License-Identifier: Apache-2.0
// Products of ternary matrices with a few or many tokens: the memory they need and the sharing-out of the work.
#pragma once

#include <vector>

#include "products.h"

namespace edge {

enum class Method { automatic, dot, lut };  // how ternary products are made; the result is the same bit for bit

// From how many tokens on tables are the faster way for matrices of this shape.
struct TableChoice {
  int rows, cols, tokens;
};

// Quantised tokens and scratch memory of up to `tokens` tokens of up to `cols` columns.
class TernaryWork {
 public:
  TernaryWork() = default;
  TernaryWork(int tokens, int cols, int threads, Method method);

  // The activations of a product whose rows have `cols` columns; `cols` is a multiple of 32.
  TokenActivations activations(int cols);
  bool empty() const { return !q_.size(); }
  // Replaces what the kernels take for granted; shapes that are not named keep it.
  void set_choices(std::vector<TableChoice> choices) { choices_ = std::move(choices); }
  // y (+)= W x for n tokens whose q, scale, sum and total are set.
  void multiply(Pool& pool, const Kernels& kernels, const Product* products, int count, const TokenActivations& x,
                int n, bool add);
  size_t bytes() const;

 private:
  int table_tokens(const Kernels& kernels, const Product* products, int count, const TokenActivations& x, int n) const;
  void look_up(Pool& pool, const Kernels& kernels, const Product* products, int count, const TokenActivations& x,
               int n, bool add);
  void dot(Pool& pool, const Kernels& kernels, const Product* products, int count, const TokenActivations& all,
           int first, int n, bool add);

  Method method_ = Method::automatic;
  std::vector<TableChoice> choices_;
  size_t scratch_size_ = 0;
  Buffer<int8_t> q_, blocked_, columns_;
  Buffer<float> scale_;
  Buffer<int32_t> sum_, total_;
  Buffer<uint8_t> scratch_;
};

// "auto", "dot" or "lut"; throws std::invalid_argument otherwise.
Method method_of(const std::string& name);

}  // namespace edge
