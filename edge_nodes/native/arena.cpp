// SPDX-License-Identifier: Apache-2.0
#include "arena.h"

#include <sys/mman.h>

#include <new>

namespace edge {

namespace {

constexpr size_t kHugePage = size_t(1) << 21;

}  // namespace

Arena::Arena(size_t bytes) : size_(whole_pages(bytes)) {
  const size_t mapped = size_ + kHugePage;  // some part of it begins at a huge page
  void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  uint8_t* const begin = static_cast<uint8_t*>(memory);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  data_ = begin + before;
  if (before) ::munmap(begin, before);
  ::munmap(data_ + size_, kHugePage - before);
#ifdef MADV_HUGEPAGE
  ::madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

Arena::~Arena() { ::munmap(data_, size_); }

std::optional<size_t> Ring::take(size_t bytes) {
  size_t begin = 0;
  if (!taken_.empty()) {
    const size_t tail = taken_.front().begin, head = taken_.back().end;
    const bool wrapped = taken_.back().begin < tail;
    begin = head;
    if (wrapped ? head + bytes > tail : head + bytes > size_) {
      if (wrapped || bytes > tail) return std::nullopt;
      begin = 0;
    }
  } else if (bytes > size_) {
    return std::nullopt;
  }
  taken_.push_back({begin, begin + bytes});
  return begin;
}

}  // namespace edge
