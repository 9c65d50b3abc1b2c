// SPDX-License-Identifier: Apache-2.0
// Memory of the blocks of a window: one mapping, whose pages are huge where the system has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace edge {

constexpr size_t kPage = 4096;
inline size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Anonymous memory that begins at a huge page. Disks read into huge pages at up to three times the speed: the buffer of
// a read is one piece in place of one for each 4 KiB. The system gives pages when they are first written.
class Arena {
 public:
  // Throws std::bad_alloc.
  explicit Arena(size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  uint8_t* at(size_t offset) const { return data_ + offset; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_;
};

// Places in a piece of memory that are given back in the order in which they were taken. The same as
// `edge_nodes.paging.ring`, by which plans are made.
class Ring {
 public:
  explicit Ring(size_t bytes) : size_(bytes) {}
  // Offset of a place for `bytes` in one piece, if there is one now; always if nothing is taken and `bytes` fit at all.
  std::optional<size_t> take(size_t bytes);
  // Gives back the oldest place.
  void give_back() { taken_.pop_front(); }
  void clear() { taken_.clear(); }

 private:
  struct Place {
    size_t begin, end;
  };
  size_t size_;
  std::deque<Place> taken_;
};

}  // namespace edge
