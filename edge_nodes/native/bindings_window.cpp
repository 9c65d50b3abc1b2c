// SPDX-License-Identifier: Apache-2.0
// Python's view of the window of blocks, and of models whose weights come through it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "bindings.h"
#include "streamed.h"
#include "window.h"

namespace py = pybind11;
using namespace edge;

namespace {

// A function of Python that fills the memory of a block.
class PythonLoader : public BlockLoader {
 public:
  explicit PythonLoader(py::object load) : load_(std::move(load)) {}
  ~PythonLoader() override {
    const py::gil_scoped_acquire acquire;
    load_ = py::object();
  }
  void load(int index, uint8_t* to, size_t bytes, const std::atomic<bool>&) override {
    const py::gil_scoped_acquire acquire;
    try {
      load_(index, py::memoryview::from_memory(to, py::ssize_t(bytes)));
    } catch (py::error_already_set& error) {
      throw BlockError("block " + std::to_string(index) + ": " + error.what());
    }
  }

 private:
  py::object load_;
};

WindowConfig config_of(std::vector<size_t> sizes, size_t budget, int readers, std::vector<int> pinned, int window,
                       bool cyclic, double deadline_s) {
  return {std::move(sizes), std::move(pinned), budget, readers, window, cyclic, deadline_s};
}

// The GIL is not held while the threads of a window end: they may want it.
std::shared_ptr<BlockWindow> make_window(WindowConfig config, std::unique_ptr<BlockLoader> loader) {
  const py::gil_scoped_release release;
  return std::shared_ptr<BlockWindow>(new BlockWindow(std::move(config), std::move(loader)), [](BlockWindow* window) {
    if (!PyGILState_Check()) {
      delete window;
      return;
    }
    const py::gil_scoped_release ending;
    delete window;
  });
}

py::dict stats(const BlockWindow& window) {
  const WindowStats s = window.stats();
  py::dict found;
  found["loads"] = s.loads;
  found["bytes_read"] = s.bytes;
  found["load_ns"] = s.load_ns;
  found["stall_ns"] = s.stall_ns;
  found["use_ns"] = s.use_ns;
  found["held_bytes"] = s.held;
  found["peak_bytes"] = s.peak;
  found["peak_blocks"] = s.peak_blocks;
  return found;
}

}  // namespace

void edge::bind_window(py::module_& m) {
  using Window = py::class_<BlockWindow, std::shared_ptr<BlockWindow>>;
  py::register_exception<BlockError>(m, "BlockError", PyExc_RuntimeError);
  const auto free_gil = py::call_guard<py::gil_scoped_release>();
  Window(m, "BlockWindow", "Blocks read ahead in order within a budget of bytes; one thread uses them.")
      .def(py::init([](std::vector<size_t> sizes, const py::object& source, size_t budget, int readers,
                       std::vector<int> pinned, int window, bool cyclic, double deadline_s, bool direct) {
             WindowConfig config =
                 config_of(std::move(sizes), budget, readers, std::move(pinned), window, cyclic, deadline_s);
             std::unique_ptr<BlockLoader> loader;
             if (PyCallable_Check(source.ptr()))
               loader = std::make_unique<PythonLoader>(source);
             else
               loader = std::make_unique<FileLoader>(source.cast<std::vector<std::string>>(), direct);
             return make_window(std::move(config), std::move(loader));
           }),
           py::arg("sizes"), py::arg("source"), py::kw_only(), py::arg("budget"), py::arg("readers") = 1,
           py::arg("pinned") = std::vector<int>(), py::arg("window") = 0, py::arg("cyclic") = true,
           py::arg("deadline_s") = 60.0, py::arg("direct") = true,
           "`source`: a path for each block, or a function (index, memoryview) that fills it.")
      .def(
          "acquire",
          [](BlockWindow& window, int index) {
            uint8_t* data = nullptr;
            {
              const py::gil_scoped_release release;
              data = window.acquire(index);
            }
            return py::memoryview::from_memory(data, py::ssize_t(window.config().sizes[size_t(index)]));
          },
          py::arg("index"), "Memory of block `index`, valid until it is released.")
      .def("release", &BlockWindow::release, py::arg("index"), free_gil)
      .def("restart", &BlockWindow::restart, free_gil)
      .def("close", &BlockWindow::close, free_gil)
      .def("wait", &BlockWindow::wait, py::arg("index"), free_gil)
      .def("resident", &BlockWindow::resident, py::arg("index"))
      .def("times", &BlockWindow::times, py::arg("index"), "Nanoseconds of the last load and the last use.")
      .def_property_readonly("between_passes", &BlockWindow::between_passes, "Whether block 0 is the next one.")
      .def_property_readonly("held", &BlockWindow::in_use, "Whether a block is acquired.")
      .def_property_readonly("loading", &BlockWindow::loading, "Loads that were admitted and have not ended.")
      .def("stats", &stats)
      .def("clear_stats", &BlockWindow::clear_stats);
}

