// SPDX-License-Identifier: Apache-2.0
// Scan registration in the plane: point-to-plane ICP of voxels against voxels, for x, y and yaw.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bev.h"

namespace edge {

using Point3 = std::array<float, 3>;
using Pose3 = std::array<double, 3>;  // x, y (m), yaw (rad)

// What is registered: a square of `range` m to each side, heights from `low` to `high` m; in voxels of 0.25 x 0.25 x
// 0.4 m.
struct VoxelSpace {
  float range, low, high;
};

// Returns the mean of each voxel's points, x, y and height above the ground, along x, then y, then upwards.
std::vector<Point3> voxel_means(const BevPoints& points, const BevGround& ground, const VoxelSpace& space);

// Iterations within `reach` (m); residuals of `scale` (m) count a quarter.
struct Stage {
  float reach, scale;
  int times;
};

struct Alignment {
  Pose3 pose;
  double apart;  // mean distance to what is nearest, at most `reach` of the last stage, as a part of it
  size_t met;    // points that have something within that reach
};

// One point a voxel, found by its place; the plane through a point's neighbours is fitted when it is first met.
class VoxelMap {
 public:
  VoxelMap(std::vector<Point3> points, const VoxelSpace& space);

  // Returns the pose that brings `points` onto the map, from a guess; fewer than `least` met end it.
  Alignment align(const std::vector<Point3>& points, const Pose3& guess, const std::vector<Stage>& stages,
                  size_t least);

  // Returns the mean distance of `points` at a pose, each at most `reach`.
  double apart(const std::vector<Point3>& points, const Pose3& pose, float reach) const;

  // Returns which part of `points` has something within `reach` at a pose.
  double met(const std::vector<Point3>& points, const Pose3& pose, float reach) const;

 private:
  struct Plane {
    float x, y, z, weight;
    bool known;
  };
  struct Nearest {
    int index;
    float square;
  };

  int column_of(float place) const;
  template <typename Visit>
  void ring(int row, int column, int radius, const Visit& visit) const;
  Nearest nearest(const Point3& point, float reach) const;
  const Plane& plane_at(int index);

  VoxelSpace space_;
  int side_;
  std::vector<Point3> points_;
  std::vector<int32_t> index_;  // kBands a column; valid where `mask_` has its bit
  std::vector<uint8_t> mask_;
  std::vector<Plane> planes_;
};

}  // namespace edge
