# SPDX-License-Identifier: Apache-2.0
"""The key/value caches against attention in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from edge_nodes.language.delta import reference as delta
from edge_nodes.language.delta import sparsity

native = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

LAYERS, KV, GROUP, DIM = 2, 2, 3, 64
KERNELS = native.supported_kernels()
STEP = delta.LEAST_STEP / 2


def sequence(n, seed=0, dim=DIM):
    """Keys that change slowly in most channels and fast in some, values and scaled queries: (layers, n, heads, dim)."""
    rng = np.random.default_rng(seed)
    keys = np.empty((LAYERS, n, KV, dim), np.float32)
    speed = np.where(np.arange(dim) % 8 == 0, 1.0, 0.2)
    keys[:, 0] = rng.normal(0, 2, (LAYERS, KV, dim))
    for j in range(1, n):
        keys[:, j] = keys[:, j - 1] * (1 - speed / 10) + rng.normal(0, 1, (LAYERS, KV, dim)) * speed
    values = rng.normal(size=keys.shape).astype(np.float32)
    queries = rng.normal(size=(LAYERS, n, KV * GROUP, dim)).astype(np.float32) / np.sqrt(dim, dtype=np.float32)
    return queries, keys, values


def make(kind, kernel="auto", *, dim=DIM, context=600, **options):
    return native.Attention(
        kind, layers=LAYERS, kv_heads=KV, head_dim=dim, heads_per_kv=GROUP, context=context, kernel=kernel, **options
    )


def filled(k, v, *, theta):
    """A cache of a prompt's keys and values."""
    cache = make("delta", theta=theta)
    cache.begin(k.shape[1])
    for at in range(0, k.shape[1], 50):
        cache.write(at, k[:, at : at + 50], v[:, at : at + 50])
    return cache


def run(cache, q, k, v, *, prompt=None, chunk=64, prefill=None):
    """Write and attend in chunks, then one token at a time."""
    n = q.shape[1]
    prefill = n if prefill is None else prefill
    if prompt is not None:
        cache.begin(prompt)
    out, at = [], 0
    while at < n:
        size = min(chunk, prefill - at) if at < prefill else 1
        cache.write(at, k[:, at : at + size], v[:, at : at + size])
        out.append(cache.attend(at, q[:, at : at + size])[0])
        at += size
    return np.concatenate(out, axis=1)


def expected(q, k, v, theta, exact_of):
    """Outputs by `delta`; `exact_of(position)` says which keys are exact."""
    out, n = np.empty_like(q), q.shape[1]
    exact = np.zeros((n, n), bool)
    for i in range(n):
        exact[i, : i + 1] = exact_of(i)
    for layer in range(LAYERS):
        for head in range(KV * GROUP):
            keys = k[layer, :, head // GROUP].astype(np.float64)
            coded = delta.coded_rows(keys, theta) * delta.step(theta)
            half = keys.astype(np.float16)  # what the window holds
            scores = delta.scores(q[layer, :, head] * np.sqrt(q.shape[-1]), half, coded, exact, refresh=delta.REFRESH)
            out[layer, :, head] = delta.attention(scores, v[layer, :, head // GROUP].astype(np.float16))
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 3e-3), ("f16", 1e-4), ("i8", 4e-2)])
def test_dense_caches_equal_numpy(kind, tolerance, kernel):
    q, k, v = sequence(90)
    dense = expected(q, k, v, 0.0, lambda i: np.ones(i + 1, bool))
    assert np.abs(run(make(kind, kernel), q, k, v, prefill=83) - dense).max() < tolerance


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("scale", "sink"), [(0.05, 0), (0.0, 0), (0.01, 3), (0.5, 20), (1.0, 0)])
@pytest.mark.parametrize(("theta", "tolerance"), [(0.1, 2e-3), (0.5, 1.5e-2)])  # queries of 14 and of 8 bits
def test_delta_follows_the_rule(kernel, scale, sink, theta, tolerance):
    n, prefill = 330, 300
    q, k, v = sequence(n)
    width = delta.window(scale, prefill)

    def exact(i):
        if i >= prefill:
            return delta.exact_decode(i, max(1, delta.window(scale, i + 1)), sink)
        return delta.exact_prefill(i + 1, width, sink)[i]

    cache = make("delta", kernel, theta=theta, window_scale=scale, sink=sink)
    found = run(cache, q, k, v, prompt=prefill, prefill=prefill)
    assert np.abs(found - expected(q, k, v, theta, exact)).max() < tolerance
    cache = make("delta", kernel, theta=theta, window_scale=scale, sink=sink, byte_values=True)
    bytes_found = run(cache, q, k, v, prompt=prefill, prefill=prefill)
    byte = np.abs(v).max(-1, keepdims=True) / 127
    rounded = np.rint(v / byte) * byte
    assert np.abs(bytes_found - expected(q, k, rounded, theta, exact)).max() < tolerance
    assert np.abs(bytes_found - found).max() > 0


