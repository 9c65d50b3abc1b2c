// SPDX-License-Identifier: Apache-2.0
// A dense cache of one sequence that also keeps what goes through it, for calibration.
#pragma once

#include <algorithm>
#include <vector>

#include "cache.h"

namespace edge {

class CaptureCache : public DenseCache {
 public:
  CaptureCache(const CacheShape& shape, const Kernels& kernels)
      : DenseCache(shape, kernels, true),
        queries(rows() * size_t(shape.heads_per_kv)),
        keys(rows()),
        values(rows()) {}

  void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
             int stride) override {
    DenseCache::write(layer, slot, head, first, count, k, v, stride);
    for (int t = 0; t < count && slot == 0; ++t) {
      const size_t at = row(layer, first + t, shape_.kv_heads, head);
      std::copy_n(k + size_t(t) * stride, shape_.head_dim, keys.data() + at);
      std::copy_n(v + size_t(t) * stride, shape_.head_dim, values.data() + at);
    }
  }
  void attend(const Query& query) const override {
    const int group = shape_.heads_per_kv, width = group * shape_.head_dim;
    for (int t = 0; t < query.tokens && query.slot == 0; ++t)
      std::copy_n(query.q + size_t(t) * query.stride, width,
                  queries.data() + row(query.layer, query.first_position + t, shape_.kv_heads * group,
                                       query.head * group));
    DenseCache::attend(query);
  }

  mutable std::vector<float> queries;  // [layer][position][head][dim], scaled
  std::vector<float> keys, values;     // [layer][position][kv head][dim]

 private:
  size_t rows() const { return size_t(shape_.layers) * shape_.context * shape_.kv_heads * shape_.head_dim; }
  size_t row(int layer, int position, int heads, int head) const {
    return ((size_t(layer) * shape_.context + position) * heads + head) * shape_.head_dim;
  }
};

}  // namespace edge
