// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace edge {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr size_t kGroups = 1024;  // groups whose maxima bound the k-th largest value
constexpr size_t kBlock = 64;     // values that are passed over at once
constexpr int kFirstGuess = 64;   // tokens that are sorted to find a total probability, and the next try
constexpr int kGrowth = 8;
constexpr float kNegligible = 40.0f;  // a token so far below the best has a weight of 4e-18

}  // namespace

Sampler::Sampler(Sampling sampling)
    : sampling_(std::move(sampling)),
      kernels_(select_kernels("auto")),
      temperature_(sampling_.temperature > 0.0f ? sampling_.temperature : 1.0f) {}

bool Sampler::greedy() const {
  return sampling_.temperature == 0.0f && sampling_.penalty == 1.0f && sampling_.bias.empty();
}

// Few logits change, thus they are edited where they are: a copy of all would come from memory, not from the caches,
// which the weights of the step have filled.
int Sampler::draw(float* logits, int size, double number, const std::vector<int>& seen, const uint8_t* allowed) {
  values_ = logits, size_ = size_t(size);
  if (allowed) ban(allowed);
  edit(seen);
  const int token = choose(number);
  for (auto e = edits_.rbegin(); e != edits_.rend(); ++e) values_[e->token] = e->before;
  return token;
}

int Sampler::choose(double number) {
  maxima(kGroups);
  top_ = *std::max_element(best_.begin(), best_.end());
  if (top_ == kNever) return -1;
  if (sampling_.temperature == 0.0f) {
    at_least(top_);
    return kept_.front().token;
  }
  if (sampling_.top_k > 0) {
    largest(sampling_.top_k);
    weigh();
    double total = 0.0;
    for (const Candidate& c : kept_) total += c.weight;
    if (sampling_.top_p < 1.0) cut(sampling_.top_p * total);
  } else if (sampling_.top_p < 1.0) {
    leading(sampling_.top_p);
  } else {
    const double below = sampling_.min_p > 0.0 ? -std::log(sampling_.min_p) : double(kNegligible);
    at_least(top_ - float(below) * temperature_);
    weigh();
  }
  return pick(number);
}

// From here on the values are a copy, in which tokens that may not come have none.
void Sampler::ban(const uint8_t* allowed) {
  copy_.assign(values_, values_ + size_);
  values_ = copy_.data();
  for (size_t i = 0; i < size_; i += 8) {
    const uint8_t bits = allowed[i / 8];
    if (bits == 0xff) continue;
    for (size_t k = i; k < std::min(i + 8, size_); ++k)
      if (!(bits >> (k - i) & 1)) values_[k] = kNever;
  }
}

void Sampler::edit(const std::vector<int>& seen) {
  edits_.clear();
  if (sampling_.penalty != 1.0f) {
    seen_ = seen;
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    for (int token : seen_) {
      float& v = edited(token);
      v = v > 0.0f ? v / sampling_.penalty : v * sampling_.penalty;
    }
  }
  for (const auto& [token, value] : sampling_.bias)
    if (size_t(token) < size_) edited(token) += value;
}

float& Sampler::edited(int token) {
  edits_.push_back({token, values_[token]});
  return values_[token];
}

// Sets best_ to the maxima of so many groups, of neighbours in memory that are so many values apart: whole vectors.
void Sampler::maxima(size_t groups) {
  groups = std::min(groups, size_);
  best_.assign(values_, values_ + groups);
  for (size_t start = groups; start < size_; start += groups) {
    const size_t count = std::min(groups, size_ - start);
    const float* row = values_ + start;
    for (size_t g = 0; g < count; ++g) best_[g] = best_[g] < row[g] ? row[g] : best_[g];
  }
}

// Keeps the tokens whose value reaches the bound, in their order.
void Sampler::at_least(float bound) {
  kept_.clear();
  bound = std::max(bound, std::numeric_limits<float>::lowest());
  for (size_t start = 0; start < size_; start += kBlock) {
    const size_t end = std::min(start + kBlock, size_);
    int found = 0;
    for (size_t i = start; i < end; ++i) found += values_[i] >= bound;
    if (!found) continue;
    for (size_t i = start; i < end; ++i)
      if (values_[i] >= bound) kept_.push_back({values_[i], int(i), 0.0});
  }
}

// Keeps the k tokens of the largest values, largest first, ties by token. Of n groups that each hold a maximum, k have
// one that is at least the k-th largest maximum: so many values reach it, and few others do.
void Sampler::largest(int k) {
  const size_t groups = std::max(kGroups, 4 * size_t(k)), count = std::min(size_t(k), size_);
  float bound = kNever;
  if (2 * groups <= size_) {
    if (best_.size() != groups) maxima(groups);
    const auto nth = best_.begin() + (k - 1);
    std::nth_element(best_.begin(), nth, best_.end(), std::greater<float>());
    bound = *nth;
  }
  at_least(bound);
  const size_t kept = std::min(count, kept_.size());
  const auto order = [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  };
  std::partial_sort(kept_.begin(), kept_.begin() + std::ptrdiff_t(kept), kept_.end(), order);
  kept_.resize(kept);
}

void Sampler::weigh() {
  for (Candidate& c : kept_) c.weight = std::exp((double(c.value) - double(top_)) / double(temperature_));
}

// Keeps the fewest leading tokens whose weights add up to `weight`, at least one; false if all together do not.
bool Sampler::cut(double weight) {
  double sum = 0.0;
  for (size_t i = 0; i < kept_.size(); ++i) {
    sum += kept_[i].weight;
    if (sum >= weight) {
      kept_.resize(i + 1);
      return true;
    }
  }
  return false;
}

// Keeps the fewest most probable tokens whose probability reaches the share, of all tokens that may come.
void Sampler::leading(double share) {
  const double wanted = share * total_weight();
  for (int64_t k = kFirstGuess;; k *= kGrowth) {
    largest(int(std::min<int64_t>(k, int64_t(size_))));
    weigh();
    if (cut(wanted) || k >= int64_t(size_)) return;
  }
}

// Of all tokens, where the best one has weight 1.
double Sampler::total_weight() {
  scaled_.resize(size_);
  for (size_t i = 0; i < size_; ++i) scaled_[i] = (values_[i] - top_) / temperature_;
  return std::exp(double(kernels_.statistics(scaled_.data(), int(size_)).log_sum_exp));
}

int Sampler::pick(double number) const {
  const double least = sampling_.min_p;  // the best token has weight 1
  double total = 0.0;
  for (const Candidate& c : kept_)
    if (c.weight >= least) total += c.weight;
  double sum = 0.0;
  int last = -1;
  for (const Candidate& c : kept_) {
    if (c.weight < least || c.weight == 0.0) continue;
    sum += c.weight;
    last = c.token;
    if (sum > number * total) break;
  }
  return last;
}

}  // namespace edge
