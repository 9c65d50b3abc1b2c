// SPDX-License-Identifier: Apache-2.0
// Python's view of the kernels and the model; arrays are checked here, the GIL is released around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "kernels.h"
#include "model.h"
#include "pool.h"
#include "ternary.h"

namespace py = pybind11;
using namespace edge;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

Source source_of(const std::string& type) {
  if (type == "F32") return Source::f32;
  if (type == "Q4_0") return Source::q4_0;
  if (type == "Q4_1") return Source::q4_1;
  if (type == "Q8_0") return Source::q8_0;
  if (type == "TQ1_0") return Source::tq1_0;
  if (type == "TQ2_0") return Source::tq2_0;
  if (type == "I2_S") return Source::i2_s;
  if (type == "TRITS") return Source::trits;
  throw std::invalid_argument("no packing for weight type " + type);
}

size_t row_bytes_of(Source source, int cols) {
  const size_t groups = size_t(cols) / kGroup;
  switch (source) {
    case Source::q4_0:
      return groups * 18;
    case Source::q4_1:
      return groups * 20;
    case Source::q8_0:
      return groups * 34;
    case Source::tq1_0:
      return groups / 8 * 54;
    case Source::tq2_0:
      return groups / 8 * 66;
    case Source::i2_s:
      return size_t(cols) / 4;
    case Source::trits:
      return size_t(cols);
    default:
      return size_t(cols) * sizeof(float);
  }
}

struct Rows {
  Source source;
  const uint8_t* data;
  size_t row_bytes;
  int rows, cols;
};

// `data`: uint8 (rows, bytes of a row); `cols`: weights of a row.
Rows check_rows(const std::string& type, const Array<uint8_t>& data, int cols) {
  const Source source = source_of(type);
  if (data.ndim() != 2 || cols < 1) throw std::invalid_argument("weights must be bytes of shape (rows, row bytes)");
  const int step = source == Source::f32 || source == Source::trits       ? 1
                   : source == Source::tq1_0 || source == Source::tq2_0 ? 256
                   : source == Source::i2_s                             ? 128
                                                                        : kGroup;
  if (cols % step)
    throw std::invalid_argument(type + " rows must be a multiple of " + std::to_string(step) + " weights");
  const size_t want = row_bytes_of(source, cols);
  if (size_t(data.shape(1)) != want)
    throw std::invalid_argument(type + " rows of " + std::to_string(cols) + " weights take " + std::to_string(want) +
                                " bytes, not " + std::to_string(data.shape(1)));
  return {source, data.data(), want, int(data.shape(0)), cols};
}

Array<float> multiply_codes(const Matrix& w, const Array<int8_t>& q, const Array<float>& scale,
                            const std::string& kernel, int threads) {
  const Kernels& k = select_kernels(kernel);
  const int groups = w.groups, n = int(q.shape(0)), stride = w.tiles * kTile;
  if (w.ternary()) throw std::invalid_argument("ternary matrices have multiply_ternary");
  if (q.ndim() != 2 || q.shape(1) != groups * kGroup || scale.ndim() != 2 || scale.shape(0) != n ||
      scale.shape(1) != groups)
    throw std::invalid_argument("activations must be int8 (n, columns rounded up to 32) and float32 (n, groups)");
  Buffer<int32_t> sums(size_t(n) * groups);
  Buffer<float> scaled(size_t(n) * groups), y(size_t(n) * stride);
  Array<float> out({n, w.rows});
  {
    py::gil_scoped_release release;
    for (int i = 0; i < n * groups; ++i) {
      int32_t sum = 0;
      for (int j = 0; j < kGroup; ++j) sum += q.data()[size_t(i) * kGroup + j];
      sums[size_t(i)] = sum;
      scaled[size_t(i)] = scale.data()[i] * float(sum);
    }
    Activations x{groups, const_cast<int8_t*>(q.data()), const_cast<float*>(scale.data()), sums.data(), scaled.data()};
    Pool pool(threads);
    const size_t scratch_size = size_t(groups) * kScratch;
    Buffer<uint8_t> scratch(scratch_size * threads);
    pool.run(w.tiles, [&](int tile, int thread) {
      k.multiply(w, tile, tile + 1, x, n, y.data(), stride, false, scratch.data() + scratch_size * thread);
    });
  }
  for (int t = 0; t < n; ++t)
    std::copy_n(y.data() + size_t(t) * stride, w.rows, out.mutable_data() + size_t(t) * w.rows);
  return out;
}

