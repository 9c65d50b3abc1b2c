// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "int8_cache.h"

namespace edge {

namespace {

constexpr int kWidest = 1024;  // dimensions of a head that are converted at a time

}  // namespace

DenseCache::DenseCache(const CacheShape& shape, const Kernels& kernels, bool half)
    : Cache(shape),
      kernels_(kernels),
      context_(round_up(shape.context, kKeyBlock)),
      item_(half ? sizeof(uint16_t) : sizeof(float)) {
  if (shape.head_dim > kWidest) throw std::invalid_argument("head_dim is above " + std::to_string(kWidest));
  keys_.resize(offset(0, shape.slots, 0));
  values_.resize(keys_.size());
}

template <typename T>
void DenseCache::write_rows(uint8_t* keys, uint8_t* values, int first, int count, const float* k, const float* v,
                            int stride) {
  const int dim = shape_.head_dim;
  uint16_t half[kWidest];
  for (int t = 0; t < count; ++t, k += stride, v += stride) {
    const int position = first + t;
    T* key = reinterpret_cast<T*>(keys) + size_t(position / kKeyBlock) * dim * kKeyBlock + position % kKeyBlock;
    T* value = reinterpret_cast<T*>(values) + size_t(position) * dim;
    if constexpr (sizeof(T) == sizeof(float)) {
      for (int d = 0; d < dim; ++d) key[d * kKeyBlock] = k[d];
      std::memcpy(value, v, sizeof(float) * size_t(dim));
    } else {
      kernels_.to_half(k, dim, half);
      for (int d = 0; d < dim; ++d) key[d * kKeyBlock] = half[d];
      kernels_.to_half(v, dim, value);
    }
  }
}

void DenseCache::write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
                       int stride) {
  const size_t at = offset(layer, slot, head);
  const auto rows = item_ == sizeof(float) ? &DenseCache::write_rows<float> : &DenseCache::write_rows<uint16_t>;
  (this->*rows)(keys_.data() + at, values_.data() + at, first, count, k, v, stride);
}

void DenseCache::attend(const Query& query) const {
  const size_t at = offset(query.layer, query.slot, query.head);
  Attention a = attention_of(query);
  a.half = item_ == sizeof(uint16_t);
  a.keys = keys_.data() + at;
  a.values = values_.data() + at;
  kernels_.attend(a);
}

void DenseCache::copy(int from, int to, int begin, int end) {
  if (begin >= end || from == to) return;
  const size_t line = size_t(kKeyBlock) * item_, row = size_t(shape_.head_dim) * item_;
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const size_t source = offset(layer, from, head), target = offset(layer, to, head);
      std::memcpy(values_.data() + target + size_t(begin) * row, values_.data() + source + size_t(begin) * row,
                  size_t(end - begin) * row);
      for (int block = begin / kKeyBlock; block * kKeyBlock < end; ++block) {
        const size_t at = size_t(block) * shape_.head_dim * line;
        const int low = std::max(begin - block * kKeyBlock, 0), high = std::min(end - block * kKeyBlock, kKeyBlock);
        if (high - low == kKeyBlock) {
          std::memcpy(keys_.data() + target + at, keys_.data() + source + at, size_t(shape_.head_dim) * line);
          continue;
        }
        for (int d = 0; d < shape_.head_dim; ++d) {
          const size_t first = at + size_t(d) * line + size_t(low) * item_;
          std::memcpy(keys_.data() + target + first, keys_.data() + source + first, size_t(high - low) * item_);
        }
      }
    }
}

std::unique_ptr<Cache> make_cache(const std::string& type, const CacheShape& shape, const Kernels& kernels) {
  if (type == "i8") return std::make_unique<Int8Cache>(shape, kernels);
  if (type != "f16" && type != "f32")
    throw std::invalid_argument("no key/value cache of type '" + type + "'; there are: f16, f32, i8");
  return std::make_unique<DenseCache>(shape, kernels, type == "f16");
}

}  // namespace edge
