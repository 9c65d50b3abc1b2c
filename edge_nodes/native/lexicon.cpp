// SPDX-License-Identifier: Apache-2.0
#include "lexicon.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace edge {

namespace {

// Weight of a word's probability after the one before against its own share (Jelinek-Mercer interpolation).
constexpr double kPairShare = 0.6;
// Share of a word's occurrences that a contraction of it counts for.
constexpr double kContraction = 0.05;
constexpr std::string_view kEndings[] = {"s", "d", "m", "t", "ll", "re", "ve"};
constexpr int kSymbols = 28, kOther = 27;
constexpr int kMostEdits = 3;

int symbol(char letter) { return letter >= 'a' && letter <= 'z' ? letter - 'a' : letter == '\'' ? 26 : kOther; }

bool plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char each) { return symbol(each) != kOther; });
}

uint32_t mask(std::string_view text) {
  uint32_t found = 0;
  for (char each : text)
    if (symbol(each) < 26) found |= 1u << symbol(each);
  return found;
}

// Calls take(text, count) for each line "text count".
template <typename Take>
void each_line(std::string_view lines, Take take) {
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    const size_t space = line.rfind(' ');
    if (space == std::string_view::npos) continue;
    double count = 0;
    for (char digit : line.substr(space + 1))
      if (digit >= '0' && digit <= '9') count = 10 * count + (digit - '0');
    take(line.substr(0, space), count);
  }
}

// Levenshtein distances from one word, a machine word of the table's column at once (Myers 1999, "A fast bit-vector
// algorithm for approximate string matching"; for whole words Hyyroe 2003).
class Distance {
 public:
  // `text`: 1 to 64 letters.
  explicit Distance(std::string_view text) : length_(int(text.size())), last_(1ull << (text.size() - 1)) {
    for (size_t i = 0; i < text.size(); i++) where_[symbol(text[i])] |= 1ull << i;
    where_[kOther] = 0;
  }

  // Whether it may be at most so many edits: all but so many letters are the word's, not further from their places.
  bool within(int edits, std::string_view other) const {
    const uint64_t near = (2ull << 2 * edits) - 1;
    int missing = 0;
    for (size_t i = 0; i < other.size() && missing <= edits; i++)
      missing += (where_[symbol(other[i])] & near << i >> edits) == 0;
    return missing <= edits;
  }

  int operator()(std::string_view other) const {
    uint64_t up = ~0ull, down = 0;  // where the column rises and falls
    int distance = length_;
    for (char letter : other) {
      const uint64_t same = where_[symbol(letter)], steep = same | down;
      const uint64_t flat = (((same & up) + up) ^ up) | same;
      uint64_t right = down | ~(flat | up), left = up & flat;
      distance += int((right & last_) != 0) - int((left & last_) != 0);
      right = right << 1 | 1;
      left <<= 1;
      up = left | ~(steep | right);
      down = right & steep;
    }
    return distance;
  }

 private:
  int length_;
  uint64_t last_;
  std::array<uint64_t, kSymbols> where_{};
};

// The bits without the lowest `count` of them.
template <int count>
inline uint32_t without_lowest(uint32_t bits) {
  for (int i = 0; i < count; i++) bits &= bits - 1;
  return bits;
}

// Adds the places from `begin` to before `end` of those masks that `edits` edits can make of one: an edit takes at most
// one of the letters that occur away, and adds at most one.
template <int edits>
void alike(const std::vector<uint32_t>& masks, uint32_t own, int begin, int end, std::vector<int>& found) {
  constexpr int kBlock = 64;
  for (; begin < end; begin += kBlock) {
    const int size = std::min(kBlock, end - begin);
    const uint32_t* block = masks.data() + begin;
    uint32_t more[kBlock];
    for (int i = 0; i < size; i++)
      more[i] = without_lowest<edits>(block[i] & ~own) | without_lowest<edits>(own & ~block[i]);
    for (int i = 0; i < size; i++)
      if (!more[i]) found.push_back(begin + i);
  }
}

}  // namespace

Lexicon::Lexicon(std::string_view words, std::string_view pairs, const std::vector<std::string>& own) {
  std::vector<std::pair<std::string_view, double>> counted;
  double most = 1;
  each_line(words, [&](std::string_view text, double count) {
    if (!text.empty() && plain(text)) counted.emplace_back(text, count);
    most = std::max(most, count);
  });
  for (const std::string& text : own) {
    const auto known = std::find_if(counted.begin(), counted.end(), [&](auto& each) { return each.first == text; });
    if (known != counted.end())
      known->second = most;
    else if (!text.empty() && plain(text))
      counted.emplace_back(text, most);
  }
  index(std::move(counted));
  std::vector<Pair> kept;
  each_line(pairs, [&](std::string_view text, double count) {
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) return;
    const int first = number(text.substr(0, space)), second = number(text.substr(space + 1));
    if (first >= 0 && second >= 0) kept.push_back({uint32_t(first), uint32_t(second), count});
  });
  keep(std::move(kept));
}

