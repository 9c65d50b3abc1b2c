// SPDX-License-Identifier: Apache-2.0
// Clouds to bird's-eye-view maps: one pass over the points, one over the cells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace edge {

constexpr int kSlices = 6, kDetails = 6;

// Heights are measured from it; lengths in m.
struct BevGround {
  float offset, slope_x, slope_y;  // the plane
  const float* patches;            // departures from it, (patch_cells, patch_cells); null for none
  int patch_cells;
  float patches_per_m;

  float height_of(const float* p) const {
    float height = p[2] - offset;
    height -= slope_x * p[0];
    height -= slope_y * p[1];
    if (patches) {
      const float half = float(patch_cells) / 2, last = float(patch_cells - 1);
      // In this order NaN becomes 0.
      const int row = int(std::max(0.0f, std::min(p[0] * patches_per_m + half, last)));
      const int column = int(std::max(0.0f, std::min(p[1] * patches_per_m + half, last)));
      height -= patches[row * patch_cells + column];
    }
    return height;
  }
};

// What turns points into cells and steps of height; lengths in m.
struct BevGrid {
  int cells;                  // along a side
  float cells_per_m;
  BevGround ground;
  float bottom, steps_per_m;  // the lowest step begins at `bottom`
  int steps;
  const uint8_t* slice;       // of each step; kSlices for none
  const uint8_t* reach;       // code of the height of each step
  const uint8_t* code;        // of counts 0 to `full`
  uint32_t full;
};

// Floats `stride` apart from point to point.
struct BevPoints {
  const float* xyz;
  ptrdiff_t stride;
  size_t count;
};

// Each a map of cells x cells; `detail` may be null.
struct BevMaps {
  uint8_t* slices;    // kSlices a cell
  uint8_t* obstacle;  // 1 a cell
  uint8_t* detail;    // kDetails a cell
};

// Points that are not finite count nowhere.
void bev_maps(const BevPoints& points, const BevGrid& grid, const BevMaps& out);

}  // namespace edge
