// SPDX-License-Identifier: Apache-2.0
#include "spelling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "ctc.h"

namespace edge {

namespace {

constexpr double kSure = 0.95;  // words that exist and are as likely as this (mean of their frames) are left alone
constexpr int kCandidates = 20;
constexpr int kReach = 12;    // frames before the first and after the last letter that belong to them
constexpr size_t kKept = 12;  // last words that are kept in mind at a place
constexpr int kNone = -1;
constexpr uint8_t kSpace = 1, kApostrophe = 2, kFirstLetter = 3;

using Words = std::vector<int>;  // numbers in the lattice's own list

// Words in place of those from one place of the chain to another.
struct Way {
  int end;
  Words words;
  double score;
};

// The best way to a place that ends in some word.
struct Path {
  double score;
  int last;        // that word, kNone at the start
  const Way* way;  // the last step, from `begin`
  int begin, before;  // and which of the paths to there it goes on from
};

// A step of the best path.
struct Step {
  int begin;
  const Way* way;
};

int edits_in(size_t letters) { return letters <= 3 ? 1 : letters <= 7 ? 2 : 3; }

class Lattice {
 public:
  Lattice(const Lexicon& lexicon, const std::vector<std::string>& words, const std::vector<Span>& spans,
          const float* log_probs, int frames, int symbols)
      : lexicon_(lexicon), spans_(spans), ctc_(log_probs, frames, symbols) {
    for (const std::string& word : words) chain_.push_back(listed(word));
    listen(log_probs, frames, symbols);
    for (size_t place = 0; place < words.size(); place++) ways_.push_back(ways(int(place)));
  }

  Spelled best();

 private:
  int listed(const std::string& text);
  void listen(const float* log_probs, int frames, int symbols);
  bool settled(int begin, int end) const;
  std::vector<Way> ways(int place);
  void halves(const std::string& word, std::vector<Words>& found);
  std::vector<Way> heard(int begin, int end, std::vector<Words> candidates) const;
  double likelihood(const Words& words, int before) const;
  std::vector<Step> path() const;
  std::vector<double> margins(const std::vector<Step>& steps);
  double margin(const std::vector<Way>& ways, const Words& words, int end, int before, int after) const;
  double joined_margin(const Step& first, const Step& second, int before, int after);

  const std::string& text(int word) const { return words_[size_t(word)].text; }
  int places() const { return int(chain_.size()); }

