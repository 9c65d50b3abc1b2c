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

void BlockCache::prepare(int slot, int first, int count) {
  table_.own(slot, first, first + count, [&](int from, int to) { copy_block(from, to, 0, kKeyBlock); });
}

int BlockCache::copy(int from, int to, int begin, int end) {
  if (begin >= end || from == to) return 0;
  if (!table_.has(from, end)) throw std::out_of_range("positions that are not in the cache cannot be copied");
  const int whole = round_up(begin, kKeyBlock), stop = end / kKeyBlock * kKeyBlock;
  if (whole >= stop || !table_.has(to, begin)) return copy_part(from, to, begin, end);
  const int before = copy_part(from, to, begin, whole);
  table_.share(from, to, whole / kKeyBlock, stop / kKeyBlock);
  return before + copy_part(from, to, stop, end);
}

int BlockCache::copy_part(int from, int to, int begin, int end) {
  if (begin >= end) return 0;
  prepare(to, begin, end - begin);
  for (int p = begin; p < end;) {
    const int low = p % kKeyBlock, high = std::min(kKeyBlock, low + end - p);
    copy_block(table_.at(from, p), table_.at(to, p), low, high);
    p += high - low;
  }
  return end - begin;
}

DenseCache::DenseCache(const CacheShape& shape, const Kernels& kernels, bool half)
    : BlockCache(shape), kernels_(kernels), item_(half ? sizeof(uint16_t) : sizeof(float)) {
  if (shape.head_dim > kWidest) throw std::invalid_argument("head_dim is above " + std::to_string(kWidest));
  keys_.resize(positions() * shape.head_dim * item_);
  values_.resize(keys_.size());
}

// Writes position `lane` of a block.
template <typename T>
void DenseCache::write_row(uint8_t* keys, uint8_t* values, int lane, const float* k, const float* v) {
  const int dim = shape_.head_dim;
  T* key = reinterpret_cast<T*>(keys) + lane;
  T* value = reinterpret_cast<T*>(values) + size_t(lane) * dim;
  if constexpr (sizeof(T) == sizeof(float)) {
    for (int d = 0; d < dim; ++d) key[d * kKeyBlock] = k[d];
    std::memcpy(value, v, sizeof(float) * size_t(dim));
  } else {
    uint16_t half[kWidest];
    kernels_.to_half(k, dim, half);
    for (int d = 0; d < dim; ++d) key[d * kKeyBlock] = half[d];
    kernels_.to_half(v, dim, value);
  }
}

void DenseCache::write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
                       int stride) {
  const auto row = item_ == sizeof(float) ? &DenseCache::write_row<float> : &DenseCache::write_row<uint16_t>;
  const size_t block = size_t(kKeyBlock) * shape_.head_dim * item_;
  for (int p = first; p < first + count; ++p, k += stride, v += stride) {
    const size_t at = offset(layer, head) + size_t(table_.at(slot, p)) * block;
    (this->*row)(keys_.data() + at, values_.data() + at, p % kKeyBlock, k, v);
  }
}

void DenseCache::attend(const Query& query) const {
  const size_t at = offset(query.layer, query.head);
  Attention a = attention_of(query);
  a.half = item_ == sizeof(uint16_t);
  a.keys = keys_.data() + at;
  a.values = values_.data() + at;
  set_runs(a, query.slot);
  kernels_.attend(a);
}

void DenseCache::copy_block(int from, int to, int low, int high) {
  const size_t dim = size_t(shape_.head_dim), line = kKeyBlock * item_, block = line * dim;
  const size_t bytes = size_t(high - low) * item_;
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const size_t plane = offset(layer, head), source = plane + size_t(from) * block, target = plane + size_t(to) * block;
      const size_t first = size_t(low) * item_;
      std::memcpy(values_.data() + target + first * dim, values_.data() + source + first * dim, bytes * dim);
      for (size_t d = 0; d < dim; ++d)
        std::memcpy(keys_.data() + target + d * line + first, keys_.data() + source + d * line + first, bytes);
    }
}

std::unique_ptr<Cache> make_cache(const std::string& type, const CacheShape& shape, const Kernels& kernels) {
  if (type == "i8") return std::make_unique<Int8Cache>(shape, kernels);
  if (type != "f16" && type != "f32")
    throw std::invalid_argument("no key/value cache of type '" + type + "'; there are: f16, f32, i8");
  return std::make_unique<DenseCache>(shape, kernels, type == "f16");
}

}  // namespace edge