namespace {

Span span_of(const py::object& value) {
  const auto [offset, count] = value.cast<std::pair<size_t, size_t>>();
  return {offset, count};
}

// {rows, cols, bits, zero, has_min, scale} and the (byte offset, items) of codes, scales and mins.
MatrixSpans matrix_spans(const py::dict& parts) {
  MatrixSpans found;
  Matrix& w = found.shape;
  w.rows = parts["rows"].cast<int>(), w.cols = parts["cols"].cast<int>(), w.bits = parts["bits"].cast<int>();
  w.zero = parts["zero"].cast<int>(), w.has_min = parts["has_min"].cast<bool>();
  w.scale = parts["scale"].cast<float>();
  w.dense = parts.contains("dense") && parts["dense"].cast<bool>();
  w.tiles = round_up(w.rows, kTile) / kTile;
  w.groups = round_up(w.cols, kGroup) / kGroup;
  found.codes = span_of(parts["codes"]), found.scales = span_of(parts["scales"]), found.mins = span_of(parts["mins"]);
  return found;
}

BlockSpans block_spans(const py::dict& block) {
  BlockSpans found;
  if (block.contains("norm")) found.norm = span_of(block["norm"]);
  if (block.contains("sub_norm")) found.sub_norm = span_of(block["sub_norm"]);
  size_t i = 0;
  for (const py::handle in : block["in"].cast<py::list>()) found.in[i++] = matrix_spans(in.cast<py::dict>());
  found.out = matrix_spans(block["out"].cast<py::dict>());
  return found;
}

}  // namespace

void edge::bind_streamed(py::module_& m, py::class_<Model>& model) {
  m.attr("PACKING") = kPacking;
  m.def("unit_of", &unit_of, py::arg("columns"), py::arg("least"), "Columns of a unit of a sum over a row.");
  model
      .def_property_readonly("work_bytes", &Model::work_bytes)
      .def("use_ternary", &Model::use_ternary, "Make the work space of ternary weights.")
      .def_property_readonly("cache", [](const Model& self) { return self.config().cache; })
      .def(
          "set_source",
          [](Model& self, std::shared_ptr<BlockWindow> window, const std::vector<py::dict>& blocks, int head_pieces) {
            std::vector<BlockSpans> spans;
            for (const py::dict& block : blocks) spans.push_back(block_spans(block));
            if (spans.size() != window->config().sizes.size() ||
                int(spans.size()) != 2 * self.config().layers + head_pieces)
              throw std::invalid_argument("the window has other blocks than the model");
            self.set_source(std::make_shared<StreamedBlocks>(std::move(window), std::move(spans), head_pieces));
          },
          py::arg("window"), py::arg("blocks"), py::arg("head_pieces"),
          "Take blocks from a window: {norm, sub_norm, in, out} of each, with (byte offset, items) for arrays.")
      .def(
          "set_embedding",
          [](Model& self, const std::vector<std::pair<std::string, py::dict>>& pieces) {
            std::vector<FileRows::Piece> list;
            for (const auto& [path, parts] : pieces) list.push_back({path, matrix_spans(parts)});
            self.set_embedding(std::make_shared<FileRows>(std::move(list)));
          },
          py::arg("pieces"), "Read embedding rows from (path, matrix) pieces, one after the other.")
      .def(
          "set_reducer",
          [](Model& self, const py::object& reduce) {
            if (reduce.is_none()) return self.set_reducer(nullptr);
            const auto held = std::shared_ptr<py::object>(new py::object(reduce), [](py::object* object) {
              const py::gil_scoped_acquire acquire;
              delete object;
            });
            self.set_reducer([held](float* data, size_t count, Reduce op) {
              const py::gil_scoped_acquire acquire;
              static constexpr const char* kNames[] = {"sum", "max", "heads", "columns"};
              const py::array_t<float> values({py::ssize_t(count)}, {py::ssize_t(sizeof(float))}, data, py::none());
              (*held)(values, kNames[size_t(op)]);
            });
          },
          py::arg("reduce"),
          "`reduce(values, how)`: float32 (n,), to become the `sum` or `max` over all boards; for `heads` and `columns` the "
          "sums of the roots of this board's part of that tree, the first of which becomes the sum of all.")
      .def(
          "embed",
          [](Model& self, const py::array_t<int32_t, py::array::c_style | py::array::forcecast>& tokens) {
            py::array_t<float> states({tokens.size(), py::ssize_t(self.config().width)});
            float* out = states.mutable_data();
            const int32_t* in = tokens.data();
            const int n = int(tokens.size());
            const py::gil_scoped_release release;
            self.embed(in, n, out);
            return states;
          },
          py::arg("tokens"), "int32 (n,) -> float32 (n, width), rows of the embedding.")
      .def(
          "forward_states",
          [](Model& self, const py::array_t<float, py::array::c_style | py::array::forcecast>& states,
             const std::vector<std::array<int, 3>>& segments) {
            std::vector<Segment> list;
            py::ssize_t n = 0;
            for (const auto& s : segments) {
              list.push_back({s[0], s[1], s[2]});
              n += s[2];
            }
            if (states.ndim() != 2 || states.shape(0) != n || states.shape(1) != self.config().width)
              throw std::invalid_argument("states and segments differ in length");
            const float* in = states.data();
            const py::gil_scoped_release release;
            self.forward_states(in, list);
          },
          py::arg("states"), py::arg("segments"),
          "float32 (n, width) of the tokens of all segments through all layers, without the head.");
}
