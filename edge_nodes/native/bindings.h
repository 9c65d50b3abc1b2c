// SPDX-License-Identifier: Apache-2.0
// Parts of the extension module that have files of their own.
#pragma once

#include <pybind11/pybind11.h>

#include "model.h"

namespace edge {

void bind_sampling(pybind11::module_& m);
void bind_attention(pybind11::module_& m, pybind11::class_<Model>& model);
void bind_bev(pybind11::module_& m);
void bind_window(pybind11::module_& m);
void bind_measurements(pybind11::module_& m);
void bind_spelling(pybind11::module_& m);
void bind_streamed(pybind11::module_& m, pybind11::class_<Model>& model);

}  // namespace edge
