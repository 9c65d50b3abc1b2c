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

int draw(Sampler& sampler, const Array<float>& logits, double number, const std::vector<int>& seen,
         const std::optional<Array<uint8_t>>& allowed) {
  const int size = int(logits.size());
  if (logits.ndim() != 1 || size < 1) throw std::invalid_argument("expected float32 (vocabulary,)");
  if (allowed && allowed->size() < (size + 7) / 8) throw std::invalid_argument("expected a bit for each token");
  for (int token : seen)
    if (token < 0 || token >= size) throw std::invalid_argument("a token outside the vocabulary was seen");
  const uint8_t* bits = allowed ? allowed->data() : nullptr;
  const float* in = logits.data();
  py::gil_scoped_release release;
  return sampler.draw(in, size, number, seen, bits);
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
           "float32 (vocabulary,), a number in [0, 1), tokens seen, uint8 (vocabulary / 8,) or None -> token, or -1.");
}

}  // namespace edge
