// SPDX-License-Identifier: Apache-2.0
// Every key and value in 8 bits, with a scale for each position and head.
#pragma once

#include "cache.h"
#include "delta_kernels.h"

namespace edge {

// Codes a row of n floats; returns their scale.
float code_row(const float* x, int n, int8_t* codes);

class Int8Cache : public Cache {
 public:
  Int8Cache(const CacheShape& shape, const Kernels& kernels);

  void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
             int stride) override;
  void attend(const Query& query) const override;
  void copy(int from, int to, int begin, int end) override;
  size_t bytes() const override { return keys_.bytes() + values_.bytes() + key_scales_.bytes() + value_scales_.bytes(); }
  size_t bytes_per_token() const override {
    return 2 * size_t(shape_.layers) * shape_.kv_heads * (size_t(shape_.head_dim) + sizeof(float));
  }

 private:
  // Positions before those of a head.
  size_t offset(int layer, int slot, int head) const {
    return ((size_t(slot) * shape_.layers + layer) * shape_.kv_heads + head) * context_;
  }

  const DeltaKernels& kernels_;
  size_t context_;
  Buffer<int8_t> keys_, values_;              // [...][position / 16][dim / 4][16][4] and [...][position][dim]
  Buffer<float> key_scales_, value_scales_;  // [...][position]
};

}  // namespace edge
