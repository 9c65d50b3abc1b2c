// SPDX-License-Identifier: Apache-2.0
#include "registration.h"

#include <algorithm>
#include <cmath>

namespace edge {
namespace {

constexpr float kCell = 0.25f, kBand = 0.4f;
constexpr int kBands = 8, kNeighbours = 8, kLeastNeighbours = 4, kFarthestRing = 4;
constexpr float kNeighbourhood = 1.2f;
constexpr double kStill = 5e-4;

int side_of(const VoxelSpace& space) { return std::max(1, int(std::ceil(2 * space.range / kCell))); }

// Eigenvalues of a symmetric matrix, smallest first, and the vector of the smallest: cyclic Jacobi.
struct Eigen3 {
  double value[3];
  double smallest[3];
};

Eigen3 eigen(double a[3][3]) {
  double v[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  for (int sweep = 0; sweep < 8; ++sweep) {
    const double off = a[0][1] * a[0][1] + a[0][2] * a[0][2] + a[1][2] * a[1][2];
    if (off < 1e-18) break;
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        if (std::fabs(a[p][q]) < 1e-15) continue;
        const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const double t = std::copysign(1.0, theta) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < 3; ++k) {
          const double x = a[k][p], y = a[k][q];
          a[k][p] = c * x - s * y, a[k][q] = s * x + c * y;
        }
        for (int k = 0; k < 3; ++k) {
          const double x = a[p][k], y = a[q][k];
          a[p][k] = c * x - s * y, a[q][k] = s * x + c * y;
          const double left = v[k][p], right = v[k][q];
          v[k][p] = c * left - s * right, v[k][q] = s * left + c * right;
        }
      }
  }
  int order[3] = {0, 1, 2};
  std::sort(order, order + 3, [&](int i, int j) { return a[i][i] < a[j][j]; });
  Eigen3 out{};
  for (int i = 0; i < 3; ++i) out.value[i] = a[order[i]][order[i]], out.smallest[i] = v[i][order[0]];
  return out;
}

Point3 placed(const Point3& p, double c, double s, const Pose3& pose) {
  return {float(c * p[0] - s * p[1] + pose[0]), float(s * p[0] + c * p[1] + pose[1]), p[2]};
}

float squared(const Point3& a, const Point3& b) {
  const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
  return x * x + y * y + z * z;
}

// Sums of the normal equations; a little resistance keeps what nothing is said about at the guess.
struct Normal {
  double matrix[3][3] = {{1e-2, 0, 0}, {0, 1e-2, 0}, {0, 0, 1e-1}};
  double right[3] = {0, 0, 0};

  void add(const double* j, double rest, double weight) {
    for (int i = 0; i < 3; ++i) {
      right[i] -= weight * j[i] * rest;
      for (int k = 0; k < 3; ++k) matrix[i][k] += weight * j[i] * j[k];
    }
  }

  // Returns the step, by Cramer's rule: the matrix is positive definite.
  Pose3 solve() const {
    const auto& m = matrix;
    const auto cross = [&](int i, int k, int a, int b) { return m[i][a] * m[k][b] - m[i][b] * m[k][a]; };
    const double det = m[0][0] * cross(1, 2, 1, 2) - m[0][1] * cross(1, 2, 0, 2) + m[0][2] * cross(1, 2, 0, 1);
    const auto& r = right;
    const double x = r[0] * cross(1, 2, 1, 2) - m[0][1] * (r[1] * m[2][2] - m[1][2] * r[2]) +
                     m[0][2] * (r[1] * m[2][1] - m[1][1] * r[2]);
    const double y = m[0][0] * (r[1] * m[2][2] - m[1][2] * r[2]) - r[0] * cross(1, 2, 0, 2) +
                     m[0][2] * (m[1][0] * r[2] - r[1] * m[2][0]);
    const double yaw = m[0][0] * (m[1][1] * r[2] - r[1] * m[2][1]) - m[0][1] * (m[1][0] * r[2] - r[1] * m[2][0]) +
                       r[0] * cross(1, 2, 0, 1);
    return {x / det, y / det, yaw / det};
  }
};

}  // namespace

