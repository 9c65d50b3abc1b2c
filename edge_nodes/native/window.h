// SPDX-License-Identifier: Apache-2.0
// Blocks of a model read ahead in order, used and freed within a budget of bytes (PIPELOAD, arXiv 2409.04249, and the
// sliding window of TPI-LLM, arXiv 2410.00531; the ledger with in-order admission is our own).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arena.h"

namespace edge {

// A block that could not be had.
class BlockError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where the bytes of a block come from. `load` is called by several threads at once.
class BlockLoader {
 public:
  virtual ~BlockLoader() = default;
  // Fills `to`, which has room for `bytes` rounded up to whole pages; throws if it cannot. May return early if `stop`.
  virtual void load(int index, uint8_t* to, size_t bytes, const std::atomic<bool>& stop) = 0;
};

// Reads one file a block.
class FileLoader : public BlockLoader {
 public:
  // `direct`: past the page cache where the file system can, else what was read is dropped from it at once.
  FileLoader(std::vector<std::string> paths, bool direct) : paths_(std::move(paths)), direct_(direct) {}
  void load(int index, uint8_t* to, size_t bytes, const std::atomic<bool>& stop) override;

 private:
  std::vector<std::string> paths_;
  bool direct_;
};

struct WindowConfig {
  std::vector<size_t> sizes;  // bytes of each block, in the order of use
  std::vector<int> pinned;    // blocks that stay once they are loaded
  size_t budget = 0;          // most bytes of blocks in memory at any time
  int readers = 1;            // loading threads
  int window = 0;             // most unpinned blocks in memory; 0: only the budget counts
  bool cyclic = true;         // read on from the last block to the first
  double deadline_s = 60.0;   // longest wait for a block
};

struct WindowStats {
  uint64_t loads = 0, bytes = 0;             // of all loads
  uint64_t load_ns = 0, stall_ns = 0, use_ns = 0;  // reading (all threads), waiting for a block, acquired to released
  size_t held = 0, peak = 0;                 // bytes now and at most, with memory that waits for the next block
  int peak_blocks = 0;                       // most unpinned blocks in memory
};

// One thread acquires and releases blocks in cyclic order; `readers` threads load ahead of it. A block is admitted only
// after all before it, and only if it fits: the next one wanted is always there or being read, so no budget deadlocks.
// Pinned blocks have places of their own in the arena, the others follow each other around a ring in front of them.
class BlockWindow {
 public:
  // Throws std::invalid_argument if no block can ever be admitted; see `smallest_budget`.
  BlockWindow(WindowConfig config, std::unique_ptr<BlockLoader> loader);
  ~BlockWindow();
  BlockWindow(const BlockWindow&) = delete;
  BlockWindow& operator=(const BlockWindow&) = delete;

  // Bytes of the pinned blocks and the largest other one.
  static size_t smallest_budget(const WindowConfig& config);

  // Waits until block `index` is in memory. Throws BlockError: it cannot be read, the deadline passed, or the window
  // was closed; std::out_of_range: it is not the next one.
  uint8_t* acquire(int index);
  // Frees a block that was acquired, unless it is pinned.
  void release(int index);
  // Begins again at block 0, after an error or in the middle of a pass. What was read ahead is dropped.
  void restart();
  // Ends the threads; waits for a read that runs to its next 4 MiB. Idempotent.
  void close();

  const WindowConfig& config() const { return config_; }
  WindowStats stats() const;
  void clear_stats();
  // Nanoseconds of the last load and the last use of a block.
  std::pair<uint64_t, uint64_t> times(int index) const;
  bool resident(int index) const;
  bool between_passes() const;
  int loading() const;
  bool in_use() const;
  // Waits until a load of the block ends, well or not, unless none runs.
  void wait(int index) const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { empty, loading, ready, used, failed };
  struct Entry {
    State state = State::empty;
    bool pinned = false, admitted = false;  // the latter of pinned blocks: ever
    size_t begin = 0;  // in the arena
    std::exception_ptr error;
    Clock::time_point acquired;
    uint64_t load_ns = 0, use_ns = 0;
  };

  void read();
  void run_load(std::unique_lock<std::mutex>& lock, int index);
  void dispatch();
  bool admit(Entry& entry, size_t bytes);
  size_t held() const { return ring_held_ + pinned_held_; }
  void make_room();
  int count() const { return int(entries_.size()); }

  WindowConfig config_;
  std::unique_ptr<BlockLoader> loader_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;  // a load has ended
  std::condition_variable work_;             // a load was admitted
  std::vector<Entry> entries_;
  std::unique_ptr<Arena> arena_;  // the ring, then the pinned blocks
  Ring ring_{0};
  std::vector<std::thread> threads_;
  std::mutex join_;
  std::atomic<bool> stop_{false};  // reads that run end early: closed, or begun again
  bool closed_ = false, failed_ = false, paused_ = false;
  std::deque<int> queue_;  // admitted, and not yet taken by a reader
  uint64_t admitted_ = 0;  // blocks admitted since the last restart, in ring order
  uint64_t used_ = 0;      // blocks acquired and released since then
  uint64_t passes_ = 1;    // passes that may be read ahead, if not cyclic
  bool held_ = false;      // the block `used_` is acquired
  size_t ring_held_ = 0;   // bytes of the ring that were ever used
  size_t pinned_held_ = 0; // bytes of pinned blocks that were admitted
  int loading_ = 0;        // admitted and not yet loaded
  int unpinned_ = 0;       // unpinned blocks in memory
  WindowStats stats_;
};

}  // namespace edge
