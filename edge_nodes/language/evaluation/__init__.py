# SPDX-License-Identifier: Apache-2.0
"""What a model knows: likelihoods of texts and choices, answers to questions."""
