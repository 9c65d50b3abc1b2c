// SPDX-License-Identifier: Apache-2.0
// What the kernels of aarch64 have in common. The includer defines Product<Bits> and includes dot_ops.h afterwards.

constexpr int kFloats = 4;

#define EDGE_LOAD_HALF(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
#include "float_ops.h"

EDGE_INLINE Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

constexpr int kAccumulators = 24;
