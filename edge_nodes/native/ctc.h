// SPDX-License-Identifier: Apache-2.0
// How likely texts are, given what a CTC network says of each frame.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

class Ctc {
 public:
  // `log_probs`: (frames, symbols) row-major logarithmic probabilities; symbol 0 is the blank.
  Ctc(const float* log_probs, int frames, int symbols);

  // Returns the logarithmic probability of a text given the frames from `begin` to before `end`, by the forward
  // recursion (Graves et al. 2006, section 4.1); very low if it needs more frames than there are.
  // `text`: symbols, none of them the blank, at least one.
  double log_probability(const std::vector<uint8_t>& text, int begin, int end) const;

 private:
  int frames_, symbols_;
  std::vector<double> said_;  // probabilities over the frame's largest
  std::vector<double> most_;  // its logarithm
};

}  // namespace edge
