# SPDX-License-Identifier: Apache-2.0
"""C++ kernels and the decoder step behind `edge_nodes.language`; built as `edge_nodes.native._kernels`."""
