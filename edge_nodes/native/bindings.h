// SPDX-License-Identifier: Apache-2.0
// Parts of the extension module that have files of their own.
#pragma once

#include <pybind11/pybind11.h>

namespace edge {

void bind_sampling(pybind11::module_& m);

}  // namespace edge
