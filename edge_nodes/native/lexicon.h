// SPDX-License-Identifier: Apache-2.0
// English words: which exist, how common they and their pairs are, and which are spelled much alike.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edge {

// A word as the lexicon sees it.
struct Word {
  std::string text;
  int number;    // -1 if it is not in the list
  double share;  // of all words; 0 if it does not exist

  bool exists() const { return share > 0; }
};

class Lexicon {
 public:
  // `words`: lines "word count"; `pairs`: lines "word word count"; what has other characters than a to z and ' is left
  // out. `own`: words that count as much as the commonest one.
  Lexicon(std::string_view words, std::string_view pairs, const std::vector<std::string>& own);

  Word find(std::string_view text) const;

  // Logarithm of how likely a word that exists is, after another one if `before` is not null.
  double log_probability(const Word& word, const Word* before) const;

  // The same, but of a pair that is not known at most that of the rarest one that is.
  double log_bound(const Word& word, const Word* before) const;

  // At most `limit` words that 1 to 3 edits make of one, the closest first, without itself; as near ones by their
  // length, then in the order of the list. Throws std::invalid_argument on other numbers of edits.
  std::vector<std::string> near(std::string_view text, int edits, size_t limit) const;

 private:
  static constexpr int kLongest = 40;

  struct Pair {
    uint32_t first, second;
    double count;
  };

  void index(std::vector<std::pair<std::string_view, double>> counted);
  void keep(std::vector<Pair> pairs);
  int number(std::string_view text) const;
  std::string_view word(int number) const;
  double pair(const Word& first, const Word& second) const;

  std::string letters_;                 // of all words, the short ones first
  std::vector<uint32_t> starts_;        // of each word in them, and their end
  std::vector<double> counts_;          // of each word
  std::vector<uint32_t> masks_;         // which letters each word has
  std::vector<int32_t> slots_;          // hash table of numbers, -1 where none is
  std::array<int, kLongest> of_length_;  // first word that is at least so long
  double total_ = 0;
  std::vector<uint32_t> rows_;     // where the pairs of each first word begin, and their end
  std::vector<uint32_t> seconds_;  // of each pair, rising within a row
  std::vector<float> shares_;      // of each pair in those of its first word
  std::vector<float> rarest_;      // share that the rarest pair of all would have in those of each first word
};

}  // namespace edge
