// SPDX-License-Identifier: Apache-2.0
// Keys as changes against the last propagated value (DeltaLLM, arXiv 2507.19608): masks and packed codes, with the
// keys of a window and the first ones exact. Values stay exact, or are kept in 8 bits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache.h"
#include "delta_kernels.h"

namespace edge {

struct DeltaOptions {
  std::vector<float> theta;  // [layer][kv head][channel], or one for all
  double window_scale = 0.05;
  int sink = 0;  // leading keys that stay exact
  int dense_below = 0;  // tokens; shorter contexts use exact keys only
  bool byte_values = false;  // values in 8 bits with a scale for each, not in half precision
};

// Score multiply-adds of the tokens written since `begin`, per layer: [0] of the prompt, [1] of what follows it.
struct DeltaCounts {
  std::vector<uint64_t> skipped[2], total[2];
  std::vector<double> zero_share;  // of the coded keys of a slot, per layer
  int window = 0;                  // of the prompt
};

class DeltaCache : public Cache {
 public:
  DeltaCache(const CacheShape& shape, const Kernels& kernels, const DeltaOptions& options);

  // What is written next is a prompt of `tokens` in all and then its continuation: sets the windows, counts anew.
  void begin(int slot, int tokens);
  DeltaCounts counts(int slot) const;
  // Bytes of what a slot holds of its keys; the rest of `bytes` is values and room to grow.
  size_t key_bytes(int slot) const;
  // K^ of a head, float (length, head_dim).
  std::vector<float> propagated(int layer, int slot, int head) const;

  void write(int layer, int slot, int head, int first, int count, const float* k, const float* v,
             int stride) override;
  void attend(const Query& query) const override;
  int copy(int from, int to, int begin, int end) override;
  void truncate(int slot, int length) override;
  size_t bytes() const override;
  size_t bytes_per_token() const override;

 private:
  struct Head {
    int length = 0;  // coded positions: whole tiles, then those of `open`
    std::vector<uint64_t> masks;   // [tile][quad]
    std::vector<uint32_t> starts;  // of each tile's codes, and one for the next
    std::vector<int8_t> codes;     // and kCodePad more
    std::vector<Escape> escapes;
    std::vector<int32_t> reference;        // [channel]: what the changes add up to
    std::vector<int8_t> open;              // [quad][16 keys][4 channels]: codes of the tile that is not full
    int open_zeros[kKeyBlock + 1] = {};    // zeros in the first keys of `open`
    int exact_begin = 0, exact_end = 0;    // positions of `exact`; begin is the first of a block
    int exact_valid = 0;                   // first position that `exact` really has
    std::vector<uint16_t> exact, sink;     // [position / 16][dim][16]
    uint64_t skipped[2] = {0, 0}, total[2] = {0, 0};
  };
  struct Slot {
    int prompt = 0, window = 0;
  };

  Head& head(int layer, int slot, int index) {
    return heads_[(size_t(slot) * shape_.layers + layer) * shape_.kv_heads + index];
  }
  const Head& head(int layer, int slot, int index) const { return const_cast<DeltaCache*>(this)->head(layer, slot, index); }
  const float* theta(int layer, int index) const {
    return theta_.data() + (size_t(layer) * shape_.kv_heads + index) * shape_.head_dim;
  }
  const float* step(int layer, int index) const { return step_.data() + (theta(layer, index) - theta_.data()); }
  // Positions before those of a head.
  size_t value_at(int layer, int slot, int index) const {
    return ((size_t(slot) * shape_.layers + layer) * shape_.kv_heads + index) * context_;
  }
  void put_value(size_t at, const float* value);

  int window(int tokens) const;
  int coded_until(const Head& h, const Slot& slot, int position) const;
  int ring(int position) const;
  void code(Head& h, const float* theta, const float* step, const float* key) const;
  void append(Head& h, const int32_t* change, int zeros) const;
  void follow(Head& h, const int32_t* target) const;
  void pack(Head& h) const;
  void unpack(const Head& h, int tile, int32_t* changes) const;
  template <typename F>
  void each_key(const Head& h, int begin, int end, F&& f) const;
  void truncate(Head& h, int length) const;
  void reserve_exact(Head& h, int first, int end, int keep) const;
  void put_exact(Head& h, int position, const uint16_t* key) const;
  uint64_t zeros_before(const Head& h, int position) const;
  void count(Head& h, const Slot& slot, int position) const;

  const Kernels& kernels_;
  const DeltaKernels& delta_;
  int context_, quads_;
  std::vector<uint8_t> fine_;  // [layer][kv head]: queries need 14 bits
  double window_scale_;
  int sink_, dense_below_;
  Buffer<float> theta_, step_;  // [layer][kv head][channel]
  std::vector<Head> heads_;
  std::vector<Slot> slots_;
  bool byte_values_;
  Buffer<uint16_t> values_;     // [slot][layer][head][position][dim], or
  Buffer<int8_t> value_codes_;  // the same with
  Buffer<float> value_scales_;  // [slot][layer][head][position]
};

}  // namespace edge
