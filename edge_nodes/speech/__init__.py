# SPDX-License-Identifier: Apache-2.0
"""Speech: audio to words through an early-exit encoder."""
