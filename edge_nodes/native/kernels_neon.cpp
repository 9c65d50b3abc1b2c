// SPDX-License-Identifier: Apache-2.0
// NEON as every 64-bit ARM has it: products of bytes are summed in int16 where they fit.
#include "kernel_table.h"

#if EDGE_ARM
#include <arm_neon.h>

#include <algorithm>
#include <cstring>
#include <utility>

#pragma GCC diagnostic ignored "-Wpsabi"           // 64-byte vectors never cross a translation unit
#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, which is here for its types

namespace edge {
namespace neon {
namespace {

#include "neon_kernels.h"

// Of the codes of 4 rows, the products of 2 rows to a register. 4-bit codes: 8 steps of at most 15 * 127; 6-bit codes:
// 4 of at most 63 * 127; ternary codes: 64 of at most 2 * 128.
template <int Bits>
struct Product {
  struct Acc {
    int16x8_t low, high;
  };
  static constexpr bool kNarrow = true;
  static constexpr bool kInPlace = false;
  EDGE_INLINE Acc start(int) { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    const int8x16_t w = vreinterpretq_s8_s32((int32x4_t)codes), x = vreinterpretq_s8_s32((int32x4_t)quad);
    return {vmlal_s8(acc.low, vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(acc.high, w, x)};
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int offset) {
    return (IntVec)vpaddq_s32(vpaddlq_s16(acc.low), vpaddlq_s16(acc.high)) + offset;
  }
  EDGE_INLINE void keep(IntVec& v) { asm volatile("" : "+w"(v)); }
  EDGE_INLINE void keep(Acc& acc) { asm volatile("" : "+w"(acc.low), "+w"(acc.high)); }
};

// 8-bit codes less 128 are signed; a product is at most 128 * 127.
template <>
struct Product<8> {
  struct Acc {
    int32x4_t low, high;
  };
  EDGE_INLINE Acc start(int) { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    const int8x16_t w = veorq_s8(vreinterpretq_s8_s32((int32x4_t)codes), vdupq_n_s8(-128));
    const int8x16_t x = vreinterpretq_s8_s32((int32x4_t)quad);
    return {vpadalq_s16(acc.low, vmull_s8(vget_low_s8(w), vget_low_s8(x))),
            vpadalq_s16(acc.high, vmull_high_s8(w, x))};
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return (IntVec)vpaddq_s32(acc.low, acc.high); }
};

#include "dot_ops.h"

}  // namespace
}  // namespace neon

const Kernels& neon_kernels() {
  static const Kernels table = EDGE_KERNELS_OVER(portable_kernels(), "neon", neon);
  return table;
}

}  // namespace edge
#endif
