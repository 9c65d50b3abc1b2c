// SPDX-License-Identifier: Apache-2.0
// Python's view of the lexicon and of spelling.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "bindings.h"
#include "ctc.h"
#include "spelling.h"

namespace py = pybind11;

namespace edge {

namespace {

using LogProbs = py::array_t<float, py::array::c_style | py::array::forcecast>;

constexpr int kSymbols = 29;  // of the alphabet that `encoded` knows

void check(const LogProbs& log_probs) {
  if (log_probs.ndim() != 2 || log_probs.shape(0) < 1 || log_probs.shape(1) != kSymbols)
    throw std::invalid_argument("expected float32 (frames, 29)");
}

double log_probability(const Lexicon& lexicon, const std::string& word, const std::optional<std::string>& before,
                       double (Lexicon::*of)(const Word&, const Word*) const) {
  const Word found = lexicon.find(word), last = lexicon.find(before.value_or(""));
  return (lexicon.*of)(found, before ? &last : nullptr);
}

py::tuple spelled(const Lexicon& lexicon, const std::vector<std::string>& words, const std::vector<Span>& spans,
                  const LogProbs& log_probs) {
  check(log_probs);
  const int frames = int(log_probs.shape(0));
  if (words.size() != spans.size()) throw std::invalid_argument("expected as many spans as words");
  int before = -1;
  for (const auto& [first, last] : spans) {
    if (first <= before || last < first || last >= frames)
      throw std::invalid_argument("expected spans that follow one another, inside the frames");
    before = last;
  }
  const float* values = log_probs.data();
  Spelled found;
  {
    py::gil_scoped_release release;
    found = spell(lexicon, words, spans, values, frames, kSymbols);
  }
  return py::make_tuple(found.words, found.spans, found.margins);
}

std::vector<double> ctc_log_probability(const LogProbs& log_probs, const std::vector<std::string>& texts) {
  check(log_probs);
  const int frames = int(log_probs.shape(0));
  const Ctc ctc(log_probs.data(), frames, kSymbols);
  std::vector<double> found;
  for (const std::string& text : texts) {
    if (text.empty()) throw std::invalid_argument("expected texts that are not empty");
    found.push_back(ctc.log_probability(encoded(text), 0, frames));
  }
  return found;
}

}  // namespace

void bind_spelling(py::module_& m) {
  py::class_<Lexicon>(m, "Lexicon")
      .def(py::init([](const py::bytes& words, const py::bytes& pairs, const std::vector<std::string>& own) {
             return Lexicon(std::string_view(words), std::string_view(pairs), own);
           }),
           py::arg("words"), py::arg("pairs"), py::arg("own"))
      .def("__contains__", [](const Lexicon& lexicon, const std::string& word) { return lexicon.find(word).exists(); })
      .def("log_probability",
           [](const Lexicon& lexicon, const std::string& word, const std::optional<std::string>& before) {
             return log_probability(lexicon, word, before, &Lexicon::log_probability);
           },
           py::arg("word"), py::arg("before"))
      .def("log_bound",
           [](const Lexicon& lexicon, const std::string& word, const std::optional<std::string>& before) {
             return log_probability(lexicon, word, before, &Lexicon::log_bound);
           },
           py::arg("word"), py::arg("before"))
      .def("near", &Lexicon::near, py::arg("word"), py::arg("edits"), py::arg("limit"));
  m.def("spell", &spelled, py::arg("lexicon"), py::arg("words"), py::arg("spans"), py::arg("log_probs"),
        "Words, first and last frame of each, float32 (frames, 29) -> words, spans and margins.");
  m.def("ctc_log_probability", &ctc_log_probability, py::arg("log_probs"), py::arg("texts"),
        "float32 (frames, 29), texts -> logarithmic probability of each.");
  m.attr("COMMONNESS") = kCommonness;
  m.attr("A_WORD") = kAWord;
  m.attr("UNKNOWN") = kUnknown;
  m.attr("CLEAR") = kClear;
}

}  // namespace edge
