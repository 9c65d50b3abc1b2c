// SPDX-License-Identifier: Apache-2.0
#include "delta_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "int8_cache.h"

namespace edge {

namespace {

constexpr float kLeastStep = 1.0f / 1024;
constexpr float kCoarseStep = 1.0f / 16;  // with smaller steps, 8 bits of a query would add to the error of the keys
constexpr int kWidest = 1024;  // dimensions of a head
constexpr int kRefresh = kRefreshTiles * kKeyBlock;

int rounded(double scale, int n) { return int(std::nearbyint(scale * n)); }

int block_start(int position) { return position / kKeyBlock * kKeyBlock; }

// Of 16 keys and 4 channels, the bits of the first `keys` keys.
uint64_t of_keys(uint64_t mask, int keys) { return keys < kKeyBlock ? mask & ((uint64_t(1) << 4 * keys) - 1) : mask; }

// Room for `size` items, with an eighth more when it must grow.
template <typename T>
void grow(std::vector<T>& items, size_t size) {
  if (size > items.capacity()) items.reserve(size + size / 8 + 256 / sizeof(T));
  items.resize(size);
}

}  // namespace

DeltaCache::DeltaCache(const CacheShape& shape, const Kernels& kernels, const DeltaOptions& options)
    : Cache(shape),
      kernels_(kernels),
      delta_(delta_kernels(kernels.name)),
      context_(round_up(shape.context, kKeyBlock)),
      quads_(shape.head_dim / 4),
      window_scale_(options.window_scale),
      sink_(options.sink),
      dense_below_(options.dense_below),
      byte_values_(options.byte_values) {
  const size_t channels = size_t(shape.layers) * shape.kv_heads * shape.head_dim;
  if (shape.head_dim > kWidest) throw std::invalid_argument("head_dim is above " + std::to_string(kWidest));
  if (!(window_scale_ >= 0.0) || window_scale_ > 1.0 || sink_ < 0 || dense_below_ < 0)
    throw std::invalid_argument("window_scale must be 0 to 1, sink and dense_below 0 or more");
  if (options.theta.size() != 1 && options.theta.size() != channels)
    throw std::invalid_argument("theta must be one number, or " + std::to_string(channels));
  theta_.resize(channels);
  step_.resize(channels);
  for (size_t i = 0; i < channels; ++i) {
    theta_[i] = options.theta[options.theta.size() == 1 ? 0 : i];
    if (!(theta_[i] >= 0.0f)) throw std::invalid_argument("theta must be 0 or more");
    step_[i] = std::max(theta_[i] / 2, kLeastStep);
  }
  for (size_t at = 0; at < channels; at += size_t(shape.head_dim))
    fine_.push_back(std::accumulate(&step_[at], &step_[at] + shape.head_dim, 0.0f) < kCoarseStep * float(shape.head_dim));
  slots_.resize(size_t(shape.slots));
  heads_.resize(size_t(shape.slots) * shape.layers * shape.kv_heads);
  for (Head& h : heads_) {
    h.starts.assign(1, 0);
    h.codes.assign(kCodePad, 0);
    h.reference.assign(size_t(shape.head_dim), 0);
    h.open.assign(size_t(kKeyBlock) * shape.head_dim, int8_t(0));
    h.sink.assign(size_t(round_up(sink_, kKeyBlock)) * shape.head_dim, 0);
  }
  const size_t positions = value_at(0, shape.slots, 0);
  if (byte_values_) {
    value_codes_.resize(positions * shape.head_dim);
    value_scales_.resize_zero(positions);
  } else {
    values_.resize(positions * shape.head_dim);
  }
}

void DeltaCache::put_value(size_t at, const float* value) {
  const int dim = shape_.head_dim;
  if (byte_values_)
    value_scales_[at] = code_row(value, dim, value_codes_.data() + at * dim);
  else
    kernels_.to_half(value, dim, values_.data() + at * dim);
}

void DeltaCache::begin(int slot, int tokens) {
  slots_[size_t(slot)] = {tokens, window(tokens)};
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int i = 0; i < shape_.kv_heads; ++i) {
      Head& h = head(layer, slot, i);
      for (int stage = 0; stage < 2; ++stage) h.skipped[stage] = h.total[stage] = 0;
    }
}

// Of `tokens` in all, the exact ones.
int DeltaCache::window(int tokens) const { return tokens < dense_below_ ? tokens : rounded(window_scale_, tokens); }

