# SPDX-License-Identifier: Apache-2.0
"""Requests that arrive at any time, in one decoding loop."""
