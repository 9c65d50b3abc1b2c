# SPDX-License-Identifier: Apache-2.0
"""A model as a directory of blocks: made, cut into shards, profiled, streamed."""