int DeltaCache::ring(int position) const { return std::max(1, window(position + 1)); }

// Keys before this position are coded, those from it on exact, for a query at `position`.
int DeltaCache::coded_until(const Head& h, const Slot& slot, int position) const {
  int from = position + 1;
  if (position >= slot.prompt)
    from = std::max(0, position + 1 - ring(position));
  else if (slot.window > 0)
    from = position / slot.window * slot.window;
  return std::min(std::max(from, h.exact_valid), position + 1);
}

void DeltaCache::code(Head& h, const float* theta, const float* step, const float* key) const {
  int32_t change[kWidest];
  const bool full = h.length % kRefresh == 0;
  if (full) std::fill(h.reference.begin(), h.reference.end(), 0);
  append(h, change, delta_.code_key(key, theta, step, shape_.head_dim, full, h.reference.data(), change));
}

// Makes the next key what `target` is, in steps.
void DeltaCache::follow(Head& h, const int32_t* target) const {
  int32_t change[kWidest];
  int zeros = 0;
  if (h.length % kRefresh == 0) std::fill(h.reference.begin(), h.reference.end(), 0);
  for (int c = 0; c < shape_.head_dim; ++c) {
    change[c] = target[c] - h.reference[size_t(c)];
    zeros += change[c] == 0;
    h.reference[size_t(c)] = target[c];
  }
  append(h, change, zeros);
}

// Takes the changes of the next key; the reference has followed already.
void DeltaCache::append(Head& h, const int32_t* change, int zeros) const {
  const int lane = h.length % kKeyBlock, tile = h.length / kKeyBlock;
  int8_t* open = h.open.data() + 4 * lane;
  for (int c = 0; c < shape_.head_dim; ++c) {
    const int32_t code = std::min(kLargestCode, std::max(-kLargestCode, change[c]));
    open[c / 4 * 64 + c % 4] = int8_t(code);
    if (code != change[c]) h.escapes.push_back({tile, int16_t(lane), int16_t(c), change[c] - code});
  }
  h.open_zeros[lane + 1] = h.open_zeros[lane] + zeros;
  if (++h.length % kKeyBlock) return;
  pack(h);
  std::fill(h.open.begin(), h.open.end(), int8_t(0));
  h.starts.push_back(uint32_t(h.codes.size()) - kCodePad);
}

// Writes `open` behind the whole tiles.
void DeltaCache::pack(Head& h) const {
  const size_t tile = h.starts.size() - 1;
  int8_t codes[kKeyBlock * kWidest];
  grow(h.masks, (tile + 1) * size_t(quads_));
  const size_t size = size_t(delta_.pack_tile(h.open.data(), quads_, h.masks.data() + tile * size_t(quads_), codes));
  grow(h.codes, h.starts.back() + size + kCodePad);
  std::memcpy(h.codes.data() + h.starts.back(), codes, size);
}

// Changes of a tile, [16 keys][channel].
void DeltaCache::unpack(const Head& h, int tile, int32_t* changes) const {
  const int dim = shape_.head_dim;
  std::fill(changes, changes + kKeyBlock * dim, 0);
  if (tile == int(h.starts.size()) - 1) {
    for (int i = 0; i < kKeyBlock * dim; ++i) changes[i % 64 / 4 * dim + i / 64 * 4 + i % 4] = h.open[size_t(i)];
  } else {
    const int8_t* next = h.codes.data() + h.starts[size_t(tile)];
    for (int q = 0; q < quads_; ++q)
      for (uint64_t mask = h.masks[size_t(tile) * quads_ + q]; mask; mask &= mask - 1) {
        const int i = __builtin_ctzll(mask);
        changes[i / 4 * dim + 4 * q + i % 4] = *next++;
      }
  }
  for (const Escape& e : h.escapes)
    if (e.tile == tile) changes[e.key * dim + e.channel] += e.extra;
}

// Calls f(position, its key in steps) for positions [begin, end).
template <typename F>
void DeltaCache::each_key(const Head& h, int begin, int end, F&& f) const {
  const int dim = shape_.head_dim;
  std::vector<int32_t> changes(size_t(kKeyBlock) * dim), sums(static_cast<size_t>(dim));
  for (int p = begin / kRefresh * kRefresh; p < end; ++p) {
    if (p % kRefresh == 0) std::fill(sums.begin(), sums.end(), 0);
    if (p % kKeyBlock == 0) unpack(h, p / kKeyBlock, changes.data());
    for (int c = 0; c < dim; ++c) sums[size_t(c)] += changes[size_t(p % kKeyBlock) * dim + c];
    if (p >= begin) f(p, sums.data());
  }
}

