// SPDX-License-Identifier: Apache-2.0
#include "window.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace edge {

namespace {

constexpr size_t kRead = size_t(4) << 20;

std::string reason() { return std::strerror(errno); }

class File {
 public:
  File(const std::string& path, bool direct) : path_(path) {
#ifdef O_DIRECT
    if (direct) descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
#endif
    if (descriptor_ < 0) {
      dropped_ = direct;
      descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    }
    if (descriptor_ < 0) throw BlockError("cannot open " + path + ": " + reason());
  }
  ~File() {
#ifdef POSIX_FADV_DONTNEED
    if (dropped_) ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
#endif
    ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  size_t size() const {
    struct stat about;
    if (::fstat(descriptor_, &about)) throw BlockError("cannot read " + path_ + ": " + reason());
    return size_t(about.st_size);
  }
  // Bytes read at `at`, at most `most`, a multiple of a page.
  size_t read(uint8_t* to, size_t most, size_t at) const {
    while (true) {
      const ssize_t got = ::pread(descriptor_, to, most, off_t(at));
      if (got >= 0) return size_t(got);
      if (errno != EINTR) throw BlockError("cannot read " + path_ + ": " + reason());
    }
  }

 private:
  const std::string& path_;
  int descriptor_ = -1;
  bool dropped_ = false;
};

uint64_t since(std::chrono::steady_clock::time_point begin) {
  return uint64_t(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace

void FileLoader::load(int index, uint8_t* to, size_t bytes, const std::atomic<bool>& stop) {
  const std::string& path = paths_.at(size_t(index));
  const File file(path, direct_);
  if (const size_t size = file.size(); size != bytes)
    throw BlockError(path + " has " + std::to_string(size) + " bytes, not the " + std::to_string(bytes) +
                     " of its manifest");
  for (size_t at = 0; at < bytes && !stop;) {
    const size_t got = file.read(to + at, std::min(kRead, whole_pages(bytes) - at), at);
    if (!got) throw BlockError(path + " ended at byte " + std::to_string(at) + " of " + std::to_string(bytes));
    at += got;
    if (at < bytes && at % kPage)
      throw BlockError(path + " gave " + std::to_string(at) + " of " + std::to_string(bytes) + " bytes");
  }
}

namespace {

// Bytes of blocks of a window.
struct Bytes {
  size_t pinned = 0, others = 0, largest = 0;  // the last of the others
};

Bytes bytes_of(const WindowConfig& config) {
  Bytes found;
  for (size_t i = 0; i < config.sizes.size(); ++i) {
    const size_t size = whole_pages(config.sizes[i]);
    if (std::find(config.pinned.begin(), config.pinned.end(), int(i)) != config.pinned.end()) {
      found.pinned += size;
    } else {
      found.others += size;
      found.largest = std::max(found.largest, size);
    }
  }
  return found;
}

}  // namespace

size_t BlockWindow::smallest_budget(const WindowConfig& config) {
  const Bytes bytes = bytes_of(config);
  return bytes.pinned + bytes.largest;
}

BlockWindow::BlockWindow(WindowConfig config, std::unique_ptr<BlockLoader> loader)
    : config_(std::move(config)), loader_(std::move(loader)), entries_(config_.sizes.size()) {
  if (entries_.empty() || config_.readers < 1 || config_.window < 0 || !(config_.deadline_s > 0.0))
    throw std::invalid_argument("a window has blocks, readers and a deadline");
  for (int index : config_.pinned) {
    if (index < 0 || index >= count()) throw std::invalid_argument("no block " + std::to_string(index) + " to pin");
    entries_[size_t(index)].pinned = true;
  }
  if (const size_t least = smallest_budget(config_); config_.budget < least)
    throw std::invalid_argument("a budget of " + std::to_string(config_.budget) + " bytes is less than the " +
                                std::to_string(least) + " of the pinned blocks and the largest other one");
  make_room();
  dispatch();
  for (int i = 0; i < config_.readers; ++i) threads_.emplace_back([this] { read(); });
}

BlockWindow::~BlockWindow() { close(); }

void BlockWindow::make_room() {
  const Bytes bytes = bytes_of(config_);
  size_t ring = std::min(config_.budget - bytes.pinned, bytes.others);
  if (config_.window) ring = std::min(ring, size_t(config_.window + 1) * bytes.largest);  // the end may be too short
  ring = ring / kPage * kPage;
  ring_ = Ring(ring);
  arena_ = std::make_unique<Arena>(ring + bytes.pinned);
  size_t at = ring;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].pinned) continue;
    entries_[i].begin = at;
    at += whole_pages(config_.sizes[i]);
  }
}

// Admits blocks in order while a reader is free; called with the lock held at every change.
void BlockWindow::dispatch() {
  const uint64_t n = entries_.size();
  while (!failed_ && !paused_ && !closed_ && admitted_ < used_ + n && (config_.cyclic || admitted_ < passes_ * n)) {
    Entry& entry = entries_[admitted_ % n];
    if (!entry.pinned || entry.state == State::empty) {
      if (loading_ >= config_.readers) return;
      if (!admit(entry, whole_pages(config_.sizes[admitted_ % n]))) return;
      queue_.push_back(int(admitted_ % n));
      work_.notify_one();
    }
    ++admitted_;
  }
}

bool BlockWindow::admit(Entry& entry, size_t bytes) {
  if (entry.state != State::empty) return false;
  if (entry.pinned) {
    if (!entry.admitted) pinned_held_ += bytes;
    entry.admitted = true;
  } else {
    if (config_.window && unpinned_ >= config_.window) return false;
    const std::optional<size_t> place = ring_.take(bytes);
    if (!place) return false;
    entry.begin = *place;
    ring_held_ = std::max(ring_held_, *place + bytes);
    ++unpinned_;
  }
  entry.state = State::loading;
  ++loading_;
  stats_.peak = std::max(stats_.peak, held());
  stats_.peak_blocks = std::max(stats_.peak_blocks, unpinned_);
  return true;
}

void BlockWindow::read() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return closed_ || !queue_.empty(); });
    if (closed_) return;
    const int index = queue_.front();
    queue_.pop_front();
    run_load(lock, index);
  }
}

