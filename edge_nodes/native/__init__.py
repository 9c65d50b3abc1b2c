# SPDX-License-Identifier: Apache-2.0
"""C++ kernels of `edge_nodes.language`, `paging` and bird's-eye-view maps; built as `edge_nodes.native._kernels`."""