def test_short_contexts_use_exact_keys():
    q, k, v = sequence(150)
    theta, scale = 0.5, 0.1
    cache = make("delta", theta=theta, window_scale=scale, dense_below=110)
    found = run(cache, q, k, v, prompt=100, prefill=100)
    counts = cache.counts()
    assert not np.any(counts["prefill_skipped"])
    assert np.all(counts["decode_skipped"] > 0)

    def exact(i):
        return np.ones(i + 1, bool) if i < 109 else delta.exact_decode(i, max(1, delta.window(scale, i + 1)), 0)

    assert np.abs(found - expected(q, k, v, theta, exact)).max() < 1.5e-2
    dense = run(make("f16"), q[:, :109], k[:, :109], v[:, :109])
    assert np.abs(found[:, :109] - dense).max() < 1e-4
    # A prompt that is not short is treated as if there were no limit.
    options = {"prompt": 150, "chunk": 40}
    limited = run(make("delta", theta=theta, window_scale=scale, dense_below=150), q, k, v, **options)
    assert np.array_equal(limited, run(make("delta", theta=theta, window_scale=scale), q, k, v, **options))


@pytest.mark.parametrize("kernel", KERNELS)
def test_theta_0_equals_dense(kernel):
    q, k, v = sequence(120)
    dense = run(make("f16", kernel), q, k, v)
    assert np.abs(run(make("delta", kernel, theta=0.0, window_scale=0.0), q, k, v, prompt=120) - dense).max() < 2e-3


@pytest.mark.parametrize("theta", [0.0, 0.1, 0.7, 3.0])
def test_coded_keys_are_within_theta(theta):
    _, k, v = sequence(600)
    cache = filled(k, v, theta=theta)
    for layer in range(LAYERS):
        for head in range(KV):
            error = np.abs(cache.propagated(layer, head) - k[layer, :, head]).max()
            assert error <= max(theta, STEP) * (1 + 1e-5)


def test_kernels_agree_and_rows_do_not_depend_on_their_neighbours():
    q, k, v = sequence(200)
    one = run(make("delta", KERNELS[0], theta=0.6), q, k, v, prompt=200, chunk=1)
    for kernel in KERNELS:
        other = run(make("delta", kernel, theta=0.6), q, k, v, prompt=200, chunk=37)
        assert np.array_equal(one, other) if kernel == KERNELS[0] else np.allclose(one, other, atol=1e-4)


def test_prefill_then_decode_equals_one_prefill_without_window():
    q, k, v = sequence(300)
    q, k, v = q[:, :290], k[:, :290], v[:, :290]
    whole = run(make("delta", theta=0.5, window_scale=0.0), q, k, v, prompt=290)
    cache = make("delta", theta=0.5, window_scale=0.0)
    parts = run(cache, q, k, v, prompt=290, prefill=270)
    assert np.array_equal(whole, parts)


