// SPDX-License-Identifier: Apache-2.0
// Keys and values of several sequences, and attention over them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "block_table.h"
#include "kernels.h"

namespace edge {

constexpr int kQueryTokens = 8;  // most tokens of a query block: they share a pass over the keys

struct CacheShape {
  int slots = 1;  // sequences
  int layers = 0, kv_heads = 0, head_dim = 0;
  int heads_per_kv = 1;
  int context = 0;  // positions of a sequence
};

// A block of up to kQueryTokens consecutive tokens of one sequence: the query heads of one key/value head.
struct Query {
  int layer = 0, slot = 0, head = 0;
  int first_position = 0, tokens = 0;
  const float* q = nullptr;  // scaled and rotated: q[token * stride + i * head_dim + d], i < heads_per_kv
  float* out = nullptr;      // the same layout
  int stride = 0;
  float* scores = nullptr;  // scratch of `score_floats` floats
};

// Calls for different (slot, layer, head) may run at the same time. Results never depend on other slots.
class Cache {
 public:
  explicit Cache(const CacheShape& shape) : shape_(shape) {}
  virtual ~Cache() = default;
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // Called by one thread before the writes of a step: positions first .. first + count - 1 of a sequence will be
  // written, what followed them is forgotten.
  virtual void prepare(int slot, int first, int count) {
    (void)slot;
    (void)first;
    (void)count;
  }
  // Stores rotated keys and values of `count` tokens at positions first ..: row t begins at k + t * stride.
  virtual void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
                     int stride) = 0;
  virtual void attend(const Query& query) const = 0;
  // Makes positions [begin, end) of `to` those of `from` and forgets what followed. Whole blocks of positions are
  // shared where the kind of cache can. Returns how many positions were copied.
  virtual int copy(int from, int to, int begin, int end) = 0;
  // Forgets positions from `length` on. Writing at a position forgets what was there as well.
  virtual void truncate(int slot, int length) {
    (void)slot;
    (void)length;
  }
  virtual size_t bytes() const = 0;
  // Bytes that hold something now, those that sequences share once; and how many more there were if none was shared.
  virtual size_t used_bytes() const { return bytes(); }
  virtual size_t shared_bytes() const { return 0; }
  // Bytes of a position.
  virtual size_t bytes_per_token() const = 0;

  const CacheShape& shape() const { return shape_; }
  size_t score_floats() const {
    return size_t(kQueryTokens) * shape_.heads_per_kv * round_up(shape_.context, kKeyBlock);
  }

 protected:
  // The kernels' view of a query block; keys and values are left to the kind of cache.
  Attention attention_of(const Query& query) const {
    Attention a;
    a.q = query.q;
    a.out = query.out;
    a.stride = query.stride;
    a.tokens = query.tokens;
    a.heads_per_kv = shape_.heads_per_kv;
    a.first_position = query.first_position;
    a.head_dim = shape_.head_dim;
    a.scores = query.scores;
    return a;
  }

  CacheShape shape_;
};

// A cache all of whose keys and values lie in blocks that sequences share.
class BlockCache : public Cache {
 public:
  explicit BlockCache(const CacheShape& shape) : Cache(shape), table_(shape.slots, shape.context) {}

  void prepare(int slot, int first, int count) override;
  int copy(int from, int to, int begin, int end) override;
  void truncate(int slot, int length) override { table_.truncate(slot, length); }
  size_t used_bytes() const override { return size_t(table_.used()) * kKeyBlock * bytes_per_token(); }
  size_t shared_bytes() const override { return size_t(table_.spared()) * kKeyBlock * bytes_per_token(); }

 protected:
  // Copies positions [low, high) of a block to another, for all layers and heads.
  virtual void copy_block(int from, int to, int low, int high) = 0;

  // Positions before those of a head; all sequences' blocks follow each other there.
  size_t plane(int layer, int head) const {
    return (size_t(layer) * shape_.kv_heads + head) * size_t(table_.blocks()) * kKeyBlock;
  }
  size_t positions() const { return plane(shape_.layers, 0); }
  void set_runs(Attention& a, int slot) const {
    a.runs = table_.runs(slot).data();
    a.run_count = int(table_.runs(slot).size());
  }

  BlockTable table_;

 private:
  int copy_part(int from, int to, int begin, int end);
};

// Every key and value as it is, in half or single precision.
class DenseCache : public BlockCache {
 public:
  DenseCache(const CacheShape& shape, const Kernels& kernels, bool half);

  void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
             int stride) override;
  void attend(const Query& query) const override;
  size_t bytes() const override { return keys_.bytes() + values_.bytes(); }
  size_t bytes_per_token() const override {
    return 2 * item_ * size_t(shape_.layers) * shape_.kv_heads * shape_.head_dim;
  }

 protected:
  void copy_block(int from, int to, int low, int high) override;

 private:
  // Bytes before the keys (or values) of a head.
  size_t offset(int layer, int head) const { return plane(layer, head) * shape_.head_dim * item_; }
  template <typename T>
  void write_row(uint8_t* keys, uint8_t* values, int lane, const float* k, const float* v);

  const Kernels& kernels_;
  size_t item_;  // bytes of a number
  Buffer<uint8_t> keys_, values_;  // [layer][head][block][dim][16] and [...][block][16][dim]
};

// `type` is "f16", "f32" or "i8"; throws std::invalid_argument otherwise.
std::unique_ptr<Cache> make_cache(const std::string& type, const CacheShape& shape, const Kernels& kernels);

}  // namespace edge
