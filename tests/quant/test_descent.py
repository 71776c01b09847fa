"""Descent on scales and integers against brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import (
    BlockFormat,
    damped,
    error,
    refine,
    restore,
    round_clipped,
    round_gptq,
    round_nearest,
    round_refined,
)


def activations(rng, rows, k):
    return rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) * rng.uniform(0.1, 2, k))


def row_errors(w, blocks, gram):
    wrong = w - restore(blocks)
    return np.einsum("rk,kl,rl->r", wrong, gram, wrong)


@given(
    bits=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([0, 16]),
    symmetric=st.booleans(),
    scale_type=st.sampled_from([np.float16, np.float32]),
    rows=st.integers(1, 5),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_row_gets_worse_and_blocks_stay_valid(bits, group, symmetric, scale_type, rows, k, seed):
    rng = np.random.default_rng(seed)
    form = BlockFormat(bits, group, symmetric, scale_type)
    w, x = rng.standard_normal((rows, k)), activations(rng, 2 * k, k)
    before = round_nearest(w, form)
    kept = before.values.copy(), before.scales.copy()
    after = refine(before, w, x.T @ x)
    np.testing.assert_array_equal(before.values, kept[0])
    np.testing.assert_array_equal(before.scales, kept[1])
    gram = damped(x.T @ x, k)
    assert (row_errors(w, after, gram) <= row_errors(w, before, gram) * (1 + 1e-4) + 1e-9).all()
    assert after.values.max() < 2**bits
    assert after.scales.all()
    assert (after.scales == after.scales.astype(scale_type)).all()
    if not symmetric:
        np.testing.assert_array_equal(after.zeros, before.zeros)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (2, 16), (4, 0)])
def test_no_single_change_makes_it_better(bits, group, symmetric, rng):
    form = BlockFormat(bits, group, symmetric, np.float32)
    w, x = rng.standard_normal((3, 40)), activations(rng, 200, 40)
    gram = damped(x.T @ x, 40)
    found = round_refined(w, form, x.T @ x, rounds=60)
    least = row_errors(w, found, gram)
    for row, column in itertools.product(range(3), range(40)):
        for integer in range(2**bits):
            values = found.values.copy()
            values[row, column] = integer
            other = row_errors(w, found._replace(values=values), gram)[row]
            assert other >= least[row] * (1 - 1e-5)
    for row, block, change in itertools.product(
        range(3), range(found.scales.shape[1]), (0.99, 1.01)
    ):
        scales = found.scales.copy()
        scales[row, block] *= change
        assert row_errors(w, found._replace(scales=scales), gram)[row] >= least[row] * (1 - 1e-5)


def test_a_scale_alone_is_the_least_squares_fit(rng):
    """One block whose integers are right already: scales by the normal equation."""
    form = BlockFormat(8, 0, scale_type=np.float32)
    w, x = rng.standard_normal((4, 20)), activations(rng, 100, 20)
    gram = damped(x.T @ x, 20)
    blocks = round_nearest(w, form)
    found = refine(blocks, w, x.T @ x, rounds=40)
    steps = found.values.astype(float) - 128
    wanted = np.einsum("rk,kl,rl->r", steps, gram, w) / np.einsum("rk,kl,rl->r", steps, gram, steps)
    np.testing.assert_allclose(found.scales[:, 0], wanted, rtol=1e-5)


def test_near_the_best_of_all_integers(rng):
    """2 bits, 6 entries, scales given: 4,096 ways."""
    form = BlockFormat(2, 0, scale_type=np.float32)
    ratios = []
    for _ in range(20):
        w, x = rng.standard_normal((1, 6)), activations(rng, 30, 6)
        gram = damped(x.T @ x, 6)
        found = round_refined(w, form, x.T @ x)
        ways = np.array(list(itertools.product(range(4), repeat=6)), float) - 2
        wrong = w - ways * found.scales[0, 0]
        best = np.einsum("nk,kl,nl->n", wrong, gram, wrong).min()
        ratios.append(row_errors(w, found, gram)[0] / best)
    assert min(ratios) >= 1 - 1e-5
    assert np.median(ratios) <= 1.3


def test_better_than_gptq_on_inputs_that_were_not_seen(rng):
    w, mix = rng.standard_normal((64, 96)), rng.standard_normal((96, 96)) * rng.uniform(0.1, 2, 96)
    seen, unseen = rng.standard_normal((600, 96)) @ mix, rng.standard_normal((600, 96)) @ mix
    for bits, least in ((4, 0.97), (2, 0.95)):
        form = BlockFormat(bits, 32)
        plain = error(w, round_gptq(w, form, seen.T @ seen, rows=600), unseen.T @ unseen)
        refined = error(w, round_refined(w, form, seen.T @ seen, rows=600), unseen.T @ unseen)
        assert refined < least * plain


def test_zeros_stay_zeros_with_scale_1(rng):
    w = rng.standard_normal((3, 32))
    w[1] = 0.0
    w[2, 16:] = 0.0
    x = activations(rng, 100, 32)
    found = round_refined(w, BlockFormat(4, 16), x.T @ x)
    np.testing.assert_array_equal(restore(found)[1], 0.0)
    np.testing.assert_array_equal(found.scales[1], 1.0)


def test_parts_and_no_rounds_change_nothing(monkeypatch, rng):
    w, x = rng.standard_normal((11, 40)), activations(rng, 100, 40)
    form = BlockFormat(4, 16, symmetric=False)
    start = round_clipped(w, form)
    whole = refine(start, w, x.T @ x)
    monkeypatch.setattr("onnxslim_rx.quant.descent._ENTRIES", 90)
    parts = refine(start, w, x.T @ x)
    assert error(w, parts, x.T @ x) == pytest.approx(error(w, whole, x.T @ x), rel=1e-3)
    for one, other in zip(refine(start, w, x.T @ x, rounds=0)[:3], start[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_shapes_that_do_not_fit_are_refused():
    blocks = round_nearest(np.ones((2, 4)), BlockFormat())
    with pytest.raises(ValueError, match="for blocks of"):
        refine(blocks, np.ones((2, 5)), np.eye(5))
