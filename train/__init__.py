# SPDX-License-Identifier: Apache-2.0
"""What made the weights: simulators, training loops, evaluations."""
