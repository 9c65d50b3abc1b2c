// SPDX-License-Identifier: Apache-2.0
// Python's view of the key/value caches by themselves: for tests, calibration and measurements.
#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "capture_cache.h"
#include "delta_cache.h"
#include "pool.h"

namespace py = pybind11;

namespace edge {

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

constexpr float kNoTheta = 0.0f;

DeltaOptions options_of(const Array<float>& theta, double window_scale, int sink, bool byte_values,
                        int dense_below) {
  DeltaOptions options;
  options.theta.assign(theta.data(), theta.data() + theta.size());
  options.window_scale = window_scale;
  options.sink = sink;
  options.byte_values = byte_values;
  options.dense_below = dense_below;
  return options;
}

DeltaCache* delta_of(Cache& cache) { return dynamic_cast<DeltaCache*>(&cache); }

DeltaCache& must_be_delta(Cache& cache) {
  DeltaCache* delta = delta_of(cache);
  if (!delta) throw std::invalid_argument("the cache is not one of delta attention");
  return *delta;
}

py::dict counts_of(Cache& cache, int slot) {
  if (slot < 0 || slot >= cache.shape().slots) throw std::out_of_range("slot beyond the cache");
  const DeltaCache& delta = must_be_delta(cache);
  const DeltaCounts c = delta.counts(slot);
  py::dict out;
  out["prefill_skipped"] = Array<uint64_t>(py::ssize_t(c.skipped[0].size()), c.skipped[0].data());
  out["prefill_total"] = Array<uint64_t>(py::ssize_t(c.total[0].size()), c.total[0].data());
  out["decode_skipped"] = Array<uint64_t>(py::ssize_t(c.skipped[1].size()), c.skipped[1].data());
  out["decode_total"] = Array<uint64_t>(py::ssize_t(c.total[1].size()), c.total[1].data());
  out["zero_share"] = Array<double>(py::ssize_t(c.zero_share.size()), c.zero_share.data());
  out["window"] = c.window;
  out["key_bytes"] = delta.key_bytes(slot);
  return out;
}

// A cache of one slot and the threads that work on it.
class Attendant {
 public:
  Attendant(const std::string& type, const CacheShape& shape, const std::string& kernel, int threads,
            const DeltaOptions& options)
      : pool_(threads) {
    const Kernels& kernels = select_kernels(kernel);
    if (type == "delta")
      cache_ = std::make_unique<DeltaCache>(shape, kernels, options);
    else
      cache_ = make_cache(type, shape, kernels);
    scores_.resize(cache_->score_floats() * size_t(pool_.threads()));
  }

  Cache& cache() { return *cache_; }

  // k, v: (layers, n, kv_heads, head_dim).
  void write(int first, const Array<float>& k, const Array<float>& v) {
    const int n = check(first, k, shape().kv_heads);
    check(first, v, shape().kv_heads);
    const int stride = shape().kv_heads * shape().head_dim;
    py::gil_scoped_release release;
    cache_->prepare(0, first, n);
    for (int layer = 0; layer < shape().layers; ++layer)
      pool_.run(shape().kv_heads, [&](int head, int) {
        const size_t at = size_t(layer) * n * stride + size_t(head) * shape().head_dim;
        cache_->write(layer, 0, head, first, n, k.data() + at, v.data() + at, stride);
      });
  }

  // q: (layers, n, heads, head_dim), scaled. Returns the outputs and the least seconds of `repeats`.
  py::tuple attend(int first, const Array<float>& q, int repeats) {
    const int heads = shape().kv_heads * shape().heads_per_kv, n = check(first, q, heads);
    Array<float> out(std::vector<py::ssize_t>(q.shape(), q.shape() + 4));
    float* y = out.mutable_data();
    double best = 1e300;
    {
      py::gil_scoped_release release;
      for (int i = 0; i < repeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        for (int layer = 0; layer < shape().layers; ++layer) attend_layer(layer, first, n, q.data(), y);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      }
    }
    return py::make_tuple(out, best);
  }