void BlockWindow::run_load(std::unique_lock<std::mutex>& lock, int index) {
  Entry& entry = entries_[size_t(index)];
  lock.unlock();
  std::exception_ptr error;
  const auto begin = Clock::now();
  try {
    loader_->load(index, arena_->at(entry.begin), config_.sizes[size_t(index)], stop_);
  } catch (...) {
    error = std::current_exception();
  }
  const uint64_t took = since(begin);
  lock.lock();
  --loading_;
  entry.load_ns = took;
  stats_.load_ns += took;
  if (error || stop_) {
    entry.error = error;
    entry.state = State::failed;
    failed_ = true;
  } else {
    entry.state = State::ready;
    ++stats_.loads;
    stats_.bytes += config_.sizes[size_t(index)];
  }
  dispatch();
  changed_.notify_all();
}

uint8_t* BlockWindow::acquire(int index) {
  std::unique_lock<std::mutex> lock(mutex_);
  const int next = int(used_ % entries_.size());
  if (held_ || index != next)
    throw std::out_of_range("block " + std::to_string(index) + " is not the next one, which is " +
                            std::to_string(next) + (held_ ? " and not yet released" : ""));
  Entry& entry = entries_[size_t(index)];
  passes_ = used_ / entries_.size() + 1;
  dispatch();
  const auto begin = Clock::now();
  const auto done = [&] { return closed_ || entry.state == State::ready || entry.state == State::failed; };
  const bool there = changed_.wait_for(lock, std::chrono::duration<double>(config_.deadline_s), done);
  stats_.stall_ns += since(begin);
  if (closed_) throw BlockError("the blocks of this model were closed");
  if (!there) throw BlockError("block " + std::to_string(index) + " was not read in " +
                               std::to_string(int(config_.deadline_s)) + " s");
  if (entry.state == State::failed) {
    if (entry.error) std::rethrow_exception(entry.error);
    throw BlockError("reading block " + std::to_string(index) + " was stopped");
  }
  entry.state = State::used;
  entry.acquired = Clock::now();
  held_ = true;
  return arena_->at(entry.begin);
}

void BlockWindow::release(int index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!held_ || index != int(used_ % entries_.size()))
    throw std::out_of_range("block " + std::to_string(index) + " is not acquired");
  Entry& entry = entries_[size_t(index)];
  entry.use_ns = since(entry.acquired);
  stats_.use_ns += entry.use_ns;
  held_ = false;
  ++used_;
  if (entry.pinned) {
    entry.state = State::ready;
  } else {
    entry.state = State::empty;
    ring_.give_back();
    --unpinned_;
  }
  dispatch();
}

void BlockWindow::restart() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (closed_) throw BlockError("the blocks of this model were closed");
  paused_ = stop_ = true;
  loading_ -= int(queue_.size());
  queue_.clear();
  changed_.wait(lock, [&] { return closed_ || loading_ == 0; });
  if (closed_) throw BlockError("the blocks of this model were closed");
  for (Entry& entry : entries_) {
    if (entry.pinned && entry.state == State::used) entry.state = State::ready;
    if (entry.pinned && entry.state == State::ready) continue;
    entry.state = State::empty;
    entry.error = nullptr;
  }
  ring_.clear();
  unpinned_ = 0;
  admitted_ = used_ = 0;
  passes_ = 1;
  held_ = failed_ = paused_ = stop_ = false;
  dispatch();
}

void BlockWindow::close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    stop_ = true;
  }
  work_.notify_all();
  changed_.notify_all();
  const std::lock_guard<std::mutex> joining(join_);
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

WindowStats BlockWindow::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  WindowStats found = stats_;
  found.held = held();
  return found;
}

void BlockWindow::clear_stats() {
  const std::lock_guard<std::mutex> lock(mutex_);
  stats_ = WindowStats{};
  stats_.peak = held();
  stats_.peak_blocks = unpinned_;
}

std::pair<uint64_t, uint64_t> BlockWindow::times(int index) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Entry& entry = entries_.at(size_t(index));
  return {entry.load_ns, entry.use_ns};
}

bool BlockWindow::resident(int index) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const State state = entries_.at(size_t(index)).state;
  return state == State::ready || state == State::used;
}

bool BlockWindow::between_passes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !held_ && used_ % entries_.size() == 0;
}

bool BlockWindow::in_use() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

int BlockWindow::loading() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return loading_;
}

void BlockWindow::wait(int index) const {
  std::unique_lock<std::mutex> lock(mutex_);
  const Entry& entry = entries_.at(size_t(index));
  changed_.wait(lock, [&] { return closed_ || entry.state != State::loading; });
}

}  // namespace edge
