// SPDX-License-Identifier: Apache-2.0
// Which blocks of memory hold the positions of which sequence: a block that several sequences begin with is there once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace edge {

// Sequences of blocks of kKeyBlock positions. Nothing is copied when blocks are shared: those that are full do not
// change, and one that is written to is the sequence's own before. Memory never runs out, as the k-th block of a
// sequence is always one of `slots` blocks that are kept for k-th blocks.
class BlockTable {
 public:
  BlockTable(int slots, int context);

  int blocks() const { return int(users_.size()); }  // of all sequences
  // Blocks that hold something, and how many more there were if none was shared.
  int used() const { return used_; }
  int spared() const { return spared_; }
  // Where the blocks of a sequence are, in its order; those that lie together make a run.
  const std::vector<Run>& runs(int slot) const { return slots_[size_t(slot)].runs; }
  // Block that holds a position; the sequence must have it.
  int at(int slot, int position) const { return slots_[size_t(slot)].blocks[size_t(position / kKeyBlock)]; }

  bool has(int slot, int end) const { return end <= int(slots_[size_t(slot)].blocks.size()) * kKeyBlock; }

  // Makes positions [first, end) the sequence's own to write, and forgets those that follow. A block that others have,
  // too, is replaced by a new one: copy(from, to) is called if positions before `first` are in it.
  template <typename Copy>
  void own(int slot, int first, int end, Copy&& copy) {
    truncate(slot, end);
    bool changed = false;
    const std::vector<int>& mine = slots_[size_t(slot)].blocks;
    for (int k = std::min(first / kKeyBlock, int(mine.size())); k * kKeyBlock < end; ++k) {
      if (k < int(mine.size()) && users_[size_t(mine[size_t(k)])] == 1) continue;
      const int before = k < int(mine.size()) ? mine[size_t(k)] : -1;
      put(slot, k, take(slot, k));
      if (before >= 0 && first > k * kKeyBlock) copy(before, mine[size_t(k)]);
      changed = true;
    }
    if (changed) find_runs(slot);
  }

  // Makes blocks [begin, end) of `to`, which has those before, those of `from`; forgets what follows in `to`.
  void share(int from, int to, int begin, int end);
  void truncate(int slot, int length);

 private:
  struct Slot {
    std::vector<int> blocks;
    std::vector<Run> runs;
  };

  int take(int slot, int k) const;
  void put(int slot, int k, int block);
  void drop(int block);
  void find_runs(int slot);

  int per_slot_;
  std::vector<uint16_t> users_;  // of each block
  std::vector<Slot> slots_;
  int used_ = 0, spared_ = 0;
};

}  // namespace edge
