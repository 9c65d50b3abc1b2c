# SPDX-License-Identifier: Apache-2.0
"""Thresholds: chosen on data, stored beside the weights, refused if they are another model's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_nodes.errors import ModelError, State
from edge_nodes.models import SHIPPED
from edge_nodes.speech.calibrating import LOSS, crossed, fit
from edge_nodes.speech.calibration import FILE, Calibration, load, save
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.evaluation import Heard, Left, under, word_error_rate
from edge_nodes.speech.exits import Reading
from edge_nodes.speech.sureness import Weights


def test_comes_back_as_it_was_stored(tmp_path):
    weights = {2: Weights(4.5, 0.4, 0.25, 0.5, 5.0, -3.0), 3: Weights(6.0, 0.4, 0.25, 0.5, 7.0, -5.0)}
    found = Calibration(0.93, 0.95, 3, 0.8, weights)
    assert save(tmp_path, "ab" * 32, found, {"clips": 7}).name == FILE
    assert load(tmp_path, "ab" * 32) == found
    assert load(tmp_path / "none", "ab" * 32) == Calibration(1.0, 1.0, 1, 1.0)


@pytest.mark.parametrize("fault", ["weights", "format", "range", "text", "missing", "sureness"])
def test_another_models_or_a_broken_one_is_refused(tmp_path, fault):
    path = save(tmp_path, "ab" * 32, Calibration(0.9, 0.9, 2), {})
    stored = json.loads(path.read_text())
    stored |= {"weights": {"weights_sha256": "cd" * 32}, "format": {"format": 9}, "range": {"entropy": 1.5}}.get(
        fault, {}
    )
    if fault == "sureness":
        stored["sureness"] = {"2": {"sound": 1.0}}
    if fault == "missing":
        del stored["earliest"]
    path.write_text("no json" if fault == "text" else json.dumps(stored))
    with pytest.raises(ModelError, match="calibration") as error:
        load(tmp_path, "ab" * 32)
    assert error.value.state is State.MODEL_BAD


GRID = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


def clips(seed, count=60):
    """Clips of one word whose second exit is right where it is sure, and sometimes where it is not."""
    rng = np.random.default_rng(seed)
    found = []
    for sure in rng.uniform(0.4, 1.0, count):
        right = rng.uniform() < sure**2
        early = Reading("yes" if right else "no", float(sure), float(sure**2))
        readings, ends = [Reading("", 0.1, 0.1), early, Reading("yes", 1.0)], (sure >= t for t in GRID)
        words = {
            t: Left(early.text if end else "yes", "", (0, 1, 0) if end else (0, 0, 1), 2 if end else 3, 1.0)
            for t, end in zip(GRID, ends, strict=True)
        }
        found.append(Heard(["yes"], readings, [1.0, 2.0, 3.0], [1, 2, 3], 1.0, words=words))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_cheapest_that_costs_no_more_than_allowed(seed):
    heard = clips(seed)
    found = fit(heard)
    words = [h.said for h in heard]
    last = word_error_rate(words, [h.readings[-1].text for h in heard])
    fine_grid = np.arange(0.5, 1.0, 0.005).round(3)
    for name, grid in (("words", GRID), ("confidence", fine_grid), ("entropy", fine_grid)):
        tried = {t: under(heard, ExitConfig(policy=name, threshold=t)) for t in grid}
        fine = [p["layers"] for p in tried.values() if p["wer"] <= last + LOSS]
        chosen = under(heard, ExitConfig(policy=name), found)
        assert chosen["wer"] <= last + LOSS
        assert chosen["layers"] == min([*fine, 3.0])


def test_the_earliest_exit_is_the_first_of_use():
    heard = [
        Heard(["a", "b"], [Reading("x", 1.0), Reading("a b", 1.0), Reading("a b", 1.0)], [1, 2, 3], [1, 2, 3], 1.0)
    ]
    assert fit(heard * 4).earliest == 2


def test_each_half_is_judged_by_the_other():
    heard = clips(3)
    halves = (heard[::2], heard[1::2])
    for name in ("words", "entropy"):
        expected = [under(h, ExitConfig(policy=name), fit(o)) for h, o in (halves, halves[::-1])]
        found = crossed(heard)[name]
        assert found["wer"] == pytest.approx(np.mean([e["wer"] for e in expected]), abs=0.02)
        assert found["saved"] == pytest.approx(100 - np.mean([e["layers"] for e in expected]) / 0.03, abs=0.2)
    assert crossed(heard[:1]) == {}


def test_the_shipped_one_is_of_the_shipped_weights():
    folder = SHIPPED / "speech" / "splitformer"
    found = load(folder, json.loads((folder / "manifest.json").read_text())["sha256"])
    assert 0.5 < found.words < 1.0
    assert found.earliest > 1
    assert f"words {found.words:g} (calibrated; shipped" in (folder / "README.md").read_text()