void DeltaCache::truncate(Head& h, int length) const {
  h.exact_end = std::min(h.exact_end, length);
  if (h.exact_end <= h.exact_valid) h.exact_begin = h.exact_end = h.exact_valid = 0;
  if (length >= h.length) return;
  const int tile = length / kKeyBlock, dim = shape_.head_dim, begin = tile * kKeyBlock;
  // The keys of the tile that is cut, with the one before: what they add up to does not change.
  std::vector<int32_t> kept;
  each_key(h, std::max(begin - 1, 0), length, [&](int, const int32_t* key) { kept.insert(kept.end(), key, key + dim); });
  h.starts.resize(size_t(tile) + 1);
  h.masks.resize(size_t(tile) * quads_);
  h.codes.resize(h.starts.back() + size_t(kCodePad));
  while (!h.escapes.empty() && h.escapes.back().tile >= tile) h.escapes.pop_back();
  std::fill(h.open.begin(), h.open.end(), int8_t(0));
  std::fill(h.reference.begin(), h.reference.end(), 0);
  h.length = begin;
  size_t at = 0;
  if (begin > 0) std::copy_n(kept.data(), dim, h.reference.data()), at = size_t(dim);
  for (; at < kept.size(); at += size_t(dim)) follow(h, kept.data() + at);
}

void DeltaCache::truncate(int slot, int length) {
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int i = 0; i < shape_.kv_heads; ++i) truncate(head(layer, slot, i), length);
}

// Makes room in `exact` for positions [first, end), keeping what it has from `keep` on.
void DeltaCache::reserve_exact(Head& h, int first, int end, int keep) const {
  const size_t block = size_t(kKeyBlock) * shape_.head_dim;
  if (h.exact_end != first || h.exact_begin == h.exact_end) {
    h.exact_begin = block_start(first);
    h.exact_end = h.exact_valid = first;
  }
  const size_t need = size_t(round_up(end, kKeyBlock) - h.exact_begin) / kKeyBlock * block;
  if (need <= h.exact.size()) return;
  const int begin = std::max(h.exact_begin, block_start(std::max(keep, 0)));
  const size_t drop = size_t(begin - h.exact_begin) / kKeyBlock * block;
  if (drop && drop <= h.exact.size()) {
    h.exact.erase(h.exact.begin(), h.exact.begin() + ptrdiff_t(drop));
    h.exact_begin = begin;
    h.exact_valid = std::max(h.exact_valid, begin);
  }
  const size_t rest = size_t(round_up(end, kKeyBlock) - h.exact_begin) / kKeyBlock * block;
  h.exact.resize(rest + rest / 8 / block * block);  // room, so that keys do not move at each block
}

void DeltaCache::put_exact(Head& h, int position, const uint16_t* key) const {
  const int dim = shape_.head_dim;
  const auto put = [&](std::vector<uint16_t>& rows, int at) {
    uint16_t* block = rows.data() + size_t(at / kKeyBlock) * dim * kKeyBlock + at % kKeyBlock;
    for (int d = 0; d < dim; ++d) block[size_t(d) * kKeyBlock] = key[d];
  };
  put(h.exact, position - h.exact_begin);
  if (position < sink_) put(h.sink, position);
  h.exact_end = position + 1;
}

uint64_t DeltaCache::zeros_before(const Head& h, int position) const {
  const int tile = position / kKeyBlock, keys = position % kKeyBlock, tiles = int(h.starts.size()) - 1;
  if (tile >= tiles) return uint64_t(tiles) * kKeyBlock * shape_.head_dim - h.starts.back() + uint64_t(h.open_zeros[keys]);
  uint64_t there = h.starts[size_t(tile)];
  for (int q = 0; q < quads_ && keys; ++q)
    there += uint64_t(__builtin_popcountll(of_keys(h.masks[size_t(tile) * quads_ + q], keys)));
  return uint64_t(position) * shape_.head_dim - there;
}

void DeltaCache::count(Head& h, const Slot& slot, int position) const {
  const int stage = position >= slot.prompt, until = coded_until(h, slot, position);
  h.total[stage] += uint64_t(position + 1) * shape_.head_dim;
  if (until > sink_) h.skipped[stage] += zeros_before(h, until) - zeros_before(h, std::min(sink_, until));
}