  const Lexicon& lexicon_;
  const std::vector<Span>& spans_;
  Ctc ctc_;
  std::vector<Word> words_;
  std::unordered_map<std::string, int> numbers_;
  std::vector<int> chain_;          // the words that were heard
  std::vector<int> edges_;          // their frames: from one of these to before the next
  std::vector<double> sureness_;    // sums of the best logarithmic probabilities, up to each frame
  std::vector<std::vector<Way>> ways_;
};

int Lattice::listed(const std::string& text) {
  const auto [place, fresh] = numbers_.emplace(text, int(words_.size()));
  if (fresh) words_.push_back(lexicon_.find(text));
  return place->second;
}

void Lattice::listen(const float* log_probs, int frames, int symbols) {
  std::vector<bool> space(static_cast<size_t>(frames));
  sureness_.push_back(0);
  for (int frame = 0; frame < frames; frame++) {
    const float *row = log_probs + size_t(frame) * symbols, *most = std::max_element(row, row + symbols);
    space[size_t(frame)] = most - row == kSpace;
    sureness_.push_back(sureness_.back() + *most);
  }
  // A word's frames end with the space after it: so those of all words are all frames, and none counts twice.
  edges_.push_back(std::max(0, spans_[0].first - kReach));
  for (size_t i = 1; i < spans_.size(); i++) {
    int edge = spans_[i].first;
    while (edge > spans_[i - 1].second + 1 && !space[size_t(edge - 1)]) edge--;
    edges_.push_back(edge > spans_[i - 1].second + 1 ? edge : spans_[i].first);
  }
  edges_.push_back(spans_.back().second + 1 + kReach);
}

// Whether words exist and were heard for sure.
bool Lattice::settled(int begin, int end) const {
  for (int place = begin; place < end; place++)
    if (!words_[size_t(chain_[size_t(place)])].exists()) return false;
  const int first = spans_[size_t(begin)].first, after = spans_[size_t(end - 1)].second + 1;
  return (sureness_[size_t(after)] - sureness_[size_t(first)]) / (after - first) > std::log(kSure);
}

// The ways from a place: by the word that was heard there, and by what could be in place of it.
std::vector<Way> Lattice::ways(int place) {
  const int own = chain_[size_t(place)];
  const std::string word = text(own);
  std::vector<Words> found = {{own}};
  if (!settled(place, place + 1)) {
    for (const std::string& each : lexicon_.near(word, edits_in(word.size()), kCandidates))
      found.push_back({listed(each)});
    halves(word, found);
  }
  std::vector<Way> ways = heard(place, place + 1, std::move(found));
  if (place + 1 < places() && !settled(place, place + 2)) {
    const std::string both = word + text(chain_[size_t(place + 1)]);
    std::vector<Words> whole;
    if (lexicon_.find(both).exists()) whole.push_back({listed(both)});
    for (const std::string& each : lexicon_.near(both, 1, kCandidates / 2)) whole.push_back({listed(each)});
    for (Way& way : heard(place, place + 2, std::move(whole))) ways.push_back(std::move(way));
  }
  return ways;
}

// Adds two words in place of one: a space was not heard, and maybe a letter of the longer one wrongly.
void Lattice::halves(const std::string& word, std::vector<Words>& found) {
  const bool known = lexicon_.find(word).exists();
  for (size_t cut = 1; cut < word.size(); cut++) {
    const std::string first = word.substr(0, cut), second = word.substr(cut);
    if (!lexicon_.find(first).exists()) continue;
    if (lexicon_.find(second).exists()) {
      found.push_back({listed(first), listed(second)});
    } else if (!known && cut <= 3 && second.size() > 3) {
      for (const std::string& each : lexicon_.near(second, 1, kCandidates / 4))
        found.push_back({listed(first), listed(each)});
    }
  }
}

std::vector<Way> Lattice::heard(int begin, int end, std::vector<Words> candidates) const {
  std::vector<Way> found;
  for (Words& words : candidates) {
    std::string said;
    for (int word : words) said += (said.empty() ? "" : " ") + text(word);
    if (end < places()) said += ' ';
    const double score = ctc_.log_probability(encoded(said), edges_[size_t(begin)], edges_[size_t(end)]);
    found.push_back({end, std::move(words), score});
  }
  return found;
}

// What words are worth for being words, and for following one another.
double Lattice::likelihood(const Words& words, int before) const {
  double total = 0;
  for (int number : words) {
    const Word& word = words_[size_t(number)];
    const Word* last = before == kNone ? nullptr : &words_[size_t(before)];
    total += word.exists() ? kAWord + kCommonness * lexicon_.log_probability(word, last) : kUnknown;
    before = number;
  }
  return total;
}

// Viterbi search; a path's state is its last word.
std::vector<Step> Lattice::path() const {
  std::vector<std::vector<Path>> reached(chain_.size() + 1);
  reached[0].push_back({0.0, kNone, nullptr, 0, 0});
  for (int place = 0; place < places(); place++) {
    const std::vector<Path>& here = reached[size_t(place)];
    std::vector<int> kept(here.size());
    for (size_t i = 0; i < kept.size(); i++) kept[i] = int(i);
    std::stable_sort(kept.begin(), kept.end(),
                     [&](int a, int b) { return here[size_t(a)].score > here[size_t(b)].score; });
    kept.resize(std::min(kept.size(), kKept));
    for (const Way& way : ways_[size_t(place)]) {
      std::vector<Path>& there = reached[size_t(way.end)];
      const int last = way.words.back();
      auto known = std::find_if(there.begin(), there.end(), [&](const Path& each) { return each.last == last; });
      for (int before : kept) {
        const Path& path = here[size_t(before)];
        const double score = path.score + way.score + likelihood(way.words, path.last);
        if (known == there.end())
          known = there.insert(known, {score, last, &way, place, before});
        else if (score > known->score)
          *known = {score, last, &way, place, before};
      }
    }
  }
  const auto better = [](const Path& a, const Path& b) { return a.score < b.score; };
  const Path* at = &*std::max_element(reached.back().begin(), reached.back().end(), better);
  std::vector<Step> steps;
  for (; at->way; at = &reached[size_t(at->begin)][size_t(at->before)]) steps.push_back({at->begin, at->way});
  std::reverse(steps.begin(), steps.end());
  return steps;
}

Spelled Lattice::best() {
  const std::vector<Step> steps = path();
  const std::vector<double> margins = this->margins(steps);
  Spelled found;
  for (size_t i = 0; i < steps.size(); i++) {
    // The frames of the words that these stand for, shared out evenly.
    const int first = spans_[size_t(steps[i].begin)].first, after = spans_[size_t(steps[i].way->end - 1)].second + 1;
    const int count = int(steps[i].way->words.size());
    for (int each = 0; each < count; each++) {
      const int begin = first + (after - first) * each / count, end = first + (after - first) * (each + 1) / count;
      found.words.push_back(text(steps[i].way->words[size_t(each)]));
      found.spans.emplace_back(begin, std::max(begin, end - 1));
      found.margins.push_back(margins[i]);
    }
  }
  return found;
}

// The margin of each step's words over what else could be in their place, and over one word in place of the two where
// two steps meet.
std::vector<double> Lattice::margins(const std::vector<Step>& steps) {
  const int count = int(steps.size());
  const auto last = [&](int i) { return i < 0 ? kNone : steps[size_t(i)].way->words.back(); };
  const auto first = [&](int i) { return i < count ? steps[size_t(i)].way->words.front() : kNone; };
  std::vector<double> found;
  for (int i = 0; i < count; i++) {
    const auto& [begin, way] = steps[size_t(i)];
    found.push_back(margin(ways_[size_t(begin)], way->words, way->end, last(i - 1), first(i + 1)));
  }
  for (int i = 0; i + 1 < count; i++) {
    const double joined = joined_margin(steps[size_t(i)], steps[size_t(i + 1)], last(i - 1), first(i + 2));
    for (int each : {i, i + 1}) found[size_t(each)] = std::min(found[size_t(each)], joined);
  }
  return found;
}

// By how much one of the ways to `end` beats the others between the word before, if any, and that after.
double Lattice::margin(const std::vector<Way>& ways, const Words& words, int end, int before, int after) const {
  double own = kClear, others = -std::numeric_limits<double>::infinity();
  for (const Way& way : ways) {
    if (way.end != end) continue;
    Words sequence = way.words;
    if (after != kNone) sequence.push_back(after);
    const double score = way.score + likelihood(sequence, before);
    if (way.words == words)
      own = score;
    else
      others = std::max(others, score);
  }
  return std::clamp(own - others, -kClear, kClear);
}

// The margin of two steps over the same with the words where they meet as one, if that exists.
double Lattice::joined_margin(const Step& first, const Step& second, int before, int after) {
  const std::string both = text(first.way->words.back()) + text(second.way->words.front());
  if (!lexicon_.find(both).exists()) return kClear;
  Words apart = first.way->words, one(apart.begin(), apart.end() - 1);
  apart.insert(apart.end(), second.way->words.begin(), second.way->words.end());
  one.push_back(listed(both));
  one.insert(one.end(), second.way->words.begin() + 1, second.way->words.end());
  return margin(heard(first.begin, second.way->end, {apart, one}), apart, second.way->end, before, after);
}

}  // namespace

std::vector<uint8_t> encoded(std::string_view text) {
  std::vector<uint8_t> found;
  for (char each : text) {
    const bool letter = each >= 'a' && each <= 'z';
    if (!letter && each != ' ' && each != '\'') throw std::invalid_argument("a character outside the alphabet");
    found.push_back(letter ? uint8_t(kFirstLetter + each - 'a') : each == ' ' ? kSpace : kApostrophe);
  }
  return found;
}

Spelled spell(const Lexicon& lexicon, const std::vector<std::string>& words, const std::vector<Span>& spans,
              const float* log_probs, int frames, int symbols) {
  if (words.empty()) return {};
  return Lattice(lexicon, words, spans, log_probs, frames, symbols).best();
}

}  // namespace edge
