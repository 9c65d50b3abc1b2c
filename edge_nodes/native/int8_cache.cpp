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
    : BlockCache(shape), kernels_(delta_kernels(kernels.name)) {
  keys_.resize(positions() * shape.head_dim);
  values_.resize(positions() * shape.head_dim);
  key_scales_.resize_zero(positions());
  value_scales_.resize_zero(positions());
}

void Int8Cache::write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
                      int stride) {
  const size_t dim = size_t(shape_.head_dim);
  std::vector<int8_t> key(dim);
  for (int p = first; p < first + count; ++p, k += stride, v += stride) {
    const size_t block = plane(layer, head) + size_t(table_.at(slot, p)) * kKeyBlock, lane = size_t(p % kKeyBlock);
    key_scales_[block + lane] = code_row(k, int(dim), key.data());
    value_scales_[block + lane] = code_row(v, int(dim), values_.data() + (block + lane) * dim);
    int8_t* tile = keys_.data() + block * dim + lane * 4;
    for (size_t c = 0; c < dim; c += 4) std::memcpy(tile + c * kKeyBlock, key.data() + c, 4);
  }
}

void Int8Cache::attend(const Query& query) const {
  const size_t at = plane(query.layer, query.head);
  const int dim = shape_.head_dim, rows = query.tokens * shape_.heads_per_kv, quads = dim / 4;
  const int blocks = (query.first_position + query.tokens + kKeyBlock - 1) / kKeyBlock, stride = blocks * kKeyBlock;
  Attention a = attention_of(query);
  a.values = values_.data() + at * dim;
  set_runs(a, query.slot);
  std::vector<uint32_t> words(size_t(rows) * quads);
  std::vector<float> scales(static_cast<size_t>(rows)), gathered;
  const CodedQueries coded{rows, quads, false, words.data(), words.data(), scales.data()};
  kernels_.code_queries(a, nullptr, coded);
  const std::vector<Run>& runs = table_.runs(query.slot);
  const float* value_scales = value_scales_.data() + at + size_t(runs[0].at) * kKeyBlock;
  if (runs[0].count < blocks) gathered.resize(size_t(stride));
  for (const Run& run : runs) {
    const int count = std::min(run.count, blocks - run.first), first = run.first * kKeyBlock;
    const size_t from = at + size_t(run.at) * kKeyBlock;
    if (count <= 0) break;
    kernels_.int8_scores(keys_.data() + from * dim, key_scales_.data() + from, count, coded, a.scores + first, stride);
    if (!gathered.empty()) std::copy_n(value_scales_.data() + from, count * kKeyBlock, gathered.data() + first);
  }
  kernels_.weigh_int8(a, gathered.empty() ? value_scales : gathered.data(), stride);
}

void Int8Cache::copy_block(int from, int to, int low, int high) {
  const size_t dim = size_t(shape_.head_dim), count = size_t(high - low);
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const size_t source = plane(layer, head) + size_t(from) * kKeyBlock;
      const size_t target = plane(layer, head) + size_t(to) * kKeyBlock, first = size_t(low);
      std::copy_n(key_scales_.data() + source + first, count, key_scales_.data() + target + first);
      std::copy_n(value_scales_.data() + source + first, count, value_scales_.data() + target + first);
      std::copy_n(values_.data() + (source + first) * dim, count * dim, values_.data() + (target + first) * dim);
      for (size_t c = 0; c < dim; c += 4)
        std::copy_n(keys_.data() + source * dim + c * kKeyBlock + first * 4, count * 4,
                    keys_.data() + target * dim + c * kKeyBlock + first * 4);
    }
}

}  // namespace edge