std::vector<Point3> voxel_means(const BevPoints& points, const BevGround& ground, const VoxelSpace& space) {
  struct Sum {
    float x, y, z, count;
  };
  const int side = side_of(space), bands = std::min(kBands, int(std::ceil((space.high - space.low) / kBand)));
  std::vector<int32_t> index(size_t(side) * size_t(side) * kBands, -1);
  std::vector<Sum> sums;
  for (size_t i = 0; i < points.count; ++i) {
    const float* p = points.xyz + ptrdiff_t(i) * points.stride;
    // Written so that NaN is outside.
    if (!(std::fabs(p[0]) < space.range && std::fabs(p[1]) < space.range)) continue;
    const float z = ground.height_of(p), step = (z - space.low) / kBand;
    if (!(step >= 0 && step < float(bands))) continue;
    const int row = std::min(side - 1, int((p[0] + space.range) / kCell));
    const int column = std::min(side - 1, int((p[1] + space.range) / kCell));
    int32_t& slot = index[(size_t(row) * size_t(side) + size_t(column)) * kBands + size_t(step)];
    if (slot < 0) {
      slot = int32_t(sums.size());
      sums.push_back({0, 0, 0, 0});
    }
    Sum& sum = sums[size_t(slot)];
    sum.x += p[0], sum.y += p[1], sum.z += z, sum.count += 1;
  }
  std::vector<Point3> out;
  out.reserve(sums.size());
  for (const int32_t slot : index)
    if (slot >= 0) {
      const Sum& s = sums[size_t(slot)];
      out.push_back({s.x / s.count, s.y / s.count, s.z / s.count});
    }
  return out;
}

VoxelMap::VoxelMap(std::vector<Point3> points, const VoxelSpace& space)
    : space_(space), side_(side_of(space)), points_(std::move(points)) {
  const size_t columns = size_t(side_) * size_t(side_);
  index_.resize(columns * kBands);
  mask_.resize(columns);
  planes_.resize(points_.size());
  for (size_t i = 0; i < points_.size(); ++i) {
    const Point3& p = points_[i];
    const float step = (p[2] - space_.low) / kBand;
    if (!(std::fabs(p[0]) < space_.range && std::fabs(p[1]) < space_.range && step >= 0 && step < kBands)) continue;
    const size_t column = size_t(column_of(p[0])) * size_t(side_) + size_t(column_of(p[1]));
    index_[column * kBands + size_t(step)] = int32_t(i);
    mask_[column] = uint8_t(mask_[column] | 1u << int(step));
  }
}

int VoxelMap::column_of(float place) const {
  const float at = std::floor((place + space_.range) / kCell);
  return int(std::max(-1e6f, std::min(at, 1e6f)));
}

// Calls `visit` with each point whose column is `radius` columns away.
template <typename Visit>
void VoxelMap::ring(int row, int column, int radius, const Visit& visit) const {
  for (int r = std::max(0, row - radius); r <= std::min(side_ - 1, row + radius); ++r) {
    const bool whole = r == row - radius || r == row + radius;
    const int step = whole || radius == 0 ? 1 : 2 * radius;
    for (int c = column - radius; c <= column + radius; c += step) {
      if (c < 0 || c >= side_) continue;
      const size_t at = size_t(r) * size_t(side_) + size_t(c);
      for (unsigned bits = mask_[at], band = 0; bits; bits >>= 1, ++band)
        if (bits & 1u) visit(index_[at * kBands + band]);
    }
  }
}

VoxelMap::Nearest VoxelMap::nearest(const Point3& point, float reach) const {
  const int row = column_of(point[0]), column = column_of(point[1]), last = int(std::ceil(reach / kCell));
  Nearest best{-1, reach * reach};
  for (int radius = 0; radius <= last; ++radius) {
    // Nothing farther out can be nearer.
    const float gap = float(radius - 1) * kCell;
    if (radius > 0 && best.index >= 0 && gap * gap >= best.square) break;
    ring(row, column, radius, [&](int32_t i) {
      const float square = squared(points_[size_t(i)], point);
      if (square < best.square) best = {i, square};
    });
  }
  return best;
}