void Lexicon::index(std::vector<std::pair<std::string_view, double>> counted) {
  std::stable_sort(counted.begin(), counted.end(),
                   [](auto& a, auto& b) { return a.first.size() < b.first.size(); });
  const size_t size = counted.size();
  size_t slots = 1, letters = 0;
  while (slots < size * 3 / 2 + 1) slots *= 2;
  for (const auto& each : counted) letters += each.first.size();
  slots_.assign(slots, -1);
  letters_.reserve(letters);
  starts_.reserve(size + 1);
  starts_.push_back(0);
  for (size_t i = 0; i < size; i++) {
    const auto& [text, count] = counted[i];
    letters_ += text;
    starts_.push_back(uint32_t(letters_.size()));
    counts_.push_back(count);
    masks_.push_back(mask(text));
    total_ += count;
    size_t slot = std::hash<std::string_view>()(text) & (slots - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = int32_t(i);
  }
  for (int length = 0; length < kLongest; length++) {
    const auto longer = [&](auto& each) { return int(each.first.size()) < length; };
    of_length_[length] = int(std::partition_point(counted.begin(), counted.end(), longer) - counted.begin());
  }
}

void Lexicon::keep(std::vector<Pair> pairs) {
  std::sort(pairs.begin(), pairs.end(),
            [](auto& a, auto& b) { return std::tie(a.first, a.second) < std::tie(b.first, b.second); });
  const size_t size = counts_.size();
  std::vector<double> totals(size, 0.0);
  rows_.assign(size + 1, 0);
  double least = 1e300;
  for (const Pair& each : pairs) {
    totals[each.first] += each.count;
    rows_[each.first + 1]++;
    least = std::min(least, each.count);
  }
  std::partial_sum(rows_.begin(), rows_.end(), rows_.begin());
  seconds_.reserve(pairs.size());
  shares_.reserve(pairs.size());
  for (const Pair& each : pairs) {
    seconds_.push_back(each.second);
    shares_.push_back(float(each.count / totals[each.first]));
  }
  rarest_.reserve(size);
  for (double total : totals) rarest_.push_back(float(std::min(1.0, least / std::max(1.0, total))));
}

std::string_view Lexicon::word(int number) const {
  return std::string_view(letters_).substr(starts_[number], starts_[number + 1] - starts_[number]);
}

int Lexicon::number(std::string_view text) const {
  const size_t slots = slots_.size();
  size_t slot = std::hash<std::string_view>()(text) & (slots - 1);
  while (slots_[slot] >= 0 && word(slots_[slot]) != text) slot = (slot + 1) & (slots - 1);
  return slots_[slot];
}

Word Lexicon::find(std::string_view text) const {
  const int found = number(text);
  double count = found < 0 ? 0 : counts_[found];
  const size_t mark = text.find('\'');
  if (found < 0 && mark != std::string_view::npos) {
    const int stem = number(text.substr(0, mark));
    const bool ends = std::count(std::begin(kEndings), std::end(kEndings), text.substr(mark + 1)) > 0;
    if (ends && stem >= 0) count = kContraction * counts_[stem];
  }
  return {std::string(text), found, count / total_};
}

double Lexicon::pair(const Word& first, const Word& second) const {
  if (first.number < 0 || second.number < 0) return 0;
  const auto begin = seconds_.begin() + rows_[first.number], end = seconds_.begin() + rows_[first.number + 1];
  const auto place = std::lower_bound(begin, end, uint32_t(second.number));
  return place != end && *place == uint32_t(second.number) ? double(shares_[place - seconds_.begin()]) : 0;
}

double Lexicon::log_probability(const Word& word, const Word* before) const {
  return std::log(kPairShare * (before ? pair(*before, word) : 0) + (1 - kPairShare) * word.share);
}

double Lexicon::log_bound(const Word& word, const Word* before) const {
  const double found = log_probability(word, before);
  if (!before || before->number < 0 || word.number < 0 || pair(*before, word) > 0) return found;
  return std::min(found, std::log(double(rarest_[before->number])));
}

std::vector<std::string> Lexicon::near(std::string_view text, int edits, size_t limit) const {
  const int length = int(text.size());
  if (edits < 1 || edits > kMostEdits) throw std::invalid_argument("expected 1 to 3 edits");
  if (!length || length - edits >= kLongest) return {};
  const int begin = of_length_[std::max(0, length - edits)];
  const int end = of_length_[std::min(kLongest - 1, length + edits + 1)];
  std::vector<int> places;
  (edits == 1 ? alike<1> : edits == 2 ? alike<2> : alike<3>)(masks_, mask(text), begin, end, places);
  const Distance distance(text);
  std::vector<std::pair<int, int>> found;
  for (int place : places) {
    if (!distance.within(edits, word(place))) continue;
    if (const int apart = distance(word(place)); apart <= edits && apart > 0) found.emplace_back(apart, place);
  }
  std::sort(found.begin(), found.end());
  found.resize(std::min(found.size(), limit));
  std::vector<std::string> words;
  for (const auto& each : found) words.emplace_back(word(each.second));
  return words;
}

}  // namespace edge
