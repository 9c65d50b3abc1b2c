// SPDX-License-Identifier: Apache-2.0
#include "bev.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// Cells at a border are the same on every machine.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace edge {
namespace {

constexpr int kParts = 256, kFull = kParts - 1, kMiddle = 128;

// Sums over the points of one cell; those below `count` over the band that blocks the robot, in 512ths of a cell.
struct alignas(64) Cell {
  uint32_t count[kSlices];
  int32_t u, v;
  int64_t uv, uu, vv;
  int32_t top, used;
};

// Where in its cell a row or column lies: odd numbers from -255 to 255.
int part(float place, int cell) { return 2 * int((place - float(cell)) * float(kParts)) - kFull; }

template <bool detail>
void add(const BevPoints& points, const BevGrid& grid, Cell* cells) {
  const float side = float(grid.cells), middle = side / 2;
  for (size_t i = 0; i < points.count; ++i) {
    const float* p = points.xyz + ptrdiff_t(i) * points.stride;
    const float row = middle - p[0] * grid.cells_per_m, column = middle - p[1] * grid.cells_per_m;
    // Written so that NaN is outside.
    if (!(row >= 0 && row < side && column >= 0 && column < side)) continue;
    const float step = (grid.ground.height_of(p) - grid.bottom) * grid.steps_per_m;
    if (!(step >= 0 && step < float(grid.steps))) continue;
    const int slice = grid.slice[int(step)], r = int(row), c = int(column);
    Cell& cell = cells[size_t(r) * grid.cells + c];
    ++cell.count[slice];
    cell.used = 1;
    if (!detail || slice == 0 || slice == kSlices - 1) continue;
    const int u = part(row, r), v = part(column, c);
    cell.u += u, cell.v += v;
    cell.uv += u * v, cell.uu += u * u, cell.vv += v * v;
    cell.top = std::max(cell.top, int32_t(step));
  }
}

uint8_t signed_code(double value) { return uint8_t(kMiddle + std::nearbyint(value * (127.0 / kFull))); }

void describe(const Cell& cell, int64_t n, const BevGrid& grid, uint8_t* out) {
  const int64_t u = cell.u, v = cell.v;
  const double count = double(n), square = count * count;
  const double both = double(n * cell.uv - u * v) / square;
  out[0] = signed_code(double(u) / count);
  out[1] = signed_code(double(v) / count);
  out[2] = signed_code(std::copysign(std::sqrt(std::fabs(both)), both));
  out[3] = uint8_t(std::nearbyint(std::sqrt(double(n * cell.uu - u * u) / square)));
  out[4] = uint8_t(std::nearbyint(std::sqrt(double(n * cell.vv - v * v) / square)));
  out[5] = grid.reach[cell.top];
}

// Writes the codes of a cell that is used.
void write(const Cell& cell, size_t index, const BevGrid& grid, const BevMaps& out) {
  int64_t band = 0;
  for (int s = 0; s < kSlices; ++s) {
    out.slices[index * kSlices + s] = grid.code[std::min(cell.count[s], grid.full)];
    if (s > 0 && s < kSlices - 1) band += std::min(cell.count[s], grid.full);
  }
  out.obstacle[index] = grid.code[std::min(uint32_t(band), grid.full)];
  if (!out.detail || band == 0) return;
  int64_t n = 0;
  for (int s = 1; s < kSlices - 1; ++s) n += cell.count[s];
  describe(cell, n, grid, out.detail + index * kDetails);
}

}  // namespace

void bev_maps(const BevPoints& points, const BevGrid& grid, const BevMaps& out) {
  // Zero between calls: a node makes ten maps a second, and most cells are empty.
  static thread_local std::vector<Cell> cells;
  const size_t area = size_t(grid.cells) * grid.cells;
  if (cells.size() < area) cells.assign(area, Cell{});
  std::memset(out.slices, 0, area * kSlices);
  std::memset(out.obstacle, 0, area);
  if (out.detail) {
    static constexpr uint8_t kEmpty[kDetails] = {kMiddle, kMiddle, kMiddle, 0, 0, 0};
    for (size_t i = 0; i < area; ++i) std::memcpy(out.detail + i * kDetails, kEmpty, kDetails);
    add<true>(points, grid, cells.data());
  } else {
    add<false>(points, grid, cells.data());
  }
  for (size_t i = 0; i < area; ++i) {
    if (!cells[i].used) continue;
    write(cells[i], i, grid, out);
    cells[i] = Cell{};
  }
}

}  // namespace edge