// Seconds of the best of `repeats` runs are returned beside the product.
py::tuple multiply_ternary(const Matrix& w, const Array<int8_t>& q, const Array<float>& scale,
                           const std::string& kernel, const std::string& method, int threads, int repeats) {
  const Kernels& k = select_kernels(kernel);
  const int cols = w.groups * kGroup, stride = w.tiles * kTile;
  if (!w.ternary()) throw std::invalid_argument("the matrix is not ternary");
  if (q.ndim() != 2 || q.shape(0) < 1 || q.shape(1) != w.cols || scale.ndim() != 1 || scale.shape(0) != q.shape(0))
    throw std::invalid_argument("activations must be int8 (n, columns) and float32 (n,)");
  const int n = int(q.shape(0));
  Buffer<float> y(size_t(n) * stride);
  Array<float> out({n, w.rows});
  double best = 1e300;
  {
    py::gil_scoped_release release;
    Pool pool(threads);
    TernaryWork work(n, cols, threads, method_of(method));
    TokenActivations x = work.activations(cols);
    for (int t = 0; t < n; ++t) {
      int8_t* row = x.q + size_t(t) * cols;
      std::memset(row, 0, size_t(cols));
      std::memcpy(row, q.data() + size_t(t) * w.cols, size_t(w.cols));
      x.scale[t] = scale.data()[t];
      x.total[t] = 0;
      for (int b = 0; b < x.blocks; ++b) {
        int32_t sum = 0;
        for (int c = b * kTernaryBlock; c < std::min(cols, (b + 1) * kTernaryBlock); ++c) sum += row[c];
        x.sum[size_t(t) * x.blocks + b] = sum;
        x.total[t] += sum;
      }
    }
    const Product product{&w, y.data()};
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      work.multiply(pool, k, &product, 1, x, n, false);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
  }
  for (int t = 0; t < n; ++t)
    std::copy_n(y.data() + size_t(t) * stride, w.rows, out.mutable_data() + size_t(t) * w.rows);
  return py::make_tuple(out, best);
}

py::tuple quantise_tokens(const Array<float>& x, const std::string& kernel) {
  const Kernels& k = select_kernels(kernel);
  if (x.ndim() != 2 || x.shape(1) % kGroup) throw std::invalid_argument("expected float32 (n, multiple of 32)");
  const py::ssize_t n = x.shape(0), cols = x.shape(1), blocks = (cols + kTernaryBlock - 1) / kTernaryBlock;
  Array<int8_t> q({n, cols});
  Array<float> scale(n);
  Array<int32_t> sum({n, blocks});
  for (py::ssize_t t = 0; t < n; ++t) {
    int32_t total;
    k.quantise_token(x.data() + t * cols, int(cols), q.mutable_data() + t * cols, scale.mutable_data() + t,
                     sum.mutable_data() + t * blocks, &total);
  }
  return py::make_tuple(q, scale, sum);
}

py::tuple quantise(const Array<float>& x, const std::string& kernel) {
  const Kernels& k = select_kernels(kernel);
  if (x.ndim() != 2 || x.shape(1) % kGroup) throw std::invalid_argument("expected float32 (n, multiple of 32)");
  const py::ssize_t n = x.shape(0), cols = x.shape(1), groups = cols / kGroup;
  Array<int8_t> q({n, cols});
  Array<float> scale({n, groups}), scaled({n, groups});
  Array<int32_t> sum({n, groups});
  k.quantise(x.data(), int(n * groups), q.mutable_data(), scale.mutable_data(), sum.mutable_data(),
             scaled.mutable_data());
  return py::make_tuple(q, scale, sum);
}

py::tuple statistics(const Array<float>& logits, const std::string& kernel) {
  if (logits.ndim() != 1 || logits.size() < 1) throw std::invalid_argument("expected float32 (vocabulary,)");
  const Kernels& k = select_kernels(kernel);
  Statistics s;
  {
    py::gil_scoped_release release;
    s = k.statistics(logits.data(), int(logits.size()));
  }
  return py::make_tuple(s.argmax, s.log_sum_exp, s.entropy);
}