void DeltaCache::write(int layer, int slot, int index, int first, int count, const float* k, const float* v,
                       int stride) {
  Head& h = head(layer, slot, index);
  const Slot& s = slots_[size_t(slot)];
  const int dim = shape_.head_dim, end = first + count;
  if (first < h.length || first < h.exact_end) truncate(h, first);
  if (first > h.length) throw std::out_of_range("tokens before are missing from the cache");
  reserve_exact(h, first, end, first - std::max(s.window, ring(end)));
  uint16_t key[kWidest];
  const size_t values = value_at(layer, slot, index) + size_t(first);
  for (int t = 0; t < count; ++t, k += stride, v += stride) {
    kernels_.to_half(k, dim, key);
    put_value(values + size_t(t), v);
    put_exact(h, first + t, key);
    code(h, theta(layer, index), step(layer, index), k);
  }
  int coded = 0;
  for (int p = first; p < end; ++p) {
    this->count(h, s, p);
    coded = std::max(coded, coded_until(h, s, p));
  }
  if (coded > block_start(h.length)) pack(h);
}

void DeltaCache::attend(const Query& query) const {
  const Head& h = head(query.layer, query.slot, query.head);
  const Slot& slot = slots_[size_t(query.slot)];
  const int dim = shape_.head_dim, last = query.first_position + query.tokens;
  const int blocks = (last + kKeyBlock - 1) / kKeyBlock, stride = blocks * kKeyBlock;
  Attention a = attention_of(query);
  a.half = true;
  const size_t values = value_at(query.layer, query.slot, query.head);
  a.values = byte_values_ ? static_cast<const void*>(value_codes_.data() + values * dim) : values_.data() + values * dim;
  const int rows = a.tokens * a.heads_per_kv;
  std::vector<int> until(static_cast<size_t>(rows));
  int least = last, most = 0;
  for (int r = 0; r < rows; ++r) {
    const int position = query.first_position + r / a.heads_per_kv;
    until[size_t(r)] = coded_until(h, slot, position);
    least = std::min(least, until[size_t(r)]);
    most = std::max(most, until[size_t(r)]);
  }
  const int begin = least / kKeyBlock;
  a.keys = h.exact.data() + size_t(begin - h.exact_begin / kKeyBlock) * dim * kKeyBlock;
  if (begin < blocks) delta_.exact_scores(a, begin, blocks, stride);
  if (sink_ > 0) {
    a.keys = h.sink.data();
    delta_.exact_scores(a, 0, std::min({round_up(sink_, kKeyBlock) / kKeyBlock, begin, blocks}), stride);
  }
  if (most > sink_) {
    std::vector<uint32_t> words(size_t(rows) * quads_ * 2);
    std::vector<float> scales(static_cast<size_t>(rows));
    const bool fine = fine_[size_t(query.layer) * shape_.kv_heads + query.head];
    const CodedQueries coded{rows, quads_, fine, words.data(), words.data() + size_t(rows) * quads_, scales.data()};
    delta_.code_queries(a, step(query.layer, query.head), coded);
    DeltaTiles keys;
    keys.tiles = (most + kKeyBlock - 1) / kKeyBlock;
    keys.quads = quads_;
    keys.masks = h.masks.data();
    keys.codes = h.codes.data();
    keys.starts = h.starts.data();
    keys.escapes = h.escapes.data();
    keys.escape_count = h.escapes.size();
    keys.values = static_cast<const char*>(a.values);
    keys.value_bytes = size_t(kKeyBlock) * dim * (byte_values_ ? 1 : sizeof(uint16_t));
    delta_.delta_scores(keys, coded, sink_, until.data(), a.scores, stride);
  }
  if (byte_values_)
    delta_.weigh_int8(a, value_scales_.data() + values, stride);
  else
    delta_.weigh(a, stride);
}

