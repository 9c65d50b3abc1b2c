// SPDX-License-Identifier: Apache-2.0
// Python's view of the sampler.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "bindings.h"
#include "sampling.h"

namespace py = pybind11;

namespace edge {

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

using Allowed = std::optional<Array<uint8_t>>;

void check(const Array<float>& logits, const std::vector<int>& seen, const Allowed& allowed) {
  const py::ssize_t size = logits.size();
  if (logits.ndim() != 1 || size < 1) throw std::invalid_argument("expected float32 (vocabulary,)");
  if (allowed && allowed->size() < (size + 7) / 8) throw std::invalid_argument("expected a bit for each token");
  for (int token : seen)
    if (token < 0 || token >= size) throw std::invalid_argument("a token outside the vocabulary was seen");
}

int draw(Sampler& sampler, const Array<float>& given, double number, const std::vector<int>& seen,
         const Allowed& allowed) {
  check(given, seen, allowed);
  Array<float> logits = given;
  if (!logits.writeable()) logits = Array<float>(given.size(), given.data());  // a copy
  const uint8_t* bits = allowed ? allowed->data() : nullptr;
  float* values = logits.mutable_data();
  const int size = int(logits.size());
  py::gil_scoped_release release;
  return sampler.draw(values, size, number, seen, bits);
}

py::tuple take(Sampler& sampler, const Array<float>& logits, double number, const std::vector<int>& seen,
               const Allowed& allowed) {
  check(logits, seen, allowed);
  Statistics found;
  {
    py::gil_scoped_release release;
    found = sampler.kernels().statistics(logits.data(), int(logits.size()));
  }
  const int token = sampler.greedy() && !allowed ? found.argmax : draw(sampler, logits, number, seen, allowed);
  const float logprob = token < 0 ? 0.0f : logits.at(token) - found.log_sum_exp;
  return py::make_tuple(token, logprob, found.entropy);
}

}  // namespace

void bind_sampling(py::module_& m) {
  py::class_<Sampler>(m, "Sampler")
      .def(py::init([](float temperature, int top_k, double top_p, double min_p, float penalty,
                       std::vector<std::pair<int, float>> bias) {
             return Sampler({temperature, top_k, top_p, min_p, penalty, std::move(bias)});
           }),
           py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"), py::arg("penalty"),
           py::arg("bias"))
      .def("draw", &draw, py::arg("logits"), py::arg("number"), py::arg("seen"), py::arg("allowed"),
           "float32 (vocabulary,), a number in [0, 1), tokens seen, uint8 (vocabulary / 8,) or None -> token, or -1.")
      .def("take", &take, py::arg("logits"), py::arg("number"), py::arg("seen"), py::arg("allowed"),
           "The same -> token, its log-probability and the entropy in nats, both of the logits as they are.");
}

}  // namespace edge
