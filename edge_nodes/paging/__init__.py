# SPDX-License-Identifier: Apache-2.0
"""Models larger than memory: weights as an ordered, cyclic sequence of blocks that are read ahead, used and freed."""
