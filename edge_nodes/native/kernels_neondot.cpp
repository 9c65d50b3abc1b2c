// SPDX-License-Identifier: Apache-2.0
// NEON with the dot product of Armv8.2 (sdot): 4 rows to a register, 4 columns to an instruction.
#include "kernel_table.h"

#if EDGE_ARM
#include <arm_neon.h>

#include <algorithm>
#include <cstring>
#include <utility>

#pragma GCC diagnostic ignored "-Wpsabi"           // 64-byte vectors never cross a translation unit
#pragma GCC diagnostic ignored "-Wunused-function"  // of float_ops.h, which is here for its types
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace edge {
namespace neondot {
namespace {

#include "neon_kernels.h"

// sdot takes both sides as signed: 8-bit codes less 128, smaller ones as they are.
template <int Bits>
struct Product {
  using Acc = IntVec;
  static constexpr bool kNarrow = false;
  static constexpr bool kInPlace = false;
  EDGE_INLINE Acc start(int offset) { return IntVec{} + (Bits == 8 ? 0 : offset); }
  EDGE_INLINE Acc dot(const Acc& acc, const IntVec& codes, const IntVec& quad) {
    const IntVec w = Bits == 8 ? codes ^ int32_t(0x80808080) : codes;
    return (IntVec)vdotq_s32((int32x4_t)acc, vreinterpretq_s8_s32((int32x4_t)w),
                             vreinterpretq_s8_s32((int32x4_t)quad));
  }
  EDGE_INLINE IntVec widen(const Acc& acc, int) { return acc; }
  EDGE_INLINE void keep(Acc& acc) { asm volatile("" : "+w"(acc)); }
};

#include "dot_ops.h"

}  // namespace
}  // namespace neondot

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels& neondot_kernels() {
  static const Kernels table = EDGE_KERNELS_OVER(neon_kernels(), "neondot", neondot);
  return table;
}

}  // namespace edge
#endif
