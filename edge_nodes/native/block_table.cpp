// SPDX-License-Identifier: Apache-2.0
#include "block_table.h"

#include <stdexcept>

namespace edge {

BlockTable::BlockTable(int slots, int context)
    : per_slot_(round_up(context, kKeyBlock) / kKeyBlock),
      users_(size_t(slots) * size_t(per_slot_), 0),
      slots_(size_t(slots)) {}

// A free block for the k-th of a sequence: its own one, so that the sequence lies together, or the one that continues
// the block before, or any that is kept for k-th blocks.
int BlockTable::take(int slot, int k) const {
  const int own = slot * per_slot_ + k;
  if (!users_[size_t(own)]) return own;
  const int next = k ? slots_[size_t(slot)].blocks[size_t(k) - 1] + 1 : own;
  if (!users_[size_t(next)]) return next;
  for (int block = k; block < blocks(); block += per_slot_)
    if (!users_[size_t(block)]) return block;
  throw std::logic_error("more blocks are in use than sequences can have");
}

void BlockTable::put(int slot, int k, int block) {
  std::vector<int>& mine = slots_[size_t(slot)].blocks;
  if (k < int(mine.size()))
    drop(mine[size_t(k)]);
  else
    mine.push_back(block);
  mine[size_t(k)] = block;
  ++(users_[size_t(block)]++ ? spared_ : used_);
}

void BlockTable::drop(int block) { --(--users_[size_t(block)] ? spared_ : used_); }

void BlockTable::share(int from, int to, int begin, int end) {
  truncate(to, end * kKeyBlock);
  for (int k = begin; k < end; ++k) {
    const int block = slots_[size_t(from)].blocks[size_t(k)];
    const std::vector<int>& mine = slots_[size_t(to)].blocks;
    if (k >= int(mine.size()) || mine[size_t(k)] != block) put(to, k, block);
  }
  find_runs(to);
}

void BlockTable::truncate(int slot, int length) {
  std::vector<int>& mine = slots_[size_t(slot)].blocks;
  const size_t keep = size_t(round_up(length, kKeyBlock) / kKeyBlock);
  if (mine.size() <= keep) return;
  for (size_t k = keep; k < mine.size(); ++k) drop(mine[k]);
  mine.resize(keep);
  find_runs(slot);
}

void BlockTable::find_runs(int slot) {
  Slot& s = slots_[size_t(slot)];
  s.runs.clear();
  for (int k = 0; k < int(s.blocks.size()); ++k) {
    const int block = s.blocks[size_t(k)];
    if (!s.runs.empty() && s.runs.back().at + s.runs.back().count == block)
      ++s.runs.back().count;
    else
      s.runs.push_back({k, 1, block});
  }
}

}  // namespace edge
