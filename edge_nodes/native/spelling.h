// SPDX-License-Identifier: Apache-2.0
// Words that a CTC head spells by sound become words that exist and that follow one another: the way through a lattice
// of what they could be that sound and word pairs together make most likely.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lexicon.h"

namespace edge {

// What words are worth beside the logarithmic probability of their letters.
constexpr double kCommonness = 0.3;  // weight of a word's own logarithmic probability
constexpr double kAWord = 1.0;       // of a word that exists
constexpr double kUnknown = -8.0;    // of one that does not
// Margin from which nothing else comes into question, and of words that were left alone.
constexpr double kClear = 10.0;

using Span = std::pair<int, int>;  // first and last frame

struct Spelled {
  std::vector<std::string> words;
  std::vector<Span> spans;
  std::vector<double> margins;  // by how much each beats the best of what else was thought of, up to kClear
};

// Returns the symbols of a text in the speech model's alphabet: blank, space, ', a to z. Throws std::invalid_argument
// on other characters.
std::vector<uint8_t> encoded(std::string_view text);

// `words`: as they were decoded; `spans`: of each, inside the frames; `log_probs`: (frames, symbols) of that alphabet.
Spelled spell(const Lexicon& lexicon, const std::vector<std::string>& words, const std::vector<Span>& spans,
              const float* log_probs, int frames, int symbols);

}  // namespace edge
