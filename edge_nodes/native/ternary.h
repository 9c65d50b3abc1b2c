// SPDX-License-Identifier: Apache-2.0
// Products of ternary matrices with a few or many tokens: the memory they need and the sharing-out of the work.
#pragma once

#include "kernels.h"
#include "pool.h"

namespace edge {

enum class Method { automatic, dot, lut };  // how ternary products are made; the result is the same bit for bit

struct Product {
  const Matrix* matrix;
  float* y;  // [token][tiles * 32]
};

// Quantised tokens and scratch memory of up to `tokens` tokens of up to `cols` columns.
class TernaryWork {
 public:
  TernaryWork() = default;
  TernaryWork(int tokens, int cols, int threads, Method method);

  // The activations of a product whose rows have `cols` columns; `cols` is a multiple of 32.
  TokenActivations activations(int cols);
  bool empty() const { return !q_.size(); }
  // y (+)= W x for n tokens whose q, scale, sum and total are set.
  void multiply(Pool& pool, const Kernels& kernels, const Product* products, int count, const TokenActivations& x,
                int n, bool add);
  size_t bytes() const;

 private:
  bool use_tables(const Kernels& kernels, int n) const;
  void arrange(Pool& pool, const Kernels& kernels, const TokenActivations& x, int n, bool tables);

  Method method_ = Method::automatic;
  size_t scratch_size_ = 0;
  Buffer<int8_t> q_, blocked_, columns_;
  Buffer<float> scale_;
  Buffer<int32_t> sum_, total_;
  Buffer<uint8_t> scratch_;
};

// "auto", "dot" or "lut"; throws std::invalid_argument otherwise.
Method method_of(const std::string& name);

}  // namespace edge
