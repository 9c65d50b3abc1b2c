// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace edge {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr size_t kGroups = 1024;     // groups whose maxima bound the k-th largest value
constexpr size_t kBlock = 64;     // values that are passed over at once
constexpr int kFirstGuess = 64;   // tokens that are sorted to find a total probability, and the next try
constexpr int kGrowth = 8;
constexpr float kNegligible = 40.0f;  // a token so far below the best has a weight of 4e-18

}  // namespace

int Sampler::draw(const float* logits, int size, double number, const std::vector<int>& seen, const uint8_t* allowed) {
  adjust(logits, size, seen, allowed);
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
    at_least(sampling_.min_p > 0.0 ? top_ + float(std::log(sampling_.min_p)) : top_ - kNegligible);
    weigh();
  }
  return pick(number);
}

void Sampler::adjust(const float* logits, int size, const std::vector<int>& seen, const uint8_t* allowed) {
  const float scale = sampling_.temperature > 0.0f ? 1.0f / sampling_.temperature : 1.0f;
  values_.resize(size_t(size));
  for (int i = 0; i < size; ++i) values_[size_t(i)] = logits[i] * scale;
  if (sampling_.penalty != 1.0f) {
    seen_ = seen;
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    for (int token : seen_) {
      float& v = values_[size_t(token)];
      v = v > 0.0f ? v / sampling_.penalty : v * sampling_.penalty;
    }
  }
  for (const auto& [token, value] : sampling_.bias)
    if (token < size) values_[size_t(token)] += value * scale;
  if (!allowed) return;
  for (int i = 0; i < size; i += 8) {
    const uint8_t bits = allowed[i / 8];
    if (bits == 0xff) continue;
    for (int k = i; k < std::min(i + 8, size); ++k)
      if (!(bits >> (k - i) & 1)) values_[size_t(k)] = kNever;
  }
}

// Sets best_ to the maxima of so many groups, of neighbours in memory that are so many values apart: whole vectors.
void Sampler::maxima(size_t groups) {
  groups = std::min(groups, values_.size());
  best_.assign(values_.begin(), values_.begin() + std::ptrdiff_t(groups));
  for (size_t start = groups; start < values_.size(); start += groups) {
    const size_t count = std::min(groups, values_.size() - start);
    const float* row = values_.data() + start;
    for (size_t g = 0; g < count; ++g) best_[g] = best_[g] < row[g] ? row[g] : best_[g];
  }
}

// Keeps the tokens whose value reaches the bound, in their order.
void Sampler::at_least(float bound) {
  kept_.clear();
  bound = std::max(bound, std::numeric_limits<float>::lowest());
  for (size_t start = 0; start < values_.size(); start += kBlock) {
    const size_t end = std::min(start + kBlock, values_.size());
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
  const size_t groups = std::max(kGroups, 4 * size_t(k)), count = std::min(size_t(k), values_.size());
  float bound = kNever;
  if (2 * groups <= values_.size()) {
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
  for (Candidate& c : kept_) c.weight = std::exp(double(c.value) - double(top_));
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
  double total = 0.0;
  for (float v : values_)
    if (v >= top_ - kNegligible) total += double(std::exp(v - top_));
  for (int64_t k = kFirstGuess;; k *= kGrowth) {
    largest(int(std::min<int64_t>(k, int64_t(values_.size()))));
    weigh();
    if (cut(share * total) || k >= int64_t(values_.size())) return;
  }
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