int DeltaCache::copy(int from, int to, int begin, int end) {
  if (begin >= end || from == to) return 0;
  const int dim = shape_.head_dim;
  std::vector<uint16_t> key(static_cast<size_t>(dim));
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int i = 0; i < shape_.kv_heads; ++i) {
      const Head& source = head(layer, from, i);
      Head& target = head(layer, to, i);
      if (end > source.length || begin > target.length)
        throw std::out_of_range("positions that are not in the cache cannot be copied");
      truncate(target, begin);
      const size_t read = value_at(layer, from, i) + size_t(begin), put = value_at(layer, to, i) + size_t(begin);
      const size_t numbers = size_t(end - begin) * dim;
      if (byte_values_) {
        std::copy_n(value_codes_.data() + read * dim, numbers, value_codes_.data() + put * dim);
        std::copy_n(value_scales_.data() + read, size_t(end - begin), value_scales_.data() + put);
      } else {
        std::copy_n(values_.data() + read * dim, numbers, values_.data() + put * dim);
      }
      each_key(source, begin, end, [&](int, const int32_t* key) { follow(target, key); });
      if (target.length % kKeyBlock) pack(target);
      const int first = std::max(begin, source.exact_valid), stop = std::min(end, source.exact_end);
      if (first < stop) reserve_exact(target, first, stop, 0);
      for (int p = first; p < stop; ++p) {
        const uint16_t* block = source.exact.data() + size_t((p - source.exact_begin) / kKeyBlock) * dim * kKeyBlock;
        for (int d = 0; d < dim; ++d) key[size_t(d)] = block[size_t(d) * kKeyBlock + p % kKeyBlock];
        put_exact(target, p, key.data());
      }
      if (begin < sink_) target.sink = source.sink;
    }
  return end - begin;
}

DeltaCounts DeltaCache::counts(int slot) const {
  DeltaCounts out;
  out.window = slots_[size_t(slot)].window;
  for (int layer = 0; layer < shape_.layers; ++layer) {
    uint64_t zeros = 0, elements = 0;
    for (int stage = 0; stage < 2; ++stage) {
      out.skipped[stage].push_back(0);
      out.total[stage].push_back(0);
    }
    for (int i = 0; i < shape_.kv_heads; ++i) {
      const Head& h = head(layer, slot, i);
      for (int stage = 0; stage < 2; ++stage) {
        out.skipped[stage].back() += h.skipped[stage];
        out.total[stage].back() += h.total[stage];
      }
      zeros += zeros_before(h, h.length);
      elements += uint64_t(h.length) * shape_.head_dim;
    }
    out.zero_share.push_back(elements ? double(zeros) / double(elements) : 0.0);
  }
  return out;
}

size_t DeltaCache::key_bytes(int slot) const {
  size_t total = 0;
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int i = 0; i < shape_.kv_heads; ++i) {
      const Head& h = head(layer, slot, i);
      const int exact = h.exact_end > h.exact_begin ? round_up(h.exact_end - h.exact_begin, kKeyBlock) : 0;
      total += h.masks.size() * sizeof(uint64_t) + h.starts.size() * sizeof(uint32_t) + h.codes.size() +
               h.escapes.size() * sizeof(Escape) + h.reference.size() * sizeof(int32_t) + h.open.size() +
               (size_t(exact) * shape_.head_dim + h.sink.size()) * sizeof(uint16_t);
    }
  return total;
}

std::vector<float> DeltaCache::propagated(int layer, int slot, int index) const {
  const Head& h = head(layer, slot, index);
  const int dim = shape_.head_dim;
  std::vector<float> out;
  each_key(h, 0, h.length, [&](int, const int32_t* key) {
    for (int c = 0; c < dim; ++c) out.push_back(float(key[c]) * step(layer, index)[c]);
  });
  return out;
}

size_t DeltaCache::bytes() const {
  size_t total = values_.bytes() + value_codes_.bytes() + value_scales_.bytes() + theta_.bytes() + step_.bytes();
  for (const Head& h : heads_)
    total += h.masks.capacity() * sizeof(uint64_t) + h.starts.capacity() * sizeof(uint32_t) + h.codes.capacity() +
             h.escapes.capacity() * sizeof(Escape) + h.reference.size() * sizeof(int32_t) + h.open.size() +
             (h.exact.capacity() + h.sink.size()) * sizeof(uint16_t);
  return total;
}

size_t DeltaCache::bytes_per_token() const {
  size_t keys = 0, tokens = 0;
  for (int slot = 0; slot < shape_.slots; ++slot) {
    keys += key_bytes(slot);
    tokens += size_t(head(0, slot, 0).length);
  }
  const size_t half = sizeof(uint16_t) * size_t(shape_.head_dim);
  const size_t value = byte_values_ ? half / 2 + sizeof(float) : half;
  const size_t heads = size_t(shape_.layers) * shape_.kv_heads;
  return heads * value + (tokens ? keys / tokens : heads * half);
}

}  // namespace edge
