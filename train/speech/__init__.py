# SPDX-License-Identifier: Apache-2.0
"""What made edge_nodes/weights/speech: data, training, evaluation."""