Array<float> forward(Model& model, const Array<int32_t>& tokens, int first, bool all) {
  if (tokens.ndim() != 1) throw std::invalid_argument("expected int32 (n,)");
  const py::ssize_t n = tokens.size(), vocabulary = model.config().vocabulary;
  Array<float> logits = all ? Array<float>({n, vocabulary}) : Array<float>(vocabulary);
  float* out = logits.mutable_data();
  const int32_t* in = tokens.data();
  py::gil_scoped_release release;
  model.forward(in, int(n), first, out, all);
  return logits;
}

}  // namespace

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "Low-bit matrix kernels and the Llama and BitNet decoder step.";
  m.def(
      "supported_kernels",
      [] {
        std::vector<std::string> names;
        for (const Kernels* k : supported_kernels()) names.push_back(k->name);
        return names;
      },
      "Names of the kernels this processor can run, fastest first.");
  m.def("quantise", &quantise, py::arg("x"), py::arg("kernel") = "auto",
        "float32 (n, k) -> int8 codes (n, k), float32 scales and int32 sums (n, k / 32).");
  m.def("quantise_tokens", &quantise_tokens, py::arg("x"), py::arg("kernel") = "auto",
        "float32 (n, k) -> int8 codes (n, k), float32 scales (n,) and int32 sums (n, k / 256).");
  m.def("statistics", &statistics, py::arg("logits"), py::arg("kernel") = "auto",
        "float32 (vocabulary,) -> argmax, log of the sum of exponentials, entropy in nats.");

  py::class_<Matrix>(m, "Matrix", "Weights of one GGUF matrix in the kernels' layout.")
      .def(py::init([](const std::string& type, const Array<uint8_t>& data, int cols, float scale) {
             const Rows r = check_rows(type, data, cols);
             auto matrix = std::make_unique<Matrix>();
             matrix->pack(r.source, r.data, r.row_bytes, r.rows, r.cols, scale);
             return matrix;
           }),
           py::arg("type"), py::arg("data"), py::arg("cols"), py::arg("scale") = 1.0f)
      .def_readonly("rows", &Matrix::rows)
      .def_readonly("cols", &Matrix::cols)
      .def_property_readonly("bytes", &Matrix::bytes)
      .def(
          "to_float",
          [](const Matrix& w) {
            Array<float> out({w.rows, w.groups * kGroup});
            for (int r = 0; r < w.rows; ++r) w.row(r, out.mutable_data() + size_t(r) * w.groups * kGroup);
            return out;
          },
          "float32 (rows, columns rounded up to 32).")
      .def("multiply", &multiply_codes, py::arg("q"), py::arg("scale"), py::arg("kernel") = "auto",
           py::arg("threads") = 1, "int8 (n, k) and float32 (n, k / 32) -> float32 (n, rows).")
      .def_readonly("scale", &Matrix::scale)
      .def_property_readonly("uniform", [](const Matrix& w) { return w.ternary() && !w.scales.size(); })
      .def("multiply_ternary", &multiply_ternary, py::arg("q"), py::arg("scale"), py::arg("kernel") = "auto",
           py::arg("method") = "auto", py::arg("threads") = 1, py::arg("repeats") = 1,
           "int8 (n, cols) and float32 (n,) -> float32 (n, rows), and the least seconds of a run.");

  py::class_<Model>(m, "Model", "A Llama decoder; not thread-safe.")
      .def(py::init([](int vocabulary, int width, int hidden, int layers, int heads, int kv_heads, int head_dim,
                       int rope_dim, int context, int batch, int threads, float epsilon, const std::string& kernel, bool bitnet,
                       const std::string& method) {
             ModelConfig c{vocabulary, width,   hidden, layers,  heads,   kv_heads, head_dim,
                           rope_dim,   context, batch,  threads, epsilon, kernel,   bitnet,  method};
             return std::make_unique<Model>(c);
           }),
           py::kw_only(), py::arg("vocabulary"), py::arg("width"), py::arg("hidden"), py::arg("layers"),
           py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("rope_dim"), py::arg("context"),
           py::arg("batch"), py::arg("threads"), py::arg("epsilon"), py::arg("kernel") = "auto", py::arg("bitnet") = false,
           py::arg("method") = "auto")
      .def(
          "set_matrix",
          [](Model& model, const std::string& name, const std::string& type, const Array<uint8_t>& data, int cols,
             float scale) {
            const Rows r = check_rows(type, data, cols);
            py::gil_scoped_release release;
            return model.set_matrix(name, r.source, r.data, r.row_bytes, r.rows, r.cols, scale);
          },
          py::arg("name"), py::arg("type"), py::arg("data"), py::arg("cols"), py::arg("scale") = 1.0f)
      .def("scale_matrix", &Model::scale_matrix, py::arg("name"), py::arg("factor"))
      .def(
          "set_vector",
          [](Model& model, const std::string& name, const Array<float>& data) {
            return model.set_vector(name, data.data(), int(data.size()));
          },
          py::arg("name"), py::arg("data"))
      .def(
          "set_rope",
          [](Model& model, const Array<float>& frequencies) {
            if (frequencies.size() != model.config().rope_dim / 2)
              throw std::invalid_argument("expected rope_dim / 2 values");
            model.set_rope(frequencies.data());
          },
          py::arg("frequencies"))
      .def("missing", &Model::missing)
      .def("forward", &forward, py::arg("tokens"), py::arg("first"), py::arg("all") = false,
           "int32 (n,) at positions first.. -> float32 logits (vocabulary,), or (n, vocabulary) if `all`.")
      .def_property_readonly("kernel", [](const Model& model) { return std::string(model.kernels().name); })
      .def_property_readonly("context", [](const Model& model) { return model.config().context; })
      .def_property_readonly("batch", [](const Model& model) { return model.config().batch; })
      .def_property_readonly("threads", [](const Model& model) { return model.config().threads; })
      .def_property_readonly("vocabulary", [](const Model& model) { return model.config().vocabulary; })
      .def_property_readonly("weight_bytes", &Model::weight_bytes)
      .def_property_readonly("cache_bytes", &Model::cache_bytes);
}
