# SPDX-License-Identifier: Apache-2.0
"""How sure an exit is of a word: its traits, and the regression on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.spelling import Spelled
from edge_nodes.speech.sureness import TRAITS, Weights, fit, probability, traits


def test_the_traits_of_words():
    lexicon = Lexicon()
    spelled = Spelled(["turn", "left", "qzx"], [(0, 5), (7, 9), (12, 14)], [10.0, 3.0, -2.0])
    found = traits(lexicon, spelled, np.array([-0.1, -0.2, -0.3]))
    likely = [lexicon.log_probability("turn"), lexicon.log_bound("left", "turn"), -20.0]
    assert TRAITS == ("sound", "margin", "likely", "letters", "known")
    expected = [[-0.1, 10.0, likely[0], 4, 1], [-0.2, 3.0, likely[1], 4, 1], [-0.3, -2.0, likely[2], 3, 0]]
    np.testing.assert_allclose(found, expected)
    assert traits(lexicon, Spelled([], [], []), np.zeros(0)).shape == (0, 5)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, 5)) * [0.3, 4.0, 3.0, 2.0, 0.4] + [-0.2, 3.0, -8.0, 5.0, 0.8]
    odds = rows @ [4.0, 0.4, 0.3, 0.5, 2.0] - 2.0
    return rows, rng.uniform(size=count) < 1 / (1 + np.exp(-odds))


def test_the_fit_is_the_least_of_its_loss():
    """Against torch's L-BFGS on the same loss."""
    rows, right = examples(400)
    inputs, target = torch.from_numpy((rows - rows.mean(0)) / rows.std(0)), torch.from_numpy(right).double()
    weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        logits = inputs @ weights[:5] + weights[5]
        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        total = total + 3.0 * (weights[:5] ** 2).sum() / 2
        total.backward()
        return total

    optimiser.step(loss)
    expected = torch.sigmoid(inputs @ weights[:5] + weights[5]).detach().numpy()
    np.testing.assert_allclose(probability(fit(rows, right, penalty=3.0), rows), expected, atol=2e-3)


def test_what_made_the_examples_is_found_again():
    found = fit(*examples(40000), penalty=0.0)
    assert [found.sound, found.margin, found.likely, found.letters, found.known] == pytest.approx(
        [4.0, 0.4, 0.3, 0.5, 2.0], rel=0.1
    )
    assert probability(Weights(0, 0, 0, 0, 0, bias=0.0), np.ones((2, 5))).tolist() == [0.5, 0.5]
