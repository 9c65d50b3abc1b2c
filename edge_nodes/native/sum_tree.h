// SPDX-License-Identifier: Apache-2.0
// The order in which a sum over columns is made, so that boards with any shares of the columns get the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace edge {

constexpr int kTreeHeight = 16;  // most sums that wait at a time

// A sum over columns, made within units of some columns first and then by a balanced binary tree over all units of the
// model (pairwise summation). Who has a part of the units makes the sums of the largest subtrees that lie within it, its
// roots; added up by the rest of the same tree they give the same result for any cut between units.
struct SumTree {
  int unit = 0;                 // columns of a leaf
  std::vector<uint8_t> merges;  // after each leaf: how often the last two sums are added
  int roots = 1;                // sums that are left, from left to right

  SumTree() = default;
  // Of units [first, last) of `units`; throws std::invalid_argument if there are too many.
  SumTree(int unit, int units, int first, int last) : unit(unit), merges(size_t(last - first)), roots(last - first) {
    count(0, units, first, last);
    int height = 0;
    for (const uint8_t n : merges) {
      if (++height > kTreeHeight) throw std::invalid_argument("too many units to add up");
      height -= n;
    }
  }

 private:
  void count(int begin, int end, int first, int last) {
    if (end - begin < 2) return;
    if (begin >= first && end <= last) {
      ++merges[size_t(end - 1 - first)];
      --roots;
    }
    const int middle = begin + (end - begin + 1) / 2;
    count(begin, middle, first, last);
    count(middle, end, first, last);
  }
};

// Columns of a unit of a row of `columns`: 12 to 23 units of a power of two, but no less than `least`.
inline int unit_of(int columns, int least) {
  int unit = least;
  while (columns >= 24 * unit) unit *= 2;
  return unit;
}

}  // namespace edge
