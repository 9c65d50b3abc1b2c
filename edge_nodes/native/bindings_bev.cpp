// SPDX-License-Identifier: Apache-2.0
// Python's view of bird's-eye-view maps, and of the registration of scans.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bev.h"
#include "bindings.h"
#include "registration.h"
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

std::vector<Point3> points_of(const Array<float>& given) {
  if (given.ndim() != 2 || given.shape(1) != 3) throw std::invalid_argument("points are (N, 3)");
  std::vector<Point3> points(size_t(given.shape(0)));
  for (size_t i = 0; i < points.size(); ++i)
    for (size_t k = 0; k < 3; ++k) points[i][k] = given.data()[3 * i + k];
  return points;
}

VoxelSpace space_of(float range, float low, float high) {
  if (!(range > 0 && range <= 200 && low < high)) throw std::invalid_argument("a range to 200 m, low below high");
  return {range, low, high};
}

py::array_t<float> means_of(const py::array_t<float>& given, const GivenGround& ground, const VoxelSpace& space) {
  const py::array_t<float> points = in_rows(given);
  const BevGround under = ground.view();
  const BevPoints cloud = view(points);
  std::vector<Point3> found;
  {
    const py::gil_scoped_release release;
    found = voxel_means(cloud, under, space);
  }
  py::array_t<float> out({py::ssize_t(found.size()), py::ssize_t(3)});
  for (size_t i = 0; i < found.size(); ++i)
    for (size_t k = 0; k < 3; ++k) out.mutable_data()[3 * i + k] = found[i][k];
  return out;
}

py::tuple aligned(VoxelMap& map, const Array<float>& given, const Pose3& guess,
                  const std::vector<std::tuple<float, float, int>>& stages, size_t least) {
  const std::vector<Point3> points = points_of(given);
  std::vector<Stage> todo;
  for (const auto& [reach, scale, times] : stages) {
    if (!(reach > 0 && scale > 0)) throw std::invalid_argument("reach and scale are greater than 0");
    todo.push_back({reach, scale, times});
  }
  Alignment found{};
  {
    const py::gil_scoped_release release;
    found = map.align(points, guess, todo, least);
  }
  return py::make_tuple(found.pose, found.apart, found.met);
}

void bind_registration(py::module_& m) {
  m.def(
      "voxel_means",
      [](const py::array_t<float>& points, std::array<float, 3> plane, std::optional<Array<float>> patches,
         float patches_per_m, float range, float low, float high) {
        return means_of(points, {plane, std::move(patches), patches_per_m}, space_of(range, low, high));
      },
      "Mean x, y and height above the ground (M, 3) float32 of the points of each voxel.", py::arg("points"),
      py::kw_only(), py::arg("plane"), py::arg("patches"), py::arg("patches_per_m"), py::arg("range"),
      py::arg("low"), py::arg("high"));
  py::class_<VoxelMap>(m, "VoxelMap", "One point a voxel, to register others against.")
      .def(py::init([](const Array<float>& points, float range, float low, float high) {
             return VoxelMap(points_of(points), space_of(range, low, high));
           }),
           py::arg("points"), py::kw_only(), py::arg("range"), py::arg("low"), py::arg("high"))
      .def("align", aligned, "Pose (x, y, yaw), mean distance as a part of the last reach, points met.",
           py::arg("points"), py::arg("guess"), py::kw_only(), py::arg("stages"), py::arg("least"))
      .def(
          "apart",
          [](const VoxelMap& map, const Array<float>& points, const Pose3& pose, float reach) {
            return map.apart(points_of(points), pose, reach);
          },
          "Mean distance (m) of points at a pose, each at most `reach`.", py::arg("points"), py::arg("pose"),
          py::kw_only(), py::arg("reach"))
      .def(
          "met",
          [](const VoxelMap& map, const Array<float>& points, const Pose3& pose, float reach) {
            return map.met(points_of(points), pose, reach);
          },
          "Part of points that have something within `reach` (m) at a pose.", py::arg("points"), py::arg("pose"),
          py::kw_only(), py::arg("reach"));
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
  bind_registration(m);
}
