// SPDX-License-Identifier: Apache-2.0
#include "int8_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace edge {

float code_row(const float* x, int n, int8_t* codes) {
  float largest = 0.0f;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  for (int i = 0; i < n; ++i) codes[i] = int8_t(x[i] * inverse + (x[i] < 0.0f ? -0.5f : 0.5f));
  return largest / 127.0f;
}

Int8Cache::Int8Cache(const CacheShape& shape, const Kernels& kernels)
    : Cache(shape), kernels_(delta_kernels(kernels.name)), context_(size_t(round_up(shape.context, kKeyBlock))) {
  const size_t positions = offset(0, shape.slots, 0);
  keys_.resize(positions * shape.head_dim);
  values_.resize(positions * shape.head_dim);
  key_scales_.resize_zero(positions);
  value_scales_.resize_zero(positions);
}

void Int8Cache::write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
                      int stride) {
  const int dim = shape_.head_dim;
  const size_t at = offset(layer, slot, head);
  std::vector<int8_t> key(static_cast<size_t>(dim));
  for (int p = first; p < first + count; ++p, k += stride, v += stride) {
    key_scales_[at + p] = code_row(k, dim, key.data());
    value_scales_[at + p] = code_row(v, dim, values_.data() + (at + p) * dim);
    int8_t* tile = keys_.data() + (at + size_t(p / kKeyBlock) * kKeyBlock) * dim + p % kKeyBlock * 4;
    for (int c = 0; c < dim; c += 4) std::memcpy(tile + c * kKeyBlock, key.data() + c, 4);
  }
}

void Int8Cache::attend(const Query& query) const {
  const size_t at = offset(query.layer, query.slot, query.head);
  const int dim = shape_.head_dim, rows = query.tokens * shape_.heads_per_kv, quads = dim / 4;
  const int blocks = (query.first_position + query.tokens + kKeyBlock - 1) / kKeyBlock, stride = blocks * kKeyBlock;
  Attention a = attention_of(query);
  a.values = values_.data() + at * dim;
  std::vector<uint32_t> words(size_t(rows) * quads);
  std::vector<float> scales(static_cast<size_t>(rows));
  const CodedQueries coded{rows, quads, false, words.data(), words.data(), scales.data()};
  kernels_.code_queries(a, nullptr, coded);
  kernels_.int8_scores(keys_.data() + at * dim, key_scales_.data() + at, blocks, coded, a.scores, stride);
  kernels_.weigh_int8(a, value_scales_.data() + at, stride);
}

void Int8Cache::copy(int from, int to, int begin, int end) {
  if (begin >= end || from == to) return;
  const size_t dim = size_t(shape_.head_dim), count = size_t(end - begin);
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const size_t source = offset(layer, from, head), target = offset(layer, to, head);
      std::copy_n(key_scales_.data() + source + begin, count, key_scales_.data() + target + begin);
      std::copy_n(value_scales_.data() + source + begin, count, value_scales_.data() + target + begin);
      std::copy_n(values_.data() + (source + begin) * dim, count * dim, values_.data() + (target + begin) * dim);
      for (int p = begin; p < end; ++p) {
        const size_t tile = size_t(p / kKeyBlock) * kKeyBlock * dim + size_t(p % kKeyBlock) * 4;
        for (size_t c = 0; c < dim; c += 4)
          std::memcpy(keys_.data() + target * dim + tile + c * kKeyBlock,
                      keys_.data() + source * dim + tile + c * kKeyBlock, 4);
      }
    }
}

}  // namespace edge
