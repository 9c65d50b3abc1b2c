# SPDX-License-Identifier: Apache-2.0
"""Several attempts at one question, and the vote over them."""