def test_changes_beyond_a_byte_are_kept():
    q, k, v = sequence(40)
    k *= 40
    cache = make("delta", theta=0.2, window_scale=0.0)
    run(cache, q, k, v, prompt=40)
    assert np.abs(cache.propagated(1, 1) - k[1, :, 1]).max() <= 0.2 * (1 + 1e-4)


@pytest.mark.parametrize("theta", [0.01, 0.5])
def test_keys_far_from_zero_are_summed_without_overflow(theta):
    """Models with biased keys have channels of some hundreds: tens of thousands of steps."""
    q, k, v = sequence(300)
    k[..., ::8] += 500
    q[..., ::8] /= 500
    options = {"theta": theta, "window_scale": 0.05}
    plain = run(make("delta", KERNELS[0], **options), q, k, v)
    for kernel in KERNELS[1:]:
        assert np.abs(run(make("delta", kernel, **options), q, k, v) - plain).max() < 1e-3


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 255, 256, 257, 299])
def test_truncated_then_written_again_equals_written_once(length):
    q, k, v = sequence(300)
    once, again = (make("delta", theta=0.5, window_scale=0.0) for _ in range(2))
    run(once, q, k, v, prompt=300)
    run(again, q, k, v, prompt=300)
    again.truncate(length)
    again.begin(300)
    again.write(length, k[:, length:], v[:, length:])
    for layer in range(LAYERS):
        for head in range(KV):
            assert np.array_equal(once.propagated(layer, head), again.propagated(layer, head))
    assert np.array_equal(once.attend(292, q[:, 292:])[0], again.attend(292, q[:, 292:])[0])


def test_skipped_multiply_adds_are_those_of_the_rule():
    n, prefill, theta, scale, sink = 290, 270, 0.5, 0.05, 2
    q, k, v = sequence(n)
    cache = make("delta", theta=theta, window_scale=scale, sink=sink)
    run(cache, q, k, v, prompt=prefill, prefill=prefill)
    counts = cache.counts()
    exact = delta.exact_prefill(prefill, delta.window(scale, prefill), sink)
    for layer in range(LAYERS):
        rows = [delta.coded_rows(k[layer, :, head], theta) for head in range(KV)]
        pairs = [sparsity.of_prefill(r[:prefill], exact) for r in rows]
        assert counts["prefill_total"][layer] == sum(total for _, total in pairs)
        assert counts["prefill_skipped"][layer] == pytest.approx(sum(skipped for skipped, _ in pairs), rel=1e-4)
        skipped = total = 0
        for i in range(prefill, n):
            ring = delta.exact_decode(i, max(1, delta.window(scale, i + 1)), sink)
            for r in rows:
                one, all_ = sparsity.of_step(r[: i + 1], ring)
                skipped, total = skipped + one, total + all_
        assert counts["decode_total"][layer] == total
        assert counts["decode_skipped"][layer] == pytest.approx(skipped, rel=1e-4)
        assert counts["zero_share"][layer] == pytest.approx(np.mean([r == 0 for r in rows]), rel=1e-4)


def test_keys_take_fewer_bytes_the_more_zeros_there_are():
    _, k, v = sequence(600)
    sizes = []
    for theta in (0.1, 0.5, 2.0):
        cache = filled(k, v, theta=theta)
        counts = cache.counts()
        sizes.append(counts["key_bytes"])
        exact, codes = 112, 600 * DIM * LAYERS * KV  # at most: the window in whole blocks
        zeros = float(np.mean(counts["zero_share"]))
        least = codes * (1 - zeros) + codes / 8
        assert least <= counts["key_bytes"] <= least * 1.02 + LAYERS * KV * (exact * DIM * 2 + 17 * DIM * 4 + 400)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.35 * k.size * 2


@pytest.mark.parametrize("options", [{"theta": -1.0}, {"theta": np.zeros(3)}, {"sink": -1}, {"window_scale": 2.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"theta|sink|window"):
        make("delta", **options)
