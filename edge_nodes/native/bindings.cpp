// SPDX-License-Identifier: Apache-2.0
// Python's view of the kernels and the model; arrays are checked here, the GIL is released around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "bindings.h"
#include "kernels.h"
#include "model.h"
#include "pool.h"
#include "ternary.h"
#include "top_entropy.h"

namespace py = pybind11;
using namespace edge;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

Source source_of(const std::string& type) {
  if (type == "F32") return Source::f32;
  if (type == "Q4_0") return Source::q4_0;
  if (type == "Q4_1") return Source::q4_1;
  if (type == "Q6_K") return Source::q6_k;
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
    case Source::q6_k:
      return groups / 8 * 210;
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
  // Rows of a type whose blocks have 256 weights have no bytes for fewer.
  const int step = source == Source::f32 || source == Source::trits       ? 1
                   : row_bytes_of(source, kGroup) == 0                   ? kTernaryBlock
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
  Buffer<int32_t> sums(size_t(n) * groups * 2);
  Buffer<float> scaled(size_t(n) * groups), y(size_t(n) * stride);
  Array<float> out({n, w.rows});
  {
    py::gil_scoped_release release;
    for (int i = 0; i < n * groups; ++i) {
      const int8_t* row = q.data() + size_t(i) * kGroup;
      int32_t* sum = sums.data() + 2 * size_t(i);
      for (int half = 0; half < 2; ++half) sum[half] = std::accumulate(row + half * kHalf, row + (half + 1) * kHalf, 0);
      scaled[size_t(i)] = scale.data()[i] * float(sum[0] + sum[1]);
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

Array<float> multiply_ternary(const Matrix& w, const Array<int8_t>& q, const Array<float>& scale,
                           const std::string& kernel, const std::string& method, int threads) {
  const Kernels& k = select_kernels(kernel);
  const int cols = w.groups * kGroup, stride = w.tiles * kTile;
  if (!w.ternary()) throw std::invalid_argument("the matrix is not ternary");
  if (q.ndim() != 2 || q.shape(0) < 1 || q.shape(1) != w.cols || scale.ndim() != 1 || scale.shape(0) != q.shape(0))
    throw std::invalid_argument("activations must be int8 (n, columns) and float32 (n,)");
  const int n = int(q.shape(0));
  Buffer<float> y(size_t(n) * stride);
  Array<float> out({n, w.rows});
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
    work.multiply(pool, k, &product, 1, x, n, false);
  }
  for (int t = 0; t < n; ++t)
    std::copy_n(y.data() + size_t(t) * stride, w.rows, out.mutable_data() + size_t(t) * w.rows);
  return out;
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
  Array<int32_t> sum({n, 2 * groups});
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

Array<float> run_step(Model& model, const Array<int32_t>& tokens, const std::vector<Segment>& segments,
                      const std::vector<int>& rows) {
  Array<float> logits({py::ssize_t(rows.size()), py::ssize_t(model.config().vocabulary)});
  float* out = logits.mutable_data();
  const int32_t* in = tokens.data();
  py::gil_scoped_release release;
  model.forward(in, segments, rows, out);
  return logits;
}

py::object forward(Model& model, const Array<int32_t>& tokens, int first, bool all) {
  if (tokens.ndim() != 1) throw std::invalid_argument("expected int32 (n,)");
  const int n = int(tokens.size());
  std::vector<int> rows;
  for (int t = all ? 0 : n - 1; t < n; ++t) rows.push_back(t);
  Array<float> logits = run_step(model, tokens, {{0, first, n}}, rows);
  return all ? py::object(logits) : logits[py::int_(0)];
}

Array<float> forward_segments(Model& model, const Array<int32_t>& tokens,
                              const std::vector<std::array<int, 3>>& segments, const std::vector<int>& rows) {
  std::vector<Segment> list;
  py::ssize_t n = 0;
  for (const auto& s : segments) {
    list.push_back({s[0], s[1], s[2]});
    n += s[2];
  }
  if (tokens.ndim() != 1 || tokens.size() != n) throw std::invalid_argument("tokens and segments differ in length");
  return run_step(model, tokens, list, rows);
}

template <typename T>
void borrow(Buffer<T>& buffer, const py::dict& parts, const char* name, size_t size) {
  const auto array = py::cast<py::array>(parts[name]);
  if (!py::isinstance<py::array_t<T>>(array) || !(array.flags() & py::array::c_style) || size_t(array.size()) != size)
    throw std::invalid_argument(std::string("packed ") + name + ": expected " + std::to_string(size) +
                                " contiguous items of " + std::to_string(sizeof(T)) + " bytes");
  buffer.borrow(static_cast<T*>(const_cast<void*>(array.data())), size);
}

py::dict matrix_parts(const py::object& self) {
  const Matrix& w = self.cast<const Matrix&>();
  const auto array = [&](const auto& buffer) {
    return Array<std::decay_t<decltype(buffer[0])>>(py::ssize_t(buffer.size()), buffer.data(), self);
  };
  py::dict parts;
  parts["rows"] = w.rows, parts["cols"] = w.cols, parts["bits"] = w.bits, parts["zero"] = w.zero;
  parts["has_min"] = w.has_min, parts["scale"] = w.scale, parts["dense"] = w.dense;
  parts["codes"] = array(w.codes), parts["scales"] = array(w.scales), parts["mins"] = array(w.mins);
  return parts;
}

std::unique_ptr<Matrix> matrix_from_parts(const py::dict& parts) {
  auto w = std::make_unique<Matrix>();
  w->rows = parts["rows"].cast<int>(), w->cols = parts["cols"].cast<int>(), w->bits = parts["bits"].cast<int>();
  w->zero = parts["zero"].cast<int>(), w->has_min = parts["has_min"].cast<bool>();
  w->scale = parts["scale"].cast<float>();
  w->dense = parts.contains("dense") && parts["dense"].cast<bool>();
  if (w->rows < 1 || w->cols < 1 || (w->bits != 2 && w->bits != 4 && w->bits != 6 && w->bits != 8))
    throw std::invalid_argument("not a packed matrix");
  w->tiles = round_up(w->rows, kTile) / kTile;
  w->groups = round_up(w->cols, kGroup) / kGroup;
  borrow(w->codes, parts, "codes", size_t(w->tiles) * w->tile_bytes());
  const size_t scales = size_t(w->tiles) * kTile * w->scale_groups();
  const bool one = w->ternary() && !py::cast<py::array>(parts["scales"]).size();
  borrow(w->scales, parts, "scales", one ? 0 : scales);
  borrow(w->mins, parts, "mins", w->has_min ? scales : 0);
  return w;
}

}  // namespace

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "Low-bit matrix kernels and the Llama and BitNet decoder step.";
  bind_sampling(m);
  bind_spelling(m);
  bind_bev(m);
  bind_window(m);
  bind_measurements(m);
  m.attr("KERNEL_VERSION") = kKernelVersion;
  m.def(
      "supported_kernels",
      [] {
        std::vector<std::string> names;
        for (const Kernels* k : supported_kernels()) names.push_back(k->name);
        return names;
      },
      "Names of the kernels this processor can run, fastest first.");
  m.def("quantise", &quantise, py::arg("x"), py::arg("kernel") = "auto",
        "float32 (n, k) -> int8 codes (n, k), float32 scales (n, k / 32) and int32 sums (n, k / 16).");
  m.def("quantise_tokens", &quantise_tokens, py::arg("x"), py::arg("kernel") = "auto",
        "float32 (n, k) -> int8 codes (n, k), float32 scales (n,) and int32 sums (n, k / 256).");
  m.def("statistics", &statistics, py::arg("logits"), py::arg("kernel") = "auto",
        "float32 (vocabulary,) -> argmax, log of the sum of exponentials, entropy in nats.");

  m.def(
      "top_entropy",
      [](const Array<float>& logits, int k) {
        if (logits.ndim() != 1 || logits.size() < 1) throw std::invalid_argument("expected float32 (n,)");
        return top_entropy(logits.data(), int(logits.size()), k);
      },
      py::arg("logits"), py::arg("k"), "float32 (n,) -> entropy of the k most probable, renormalised, bits.");
  py::class_<Matrix>(m, "Matrix", "Weights of one GGUF matrix in the kernels' layout.")
      .def(py::init([](const std::string& type, const Array<uint8_t>& data, int cols, float scale, bool dense) {
             const Rows r = check_rows(type, data, cols);
             auto matrix = std::make_unique<Matrix>();
             matrix->pack(r.source, r.data, r.row_bytes, r.rows, r.cols, scale, dense);
             return matrix;
           }),
           py::arg("type"), py::arg("data"), py::arg("cols"), py::arg("scale") = 1.0f, py::arg("dense") = false)
      .def_readonly("rows", &Matrix::rows)
      .def_readonly("cols", &Matrix::cols)
      .def_readonly("dense", &Matrix::dense)
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
      .def(
          "copy",
          [](const Matrix& w) {
            auto copy = std::make_unique<Matrix>(w.view());
            copy->resize_codes();
            std::copy_n(w.codes.data(), w.codes.size(), copy->codes.data());
            copy->scales.resize(w.scales.size());
            std::copy_n(w.scales.data(), w.scales.size(), copy->scales.data());
            copy->mins.resize(w.mins.size());
            std::copy_n(w.mins.data(), w.mins.size(), copy->mins.data());
            return copy;
          },
          "The same weights in memory of their own.")
      .def("parts", &matrix_parts, "The packed arrays, not copied, and what else `from_parts` needs.")
      .def_static("from_parts", &matrix_from_parts, py::arg("parts"), py::keep_alive<0, 1>(),
                  "The matrix of `parts`, whose arrays are looked at where they are.")
      .def("multiply_ternary", &multiply_ternary, py::arg("q"), py::arg("scale"), py::arg("kernel") = "auto",
           py::arg("method") = "auto", py::arg("threads") = 1, "int8 (n, cols) and float32 (n,) -> float32 (n, rows).");

  py::class_<Model> model(m, "Model", "A Llama or BitNet decoder; not thread-safe.");
  bind_streamed(m, model);
  model
      .def(py::init([](int vocabulary, int width, int hidden, int layers, int heads, int kv_heads, int head_dim,
                       int rope_dim, int context, int slots, int batch, int threads, float epsilon,
                       const std::string& kernel, bool bitnet, const std::string& method, bool dense,
                       const std::string& cache, int whole_heads, int whole_hidden, int first_kv_head,
                       int first_column, int column_unit, float rope_magnitude) {
             ModelConfig c;
             c.vocabulary = vocabulary, c.width = width, c.hidden = hidden, c.layers = layers;
             c.heads = heads, c.kv_heads = kv_heads, c.head_dim = head_dim, c.rope_dim = rope_dim;
             c.context = context, c.slots = slots, c.batch = batch, c.threads = threads, c.epsilon = epsilon;
             c.kernel = kernel, c.bitnet = bitnet, c.method = method, c.dense = dense, c.cache = cache;
             c.whole_heads = whole_heads ? whole_heads : heads, c.whole_hidden = whole_hidden ? whole_hidden : hidden;
             c.first_kv_head = first_kv_head, c.first_column = first_column, c.column_unit = column_unit;
             c.rope_magnitude = rope_magnitude;
             return std::make_unique<Model>(c);
           }),
           py::kw_only(), py::arg("vocabulary"), py::arg("width"), py::arg("hidden"), py::arg("layers"),
           py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("rope_dim"), py::arg("context"),
           py::arg("slots") = 1, py::arg("batch"), py::arg("threads"), py::arg("epsilon"), py::arg("kernel") = "auto",
           py::arg("bitnet") = false, py::arg("method") = "auto", py::arg("dense") = false, py::arg("cache") = "f16",
           py::arg("whole_heads") = 0, py::arg("whole_hidden") = 0, py::arg("first_kv_head") = 0,
           py::arg("first_column") = 0, py::arg("column_unit") = 0, py::arg("rope_magnitude") = 1.0f)
      .def(
          "set_matrix",
          [](Model& model, const std::string& name, const std::string& type, const Array<uint8_t>& data, int cols,
             float scale) {
            const Rows r = check_rows(type, data, cols);
            py::gil_scoped_release release;
            return model.set_matrix(name, r.source, r.data, r.row_bytes, r.rows, r.cols, scale);
          },
          py::arg("name"), py::arg("type"), py::arg("data"), py::arg("cols"), py::arg("scale") = 1.0f)
      .def("set_packed", &Model::set_packed, py::arg("name"), py::arg("matrix"), py::keep_alive<1, 3>(),
           "Use a packed `Matrix` without copying it.")
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
           "int32 (n,) of slot 0 at positions first.. -> float32 logits (vocabulary,), or (n, vocabulary) if `all`.")
      .def("forward", &forward_segments, py::arg("tokens"), py::kw_only(), py::arg("segments"), py::arg("rows"),
           "int32 (n,), the tokens of all segments [(slot, first position, count)] one after the other -> float32 "
           "logits (len(rows), vocabulary) of the tokens `rows`. A row does not depend on the other segments.")
      .def(
          "copy_cache",
          [](Model& model, int from, int to, int begin, int end) {
            const CacheShape& c = model.cache().shape();
            if (from < 0 || to < 0 || from >= c.slots || to >= c.slots || begin < 0 || end > c.context)
              throw std::out_of_range("slot or position beyond the cache");
            py::gil_scoped_release release;
            return model.cache().copy(from, to, begin, end);
          },
          py::arg("from_slot"), py::arg("to_slot"), py::arg("begin"), py::arg("end"),
          "Makes positions begin to end of `to_slot` those of `from_slot` and forgets what followed; whole blocks of 16 "
          "are shared by both. Returns how many positions were copied.")
      .def(
          "truncate_cache",
          [](Model& model, int slot, int length) {
            if (slot < 0 || slot >= model.cache().shape().slots || length < 0)
              throw std::out_of_range("slot or position beyond the cache");
            model.cache().truncate(slot, length);
          },
          py::arg("slot"), py::arg("length"), "Forgets positions from `length` on.")
      .def_property_readonly("slots", [](const Model& model) { return model.config().slots; })
      .def_property_readonly("cache_bytes_per_token",
                             [](const Model& model) { return model.cache().bytes_per_token(); })
      .def_property_readonly("kernel", [](const Model& model) { return std::string(model.kernels().name); })
      .def_property_readonly("context", [](const Model& model) { return model.config().context; })
      .def_property_readonly("batch", [](const Model& model) { return model.config().batch; })
      .def_property_readonly("threads", [](const Model& model) { return model.config().threads; })
      .def_property_readonly("vocabulary", [](const Model& model) { return model.config().vocabulary; })
      .def_property_readonly("weight_bytes", &Model::weight_bytes)
      .def_property_readonly("method", [](const Model& model) { return model.config().method; })
      .def("ternary_shapes", &Model::ternary_shapes, "(rows, columns) of the ternary matrices in memory, each once.")
      .def(
          "set_table_choices",
          [](Model& model, const std::vector<std::array<int, 3>>& choices) {
            std::vector<TableChoice> list;
            for (const auto& c : choices) list.push_back({c[0], c[1], c[2]});
            model.set_table_choices(std::move(list));
          },
          py::arg("choices"),
          "[(rows, columns, tokens)]: from so many tokens on, look-up tables multiply matrices of this shape.")
      .def_property_readonly("cache_bytes", [](const Model& model) { return model.cache().bytes(); })
      .def_property_readonly("cache_used_bytes", [](const Model& model) { return model.cache().used_bytes(); })
      .def_property_readonly("cache_shared_bytes", [](const Model& model) { return model.cache().shared_bytes(); });
  bind_attention(m, model);
}
