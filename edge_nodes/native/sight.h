// SPDX-License-Identifier: Apache-2.0
// Which cells of a map lie in line of sight: how far scans reach in each direction, and how far within that cells lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bev.h"

namespace edge {

// Where a scan was made, as the newest scan's frame lies in its own: m, rad.
struct SightPose {
  float x, y, yaw;
};

// Writes the greatest distance (m) of points less than `top` (m) above the ground in each of `bins` directions,
// counted from straight ahead to the left; 0 where there are none.
void sight_reach(const BevPoints& points, const BevGround& ground, float top, int bins, float* reach);

// Writes two codes a cell, of the first of `scans` and of all: 128 plus how far within reach its middle lies, in
// `steps_per_m`, at most 255 and at least 0.
void sight_maps(const float* reach, const SightPose* poses, int scans, int bins, int cells, float cell_m,
                float steps_per_m, uint8_t* out);

}  // namespace edge
