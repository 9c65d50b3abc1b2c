// SPDX-License-Identifier: Apache-2.0
// Python's view of bird's-eye-view maps.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bev.h"
#include "bindings.h"
#include "sight.h"

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

// The ground as Python has it; its array lives as long as this does.
struct GivenGround {
  std::array<float, 3> plane;
  std::optional<Array<float>> patches;
  float patches_per_m;

  BevGround view() const {
    if (patches && (patches->ndim() != 2 || patches->shape(0) != patches->shape(1)))
      throw std::invalid_argument("patches are (n, n)");
    return {plane[0], plane[1], plane[2], patches ? patches->data() : nullptr,
            patches ? int(patches->shape(0)) : 0, patches_per_m};
  }
};

BevPoints view(const py::array_t<float>& points) {
  return {points.data(), points.strides(0) / py::ssize_t(sizeof(float)), size_t(points.shape(0))};
}

void check_cells(int cells) {
  if (cells < 1 || cells > 4096) throw std::invalid_argument("a map has 1 to 4096 cells a side");
}

void check(const Tables& tables) {
  if (tables.reach.size() != tables.slice.size()) throw std::invalid_argument("one reach for each step");
  if (tables.code.size() < 1) throw std::invalid_argument("no codes");
  for (py::ssize_t i = 0; i < tables.slice.size(); ++i)
    if (tables.slice.data()[i] >= kSlices) throw std::invalid_argument("no such slice");
}

py::tuple maps(const py::array_t<float>& given, int cells, float cells_per_m, const GivenGround& ground, float bottom,
               float steps_per_m, const Tables& tables, bool detail) {
  const py::array_t<float> points = in_rows(given);
  const BevGrid grid{cells, cells_per_m, ground.view(), bottom, steps_per_m,
                     int(tables.slice.size()), tables.slice.data(), tables.reach.data(), tables.code.data(),
                     uint32_t(tables.code.size() - 1)};
  check_cells(cells);
  check(tables);
  py::array_t<uint8_t> slices({cells, cells, kSlices}), obstacle({cells, cells});
  py::object more = py::none();
  BevMaps out{slices.mutable_data(), obstacle.mutable_data(), nullptr};
  if (detail) {
    py::array_t<uint8_t> made({cells, cells, kDetails});
    out.detail = made.mutable_data();
    more = made;
  }
  const BevPoints cloud = view(points);
  {
    const py::gil_scoped_release release;
    bev_maps(cloud, grid, out);
  }
  return py::make_tuple(slices, obstacle, more);
}

py::array_t<float> reach_of(const py::array_t<float>& given, const GivenGround& ground, float top, int bins) {
  if (bins < 1) throw std::invalid_argument("at least one direction");
  const py::array_t<float> points = in_rows(given);
  const BevGround under = ground.view();
  py::array_t<float> reach(bins);
  float* out = reach.mutable_data();
  const BevPoints cloud = view(points);
  const py::gil_scoped_release release;
  sight_reach(cloud, under, top, bins, out);
  return reach;
}

py::array_t<uint8_t> sight_of(const Array<float>& reach, const Array<float>& poses, int cells, float cell_m,
                              float steps_per_m) {
  check_cells(cells);
  if (reach.ndim() != 2 || reach.shape(0) < 1 || reach.shape(1) < 1 || poses.ndim() != 2 || poses.shape(1) != 3 ||
      poses.shape(0) != reach.shape(0))
    throw std::invalid_argument("reach is (scans, bins), poses are (scans, 3)");
  std::vector<SightPose> places;
  for (py::ssize_t i = 0; i < poses.shape(0); ++i)
    places.push_back({*poses.data(i, 0), *poses.data(i, 1), *poses.data(i, 2)});
  py::array_t<uint8_t> made({cells, cells, 2});
  uint8_t* out = made.mutable_data();
  const py::gil_scoped_release release;
  sight_maps(reach.data(), places.data(), int(places.size()), int(reach.shape(1)), cells, cell_m, steps_per_m, out);
  return made;
}

}  // namespace

void edge::bind_bev(py::module_& m) {
  m.def(
      "bev_maps",
      [](const py::array_t<float>& points, int cells, float cells_per_m, std::array<float, 3> plane,
         std::optional<Array<float>> patches, float patches_per_m, float bottom, float steps_per_m,
         Array<uint8_t> slice, Array<uint8_t> reach, Array<uint8_t> code, bool detail) {
        return maps(points, cells, cells_per_m, {plane, std::move(patches), patches_per_m}, bottom, steps_per_m,
                    {std::move(slice), std::move(reach), std::move(code)}, detail);
      },
      "Slices (n, n, 6), obstacle (n, n) and detail (n, n, 6) or None of points (N, 3 or more) float32.",
      py::arg("points"), py::kw_only(), py::arg("cells"), py::arg("cells_per_m"), py::arg("plane"),
      py::arg("patches"), py::arg("patches_per_m"), py::arg("bottom"), py::arg("steps_per_m"), py::arg("slice"),
      py::arg("reach"), py::arg("code"), py::arg("detail"));
  m.def(
      "sight_reach",
      [](const py::array_t<float>& points, std::array<float, 3> plane, std::optional<Array<float>> patches,
         float patches_per_m, float top, int bins) {
        return reach_of(points, {plane, std::move(patches), patches_per_m}, top, bins);
      },
      "Greatest distance (bins,) float32 of points (N, 3 or more) float32 lower than `top`, by direction.",
      py::arg("points"), py::kw_only(), py::arg("plane"), py::arg("patches"), py::arg("patches_per_m"),
      py::arg("top"), py::arg("bins"));
  m.def("sight_maps", sight_of, "Codes (n, n, 2) of the line of sight of the first scan and of all.",
        py::arg("reach"), py::kw_only(), py::arg("poses"), py::arg("cells"), py::arg("cell_m"),
        py::arg("steps_per_m"));
}
