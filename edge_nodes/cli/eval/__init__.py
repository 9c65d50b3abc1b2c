# SPDX-License-Identifier: Apache-2.0
"""The evaluations of `edge-nodes eval`."""
