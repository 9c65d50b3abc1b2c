// SPDX-License-Identifier: Apache-2.0
// A few persistent threads that share out numbered chunks of work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace edge {

// Chunks are claimed one at a time, so a thread that is not scheduled delays nobody: the caller does its share.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // Calls work(chunk, thread) for every chunk in [0, chunks) and returns when all are done. Not re-entrant.
  // Work must not throw. At most 65535 chunks.
  template <typename Work>
  void run(int chunks, Work&& work) {
    if (workers_.empty() || chunks == 1) {
      for (int i = 0; i < chunks; ++i) work(i, 0);
      return;
    }
    auto call = [](void* context, int chunk, int thread) {
      (*static_cast<std::remove_reference_t<Work>*>(context))(chunk, thread);
    };
    start(chunks, call, &work);
  }

 private:
  using Call = void (*)(void*, int, int);
  void start(int chunks, Call call, void* context);
  bool work_once(int thread);
  void loop(int thread);

  // state_: epoch (32 bits) | chunks (16) | next chunk (16). A claim that succeeds belongs to the current job.
  std::atomic<uint64_t> state_{0};
  std::atomic<int> pending_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace edge