 private:
  const CacheShape& shape() const { return cache_->shape(); }

  int check(int first, const Array<float>& x, int heads) const {
    if (x.ndim() != 4 || x.shape(0) != shape().layers || x.shape(2) != heads || x.shape(3) != shape().head_dim)
      throw std::invalid_argument("expected float32 (layers, n, heads, head_dim)");
    if (first < 0 || first + x.shape(1) > shape().context) throw std::out_of_range("positions beyond the context");
    return int(x.shape(1));
  }

  void attend_layer(int layer, int first, int n, const float* q, float* y) {
    const int blocks = (n + kQueryTokens - 1) / kQueryTokens, group = shape().heads_per_kv * shape().head_dim;
    const int stride = group * shape().kv_heads;
    pool_.run(blocks * shape().kv_heads, [&](int i, int thread) {
      const int begin = (blocks - 1 - i / shape().kv_heads) * kQueryTokens, head = i % shape().kv_heads;
      const size_t at = (size_t(layer) * n + begin) * stride + size_t(head) * group;
      Query query;
      query.layer = layer, query.head = head;
      query.first_position = first + begin;
      query.tokens = std::min(kQueryTokens, n - begin);
      query.q = q + at;
      query.out = y + at;
      query.stride = stride;
      query.scores = scores_.data() + cache_->score_floats() * size_t(thread);
      cache_->attend(query);
    });
  }

  Pool pool_;
  std::unique_ptr<Cache> cache_;
  Buffer<float> scores_;
};

}  // namespace