const VoxelMap::Plane& VoxelMap::plane_at(int index) {
  Plane& plane = planes_[size_t(index)];
  if (plane.known) return plane;
  plane.known = true;
  const Point3 middle = points_[size_t(index)];
  const int row = column_of(middle[0]), column = column_of(middle[1]);
  std::vector<Nearest> near;
  for (int radius = 0; radius <= kFarthestRing; ++radius) {
    if (radius > 2 && near.size() >= kNeighbours) break;
    ring(row, column, radius, [&](int32_t i) {
      const float square = squared(points_[size_t(i)], middle);
      if (square < kNeighbourhood * kNeighbourhood) near.push_back({i, square});
    });
  }
  if (near.size() < kLeastNeighbours) return plane;
  if (near.size() > kNeighbours) {
    const auto by_distance = [](const Nearest& a, const Nearest& b) { return a.square < b.square; };
    std::nth_element(near.begin(), near.begin() + kNeighbours - 1, near.end(), by_distance);
    near.resize(kNeighbours);
  }
  double mean[3] = {0, 0, 0}, spread[3][3] = {};
  for (const Nearest& n : near)
    for (int i = 0; i < 3; ++i) mean[i] += points_[size_t(n.index)][size_t(i)] / double(near.size());
  for (const Nearest& n : near) {
    const Point3& p = points_[size_t(n.index)];
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < 3; ++k) spread[i][k] += (p[size_t(i)] - mean[i]) * (p[size_t(k)] - mean[k]);
  }
  const Eigen3 found = eigen(spread);
  const double total = found.value[0] + found.value[1] + found.value[2];
  if (total <= 0) return plane;
  // 1 for a plane, 0 for leaves that lie anywhere: they would hold the pose where it is.
  const double flat = std::max(0.0, 1 - 3 * found.value[0] / total), weight = flat * flat * flat * flat;
  plane = {float(found.smallest[0]), float(found.smallest[1]), float(found.smallest[2]), float(weight), true};
  return plane;
}

Alignment VoxelMap::align(const std::vector<Point3>& points, const Pose3& guess, const std::vector<Stage>& stages,
                          size_t least) {
  Alignment out{guess, 1.0, 0};
  for (const Stage& stage : stages)
    for (int time = 0; time < stage.times; ++time) {
      const double c = std::cos(out.pose[2]), s = std::sin(out.pose[2]);
      Normal normal;
      double apart = 0;
      out.met = 0;
      for (const Point3& point : points) {
        const Point3 p = placed(point, c, s, out.pose);
        const Nearest found = nearest(p, stage.reach);
        apart += std::sqrt(found.square);
        if (found.index < 0) continue;
        ++out.met;
        const Plane& plane = plane_at(found.index);
        if (plane.weight <= 0) continue;
        const Point3& q = points_[size_t(found.index)];
        const float across = plane.x * (p[0] - q[0]) + plane.y * (p[1] - q[1]) + plane.z * (p[2] - q[2]);
        const auto rest = double(across);
        const double lever = plane.y * (p[0] - out.pose[0]) - plane.x * (p[1] - out.pose[1]);
        const double j[3] = {plane.x, plane.y, lever};
        const double off = 1 + rest * rest / (double(stage.scale) * stage.scale);
        normal.add(j, rest, plane.weight / (off * off));
      }
      out.apart = points.empty() ? 1.0 : apart / double(points.size()) / stage.reach;
      if (out.met < least) return out;
      const Pose3 step = normal.solve();
      double most = 0;
      for (size_t i = 0; i < 3; ++i) out.pose[i] += step[i], most = std::max(most, std::fabs(step[i]));
      if (most < kStill) break;
    }
  return out;
}

double VoxelMap::apart(const std::vector<Point3>& points, const Pose3& pose, float reach) const {
  const double c = std::cos(pose[2]), s = std::sin(pose[2]);
  double sum = 0;
  for (const Point3& point : points) sum += std::sqrt(nearest(placed(point, c, s, pose), reach).square);
  return points.empty() ? 0.0 : sum / double(points.size());
}

double VoxelMap::met(const std::vector<Point3>& points, const Pose3& pose, float reach) const {
  const double c = std::cos(pose[2]), s = std::sin(pose[2]);
  size_t count = 0;
  for (const Point3& point : points) count += nearest(placed(point, c, s, pose), reach).index >= 0;
  return points.empty() ? 0.0 : double(count) / double(points.size());
}

}  // namespace edge
