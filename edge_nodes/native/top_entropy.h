// SPDX-License-Identifier: Apache-2.0
// Entropy over the most probable tokens, for votes that weigh attempts by how sure the model was.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace edge {

// Shannon entropy, bits, of the k largest of n logits, their probabilities normalised to sum 1.
inline double top_entropy(const float* logits, int n, int k) {
  k = std::min(k, n);
  if (k < 1) return 0.0;
  std::vector<float> top(logits, logits + k);  // a heap, the least on top
  std::make_heap(top.begin(), top.end(), std::greater<float>());
  for (int i = k; i < n; ++i) {
    if (!(logits[i] > top.front())) continue;
    std::pop_heap(top.begin(), top.end(), std::greater<float>());
    top.back() = logits[i];
    std::push_heap(top.begin(), top.end(), std::greater<float>());
  }
  const double most = *std::max_element(top.begin(), top.end());
  double sum = 0.0, weighted = 0.0;
  for (const float value : top) {
    const double below = value - most, weight = std::exp(below);
    sum += weight;
    if (weight > 0.0) weighted += weight * below;
  }
  return (std::log(sum) - weighted / sum) / std::log(2.0);
}

}  // namespace edge
