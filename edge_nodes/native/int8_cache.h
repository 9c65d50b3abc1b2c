// SPDX-License-Identifier: Apache-2.0
// Every key and value in 8 bits, with a scale for each position and head.
#pragma once

#include "cache.h"
#include "delta_kernels.h"

namespace edge {

// Codes a row of n floats; returns their scale.
float code_row(const float* x, int n, int8_t* codes);

class Int8Cache : public BlockCache {
 public:
  Int8Cache(const CacheShape& shape, const Kernels& kernels);

  void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
             int stride) override;
  void attend(const Query& query) const override;
  size_t bytes() const override { return keys_.bytes() + values_.bytes() + key_scales_.bytes() + value_scales_.bytes(); }
  size_t bytes_per_token() const override {
    return 2 * size_t(shape_.layers) * shape_.kv_heads * (size_t(shape_.head_dim) + sizeof(float));
  }

 protected:
  void copy_block(int from, int to, int low, int high) override;

 private:
  const DeltaKernels& kernels_;
  Buffer<int8_t> keys_, values_;              // [layer][head][block][dim / 4][16][4] and [...][block][16][dim]
  Buffer<float> key_scales_, value_scales_;  // [layer][head][block][16]
};

}  // namespace edge
