// SPDX-License-Identifier: Apache-2.0
// One token drawn from a row of logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.h"

namespace edge {

// Temperature, then top-k, top-p and min-p in this order; 0, 0, 1 and 0 turn them off. Not thread-safe: one an answer.
struct Sampling {
  float temperature = 0.0f;
  int top_k = 0;
  double top_p = 1.0, min_p = 0.0;
  float penalty = 1.0f;                      // of the tokens seen: divides positive logits, multiplies negative ones
  std::vector<std::pair<int, float>> bias;  // token, value added to its logit
};

class Sampler {
 public:
  explicit Sampler(Sampling sampling);

  // Returns the token at which the share `number` in [0, 1) of the kept probability lies, -1 if no token may come.
  // `logits`: changed meanwhile, afterwards as before. `seen`: tokens inside [0, size), each any number of times.
  // `allowed`: a bit a token, the lowest first, or null.
  int draw(float* logits, int size, double number, const std::vector<int>& seen, const uint8_t* allowed);

  // Whether the most probable token is taken as it is.
  bool greedy() const;
  const Kernels& kernels() const { return kernels_; }

 private:
  struct Candidate {
    float value;
    int token;
    double weight;
  };
  struct Edit {
    int token;
    float before;
  };

  void ban(const uint8_t* allowed);
  void edit(const std::vector<int>& seen);
  float& edited(int token);
  int choose(double number);
  void maxima(size_t groups);
  void largest(int k);
  void at_least(float bound);
  void leading(double share);
  double total_weight();
  void weigh();
  bool cut(double weight);
  int pick(double number) const;

  Sampling sampling_;
  const Kernels& kernels_;
  float temperature_;  // 1 instead of 0
  // Of this draw: the logits with what was edited; maxima of their groups.
  float* values_ = nullptr;
  size_t size_ = 0;
  std::vector<Edit> edits_;
  std::vector<float> copy_, scaled_, best_;
  std::vector<int> seen_;
  std::vector<Candidate> kept_;
  float top_ = 0.0f;
};

}  // namespace edge
