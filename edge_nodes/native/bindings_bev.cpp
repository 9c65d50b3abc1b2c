// SPDX-License-Identifier: Apache-2.0
// Python's view of bird's-eye-view maps.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <utility>

#include "bev.h"
#include "bindings.h"

namespace py = pybind11;
using namespace edge;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Tables of the grid as Python has them; the arrays live as long as the call.
struct Tables {
  Array<uint8_t> slice, reach, code;
};

// The points themselves if x, y and z lie beside each other, else a copy in which they do.
py::array_t<float> in_rows(const py::array_t<float>& points) {
  if (points.ndim() != 2 || points.shape(1) < 3) throw std::invalid_argument("points are (N, 3 or more)");
  const auto size = py::ssize_t(sizeof(float));
  if (points.strides(1) == size && points.strides(0) % size == 0) return points;
  return Array<float>(points);
}

void check(const py::object& patches, const Array<float>& departures, const Tables& tables, const BevGrid& grid) {
  if (grid.cells < 1 || grid.cells > 4096) throw std::invalid_argument("a map has 1 to 4096 cells a side");
  if (!patches.is_none() && (departures.ndim() != 2 || departures.shape(0) != departures.shape(1)))
    throw std::invalid_argument("patches are (n, n)");
  if (tables.reach.size() != tables.slice.size()) throw std::invalid_argument("one reach for each step");
  if (tables.code.size() < 1) throw std::invalid_argument("no codes");
  for (py::ssize_t i = 0; i < tables.slice.size(); ++i)
    if (tables.slice.data()[i] >= kSlices) throw std::invalid_argument("no such slice");
}

py::tuple maps(const py::array_t<float>& given, int cells, float cells_per_m, std::array<float, 3> plane,
               const py::object& patches, float patches_per_m, float bottom, float steps_per_m, const Tables& tables,
               bool detail) {
  const py::array_t<float> points = in_rows(given);
  Array<float> departures = patches.is_none() ? Array<float>() : Array<float>(patches);
  const BevGrid grid{cells, cells_per_m, plane[0], plane[1], plane[2],
                     patches.is_none() ? nullptr : departures.data(),
                     patches.is_none() ? 0 : int(departures.shape(0)), patches_per_m, bottom, steps_per_m,
                     int(tables.slice.size()), tables.slice.data(), tables.reach.data(), tables.code.data(),
                     uint32_t(tables.code.size() - 1)};
  check(patches, departures, tables, grid);
  py::array_t<uint8_t> slices({cells, cells, kSlices}), obstacle({cells, cells});
  py::object more = py::none();
  BevMaps out{slices.mutable_data(), obstacle.mutable_data(), nullptr};
  if (detail) {
    py::array_t<uint8_t> made({cells, cells, kDetails});
    out.detail = made.mutable_data();
    more = made;
  }
  const BevPoints cloud{points.data(), points.strides(0) / py::ssize_t(sizeof(float)), size_t(points.shape(0))};
  {
    const py::gil_scoped_release release;
    bev_maps(cloud, grid, out);
  }
  return py::make_tuple(slices, obstacle, more);
}

}  // namespace

void edge::bind_bev(py::module_& m) {
  m.def(
      "bev_maps",
      [](const py::array_t<float>& points, int cells, float cells_per_m, std::array<float, 3> plane,
         const py::object& patches, float patches_per_m, float bottom, float steps_per_m, Array<uint8_t> slice,
         Array<uint8_t> reach, Array<uint8_t> code, bool detail) {
        return maps(points, cells, cells_per_m, plane, patches, patches_per_m, bottom, steps_per_m,
                    {std::move(slice), std::move(reach), std::move(code)}, detail);
      },
      "Slices (n, n, 6), obstacle (n, n) and detail (n, n, 6) or None of points (N, 3 or more) float32.",
      py::arg("points"), py::kw_only(), py::arg("cells"), py::arg("cells_per_m"), py::arg("plane"),
      py::arg("patches"), py::arg("patches_per_m"), py::arg("bottom"), py::arg("steps_per_m"), py::arg("slice"),
      py::arg("reach"), py::arg("code"), py::arg("detail"));
}