void bind_attention(py::module_& m, py::class_<Model>& model) {
  py::class_<Attendant>(m, "Attention", "A key/value cache by itself, and attention over it; not thread-safe.")
      .def(py::init([](const std::string& type, int layers, int kv_heads, int head_dim, int heads_per_kv, int context,
                       const std::string& kernel, int threads, const Array<float>& theta, double window_scale,
                       int sink, bool byte_values, int dense_below) {
             if (layers < 1 || kv_heads < 1 || head_dim < 32 || head_dim % 32 || heads_per_kv < 1 || context < 1)
               throw std::invalid_argument("sizes must be positive, head_dim a multiple of 32");
             const CacheShape shape{1, layers, kv_heads, head_dim, heads_per_kv, context};
             return std::make_unique<Attendant>(type, shape, kernel, threads,
                                                options_of(theta, window_scale, sink, byte_values, dense_below));
           }),
           py::arg("type"), py::kw_only(), py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"),
           py::arg("heads_per_kv"), py::arg("context"), py::arg("kernel") = "auto", py::arg("threads") = 1,
           py::arg("theta") = Array<float>(1, &kNoTheta), py::arg("window_scale") = 0.05, py::arg("sink") = 0,
           py::arg("byte_values") = false, py::arg("dense_below") = 0)
      .def("write", &Attendant::write, py::arg("first"), py::arg("k"), py::arg("v"),
           "Store rotated keys and values, float32 (layers, n, kv_heads, head_dim), at positions first ...")
      .def("attend", &Attendant::attend, py::arg("first"), py::arg("q"), py::arg("repeats") = 1,
           "float32 (layers, n, heads, head_dim), scaled -> outputs of that shape, least seconds of the repeats.")
      .def("begin", [](Attendant& a, int tokens) { must_be_delta(a.cache()).begin(0, tokens); }, py::arg("tokens"))
      .def("truncate", [](Attendant& a, int length) { a.cache().truncate(0, length); }, py::arg("length"))
      .def("counts", [](Attendant& a) { return counts_of(a.cache(), 0); })
      .def("propagated",
           [](Attendant& a, int layer, int head) {
             const CacheShape& s = a.cache().shape();
             if (layer < 0 || layer >= s.layers || head < 0 || head >= s.kv_heads)
               throw std::out_of_range("no such head");
             const std::vector<float> keys = must_be_delta(a.cache()).propagated(layer, 0, head);
             return Array<float>({py::ssize_t(keys.size()) / s.head_dim, py::ssize_t(s.head_dim)}, keys.data());
           },
           py::arg("layer"), py::arg("head"), "K^ of a head, float32 (length, head_dim).")
      .def_property_readonly("bytes", [](Attendant& a) { return a.cache().bytes(); });

  model
      .def_property_readonly("layers", [](const Model& model) { return model.config().layers; })
      .def_property_readonly("kv_heads", [](const Model& model) { return model.config().kv_heads; })
      .def_property_readonly("head_dim", [](const Model& model) { return model.config().head_dim; })
      .def("use_cache",
           [](Model& model, const std::string& type) {
             model.set_cache(make_cache(type, model.cache().shape(), model.kernels()));
           },
           py::arg("type"), "Keep keys and values as \"f16\", \"f32\" or \"i8\" from now on; forgets what is cached.")
      .def("use_delta",
           [](Model& model, const Array<float>& theta, double window_scale, int sink, bool byte_values,
              int dense_below) {
             model.set_cache(std::make_unique<DeltaCache>(model.cache().shape(), model.kernels(),
                                                          options_of(theta, window_scale, sink, byte_values, dense_below)));
           },
           py::arg("theta"), py::kw_only(), py::arg("window_scale") = 0.05, py::arg("sink") = 0,
           py::arg("byte_values") = false, py::arg("dense_below") = 0,
           "Code keys as changes from now on; theta: float32 (layers, kv_heads, head_dim) or one number; byte_values: "
           "values in 8 bits; dense_below: tokens, shorter contexts use exact keys. Forgets what is cached.")
      .def_property_readonly("delta_kernel", [](Model& model) { return std::string(delta_kernels(model.kernels().name).name); })
      .def_property_readonly("uses_delta", [](Model& model) { return delta_of(model.cache()) != nullptr; })
      .def("use_capture",
           [](Model& model) {
             model.set_cache(std::make_unique<CaptureCache>(model.cache().shape(), model.kernels()));
           },
           "Keep, beside a dense cache, what attention works on; see `captured`.")
      .def("captured",
           [](Model& model, int tokens) {
             const CaptureCache* cache = dynamic_cast<const CaptureCache*>(&model.cache());
             const CacheShape& s = model.cache().shape();
             if (!cache || tokens < 1 || tokens > s.context) throw std::invalid_argument("nothing was captured");
             const auto view = [&](const std::vector<float>& rows, int heads) {
               const py::ssize_t d = s.head_dim, n = s.context, size = sizeof(float);
               const py::array_t<float> all({py::ssize_t(s.layers), py::ssize_t(tokens), py::ssize_t(heads), d},
                                            {n * heads * d * size, heads * d * size, d * size, size}, rows.data());
               return all;
             };
             return py::make_tuple(view(cache->queries, s.kv_heads * s.heads_per_kv), view(cache->keys, s.kv_heads),
                                   view(cache->values, s.kv_heads));
           },
           py::arg("tokens"),
           "Scaled queries, keys and values of slot 0, float32 (layers, tokens, heads, head_dim), after `use_capture`.")
      .def("begin_delta",
           [](Model& model, int slot, int tokens) {
             if (slot < 0 || slot >= model.cache().shape().slots) throw std::out_of_range("slot beyond the cache");
             if (DeltaCache* delta = delta_of(model.cache())) delta->begin(slot, tokens);
           },
           py::arg("slot"), py::arg("tokens"),
           "What comes next in the slot is a prompt of so many tokens, and its answer; does nothing without delta.")
      .def("delta_counts", [](Model& model, int slot) { return counts_of(model.cache(), slot); }, py::arg("slot"),
           "Score multiply-adds skipped and in all since begin_delta, per layer; bytes of the keys.");
}

}  // namespace edge
