# SPDX-License-Identifier: Apache-2.0
"""Delta attention in a model: the same answers where it must be, counted, switched between requests, calibrated."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edge_nodes.language import attention, load
from edge_nodes.language.config import DeltaConfig, FusionConfig
from edge_nodes.language.delta import calibration as delta_calibration
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation.likelihood import Evaluator
from edge_nodes.language.evaluation.tally import Tally
from edge_nodes.language.fusion.loop import FusionEngine

TOKENS = [(7 * i * i + 3 * i) % 250 + 3 for i in range(150)]


@pytest.fixture
def engine(small_model):
    return load(small_model, context_tokens=512, slots=3)


def logits(engine, tokens=TOKENS):
    return Evaluator(engine).logits(tokens)


def use(engine, theta, **options):
    engine.model.use_delta(np.float32(theta), **options)
    engine.reset()


def test_theta_0_and_a_whole_window_equal_dense(engine):
    dense = logits(engine)
    use(engine, 0.0, window_scale=0.0)
    # The products after attention round their inputs to 8 bits, which a last bit may tip over.
    assert np.abs(logits(engine) - dense).mean() < 0.02
    use(engine, 50.0, window_scale=1.0)
    assert np.array_equal(logits(engine), dense)


def test_larger_thresholds_skip_more_and_change_more(engine):
    dense, shares, errors = logits(engine), [], []
    for theta in (0.05, 0.3, 1.5):
        use(engine, theta, window_scale=0.05, sink=1)
        errors.append(float(np.abs(logits(engine) - dense).mean()))
        shares.append(attention.skipped(engine.model, 0, tokens=len(TOKENS)).prefill.share)
    assert shares == sorted(shares)
    assert errors == sorted(errors)
    assert 0.0 < shares[0] < shares[2] < 1.0


def test_an_answer_continues_the_prompt_as_one_prompt_would(engine):
    use(engine, 0.4, window_scale=0.0)
    run = engine.generate(TOKENS, max_new_tokens=6)
    answer = [token.id for token in run]
    use(engine, 0.4, window_scale=0.0)
    # One key, the newest, is exact in the answer's steps and coded in a prompt.
    again = logits(engine, TOKENS + answer)
    assert [int(row.argmax()) for row in again[len(TOKENS) - 1 : -1]] == answer
    assert engine.model.uses_delta


@pytest.mark.parametrize("byte_values", [False, True])
def test_slots_copy_the_coded_keys_of_others(engine, byte_values):
    use(engine, 0.3, window_scale=0.1, sink=2, byte_values=byte_values)
    model, n = engine.model, len(TOKENS)
    tokens = np.asarray(TOKENS, np.int32)
    for slot in (0, 1):
        model.begin_delta(slot, n)
    for first in range(0, n, 50):
        model.forward(tokens[first : first + 50], segments=[(0, first, 50)], rows=[49])
    model.copy_cache(0, 1, 0, 100)
    one = model.forward(tokens[100:], segments=[(1, 100, 50)], rows=list(range(50)))
    again = model.forward(tokens[100:], segments=[(0, 100, 50)], rows=list(range(50)))
    assert np.array_equal(one, again)
    model.copy_cache(0, 2, 0, 60)
    model.copy_cache(0, 2, 60, 100)
    model.begin_delta(2, n)
    parts = model.forward(tokens[100:], segments=[(2, 100, 50)], rows=list(range(50)))
    assert np.abs(parts - one).max() < 0.05
    with pytest.raises(IndexError, match="not in the cache"):
        model.copy_cache(0, 1, 0, 400)


def test_requests_side_by_side_answer_as_alone(engine):
    use(engine, 0.3, window_scale=0.05, sink=2)
    prompts = [TOKENS[i : i + 60] for i in (0, 30, 60)]
    alone = []
    for prompt in prompts:
        engine.reset()
        alone.append([t.id for t in engine.generate(prompt, max_new_tokens=8)])
    use(engine, 0.3, window_scale=0.05, sink=2)
    loop = FusionEngine(engine.model, engine.tokenizer, FusionConfig(prefill_tokens=17))
    handles = [loop.submit(prompt, max_new_tokens=8) for prompt in prompts]
    for handle, answer in zip(handles, alone, strict=True):
        assert [t.id for t in handle] == answer
        assert handle.skipped is not None
        assert 0.0 < handle.skipped.plain()["prefill_sparsity"] < 1.0


def test_attention_changes_between_requests(engine):
    loop = FusionEngine(engine.model, engine.tokenizer, FusionConfig())
    running = loop.submit(TOKENS, max_new_tokens=20)
    loop.step()
    loop.between(lambda: use(engine, 0.5))
    after = loop.submit(TOKENS, max_new_tokens=3)
    assert running.wait() is not None
    assert running.skipped is None
    after.wait()
    assert after.skipped is not None
    assert engine.model.uses_delta


def test_int8_keys_and_values_stay_close_to_dense(engine):
    dense = logits(engine)
    engine.model.use_cache("i8")
    engine.reset()
    assert np.abs(logits(engine) - dense).mean() < 0.03
    assert engine.model.cache_bytes_per_token < 0.6 * 4 * 32 * 2 * 2


def test_calibration_shares_sparsity_out_and_is_kept(engine, tmp_path, small_model):
    text = [(13 * i * i + 5 * i) % 250 + 3 for i in range(400)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LENGTHS": ((64, 1, 1), (24, 2, 1)), "CHECKED": 96, "LEVELS": (0.3, 0.6)}.items():
            patch.setattr(delta_calibration, name, value)
        weights = np.random.default_rng(0).normal(size=(2, 96, 192)).astype(np.float32)
        levels, chosen = delta_calibration.calibrate(engine, text, lambda i: weights[i], budget=10.0, checked=2)
    assert chosen == 1
    assert levels[0]["sparsity"] < levels[1]["sparsity"]
    assert np.shape(levels[0]["theta"]) == (2, 2, 32)
    found = attention.Calibration(attention.model_hash(small_model), 0.05, 4, tuple(levels), chosen)
    path = tmp_path / "thresholds.json"
    found.write(path)
    assert np.array_equal(attention.Calibration.read(path).theta(), found.theta())
    config = DeltaConfig(calibration=str(path))
    assert (
        attention.use(engine.model, "delta", config, path=small_model) == "delta (calibrated; dense below 256 tokens)"
    )
    assert engine.model.uses_delta
    assert attention.use(engine.model, "dense", config) == "dense"


def test_thresholds_are_used_with_the_window_and_the_sink_they_were_found_with(tmp_path, small_model):
    path, told = tmp_path / "thresholds.json", {}
    level = {"sparsity": 0.5, "increase": 0.0, "theta": [[[1.0, 2.0]]]}
    attention.Calibration(attention.model_hash(small_model), 0.07, 3, (level,), 0).write(path)
    model = SimpleNamespace(
        uses_delta=False, delta_kernel="avx2", use_delta=lambda theta, **options: told.update(options)
    )
    for calibration, wanted in ((str(path), (0.07, 3)), ("none", (0.2, 9))):
        config = DeltaConfig(calibration=calibration, window_scale=0.2, sink=9)
        attention.use(model, "delta", config, path=small_model)
        assert (told["window_scale"], told["sink"]) == wanted


def test_the_solver_finds_the_least_cost_of_a_sparsity():
    """Against every combination, for two channels."""
    rng = np.random.default_rng(0)
    grid = len(delta_calibration.GRID)
    zeros = np.sort(rng.uniform(size=(grid, 1, 1, 2)), axis=0)
    cost = np.cumsum(rng.uniform(size=(grid, 1, 1, 2)), axis=0)
    theta = delta_calibration.solve(delta_calibration.Curves(zeros, cost), 0.5)
    at = [int(np.abs(delta_calibration.GRID - t).argmin()) for t in theta[0, 0]]
    share = np.mean([zeros[i, 0, 0, c] for c, i in enumerate(at)])
    spent = sum(cost[i, 0, 0, c] for c, i in enumerate(at))
    better = [
        cost[i, 0, 0, 0] + cost[j, 0, 0, 1]
        for i in range(grid)
        for j in range(grid)
        if (zeros[i, 0, 0, 0] + zeros[j, 0, 0, 1]) / 2 >= share
    ]
    assert share >= 0.5
    assert spent == pytest.approx(min(better))


def test_bad_calibrations_are_refused(engine, tmp_path, small_model):
    path = tmp_path / "bad.json"
    with pytest.raises(LanguageError, match="not a calibration"):
        attention.Calibration.read(path)
    path.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(LanguageError, match="not a calibration"):
        attention.Calibration.read(path)
    other = attention.Calibration("0", 0.05, 0, ({"sparsity": 0.5, "increase": 0.0, "theta": [[[1.0, 2.0]]]},), 0)
    other.write(path)
    with pytest.raises(LanguageError, match="another model"):
        attention.use(engine.model, "delta", DeltaConfig(calibration=str(path)), path=small_model)
    with pytest.raises(LanguageError, match="not for this model"):
        attention.use(engine.model, "delta", DeltaConfig(calibration=str(path)))


def test_perplexity_by_hand(engine):
    tally = Tally()
    Evaluator(engine).perplexity(TOKENS[:40], tally)
    rows = logits(engine, TOKENS[:40]).astype(np.float64)
    p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    expected = -np.mean([np.log(p[i, TOKENS[i + 1]]) for i in range(39)])
    assert tally.scores[0] == pytest.approx(expected, rel=1e-5)
