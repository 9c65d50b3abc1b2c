// SPDX-License-Identifier: Apache-2.0
// The weights of a decoder in the order in which a step needs them: attention 0, feed-forward 0, attention 1, ...
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace edge {

// One attention or feed-forward block.
struct Block {
  Buffer<float> norm, sub_norm;  // `sub_norm` only in BitNet
  Matrix in[3];                  // attention: query, key, value; feed-forward: gate, up
  Matrix out;

  size_t bytes() const {
    size_t total = norm.bytes() + sub_norm.bytes() + out.bytes();
    for (const Matrix& m : in) total += m.bytes();
    return total;
  }
};

// Where blocks come from. A step acquires 0, 1, .. 2 * layers - 1 and releases each when its products are done; then it
// does the same with the pieces of the head, if the source has them: each is a block with some rows of it as `out`.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  // Waits until block `index` is there; throws if it cannot be had.
  virtual const Block& acquire(int index) = 0;
  virtual void release(int index) = 0;
  virtual int head_pieces() const { return 0; }
};

// Where the rows of the embedding come from; `row` may be called by several threads.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Writes row `index` as floats into `out`, columns rounded up to 32; throws if it cannot be had.
  virtual void row(int index, float* out) const = 0;
};

// All blocks in memory.
class ResidentBlocks : public BlockSource {
 public:
  explicit ResidentBlocks(int count) : blocks_(size_t(count)) {}
  const Block& acquire(int index) override { return blocks_[size_t(index)]; }
  void release(int) override {}
  Block& operator[](size_t index) { return blocks_[index]; }
  const Block& operator[](size_t index) const { return blocks_[index]; }
  size_t size() const { return blocks_.size(); }

 private:
  std::vector<Block> blocks_;
};

}  // namespace edge
