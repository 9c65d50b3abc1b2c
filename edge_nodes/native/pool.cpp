// SPDX-License-Identifier: Apache-2.0
#include "pool.h"

#include "kernels.h"

#if EDGE_X86
#include <immintrin.h>
#endif

namespace edge {

namespace {

constexpr int kSpins = 2000;  // some 50 us: longer than the serial parts of a step, shorter than a time slice

inline void relax() {
#if EDGE_X86
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline uint32_t chunks_of(uint64_t state) { return uint32_t(state >> 16 & 0xffff); }
inline uint32_t next_of(uint64_t state) { return uint32_t(state & 0xffff); }
inline bool has_work(uint64_t state) { return next_of(state) < chunks_of(state); }

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::start(int chunks, Call call, void* context) {
  call_ = call;
  context_ = context;
  pending_.store(chunks, std::memory_order_relaxed);
  const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(epoch << 32 | uint64_t(chunks) << 16);
  if (sleeping_.load() > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  while (work_once(0)) {
  }
  for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < kSpins)
      relax();
    else
      std::this_thread::yield();  // the thread that holds the last chunk may need this core
  }
}

bool Pool::work_once(int thread) {
  uint64_t state = state_.load(std::memory_order_acquire);
  do {
    if (!has_work(state)) return false;
  } while (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel));
  call_(context_, int(next_of(state)), thread);
  pending_.fetch_sub(1, std::memory_order_release);
  return true;
}

void Pool::loop(int thread) {
  int idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (work_once(thread)) {
      idle = 0;
    } else if (++idle < kSpins) {
      relax();
    } else {
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleeping_;
      wake_.wait(lock, [this] { return stop_.load() || has_work(state_.load()); });
      --sleeping_;
      idle = 0;
    }
  }
}

}  // namespace edge
