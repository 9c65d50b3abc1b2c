// SPDX-License-Identifier: Apache-2.0
#include "ctc.h"

#include <algorithm>
#include <cmath>

namespace edge {

namespace {

constexpr double kNever = -1e9;
constexpr int kScaled = 8;  // frames between two scalings

}  // namespace

Ctc::Ctc(const float* log_probs, int frames, int symbols)
    : frames_(frames), symbols_(symbols), said_(size_t(frames) * symbols), most_(size_t(frames)) {
  for (int frame = 0; frame < frames; frame++) {
    const float* row = log_probs + size_t(frame) * symbols;
    const float most = *std::max_element(row, row + symbols);
    most_[frame] = most;
    for (int i = 0; i < symbols; i++) said_[size_t(frame) * symbols + i] = std::exp(row[i] - most);
  }
}

double Ctc::log_probability(const std::vector<uint8_t>& text, int begin, int end) const {
  begin = std::max(begin, 0);
  end = std::min(end, frames_);
  if (begin >= end) return kNever;
  const int states = 2 * int(text.size()) + 1;
  // Probabilities, scaled now and then, in place of their logarithms. Two zeros stand before the first state.
  std::vector<double> values(size_t(states) + 2, 0.0);
  double *forward = values.data() + 2, scale = 0;
  const auto symbol = [&](int state) { return state % 2 ? text[size_t(state / 2)] : 0; };
  for (int frame = begin; frame < end; frame++) {
    const double* said = said_.data() + size_t(frame) * symbols_;
    scale += most_[frame];
    if (frame == begin) {
      forward[0] = said[0];
      forward[1] = said[text[0]];
      continue;
    }
    // What is out of reach from the start, or cannot get to the end any more, need not be computed.
    const int highest = std::min(states - 1, 2 * (frame - begin) + 1);
    const int lowest = std::max(0, states - 2 * (end - frame));
    if (lowest > highest) return kNever;
    for (int state = highest; state >= lowest; state--) {
      const bool skips = state % 2 && state > 1 && symbol(state) != symbol(state - 2);
      forward[state] = (forward[state] + forward[state - 1] + (skips ? forward[state - 2] : 0)) * said[symbol(state)];
    }
    if ((frame - begin) % kScaled == 0) {
      const double largest = *std::max_element(forward + lowest, forward + highest + 1);
      if (largest <= 0) return kNever;
      std::for_each(forward + lowest, forward + highest + 1, [&](double& each) { each /= largest; });
      scale += std::log(largest);
    }
  }
  const double total = forward[states - 1] + forward[states - 2];
  return total > 0 ? std::log(total) + scale : kNever;
}

}  // namespace edge
