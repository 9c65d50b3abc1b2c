// SPDX-License-Identifier: Apache-2.0
// How the tables of kernels of all instruction sets are filled.
#pragma once

#include "kernels.h"

namespace edge {

// The table of the kernels in namespace `ns`, which all instruction sets with tables of their own have under one name;
// `dense` multiplies dense codes.
#define EDGE_KERNELS(name, ns, lut_from, dense)                                                              \
  Kernels {                                                                                                  \
    name, ns::multiply, ns::quantise, ns::rms_norm, ns::swiglu, ns::squared_relu, ns::attend, ns::to_half,   \
        ns::statistics, ns::kTernaryTokens, lut_from, ns::quantise_token, ns::ternary_dot, ns::ternary_lut,  \
        dense, ns::dense_lut, ns::product_peak, ns::table_rows, ns::read_memory                              \
  }

// That of an instruction set that has only products of its own.
#define EDGE_KERNELS_OVER(base, name, ns) \
  with_products(base, name, ns::kTernaryTokens, ns::multiply, ns::ternary_dot, ns::dense_dot, ns::product_peak)

inline Kernels with_products(Kernels k, const char* name, int tokens, decltype(k.multiply) multiply,
                             decltype(k.ternary_dot) ternary_dot, decltype(k.dense_dot) dense_dot,
                             decltype(k.product_peak) product_peak) {
  k.name = name, k.tokens = tokens;
  k.multiply = multiply, k.ternary_dot = ternary_dot, k.dense_dot = dense_dot, k.product_peak = product_peak;
  return k;
}

}  // namespace edge
