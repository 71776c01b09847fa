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
from onnxslim_rx.quant.descent import _Descent


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
@pytest.mark.parametrize(
    ("bits", "group", "k"), [(4, 32, 40), (2, 16, 40), (4, 0, 40), (4, 0, 150), (4, 256, 300)]
)
def test_no_single_change_makes_it_better(bits, group, k, symmetric, rng):
    form = BlockFormat(bits, group, symmetric, np.float32)
    w, x = rng.standard_normal((3, k)), activations(rng, 5 * k, k)
    gram = damped(x.T @ x, k)
    found = round_refined(w, form, x.T @ x, rounds=60)
    wrong = w - restore(found)
    least = row_errors(w, found, gram)[:, None]
    scales = np.repeat(found.scales, form.width(k), axis=1)[:, :k]
    zeros = np.zeros_like(scales) + form.middle
    if found.zeros is not None:
        zeros = np.repeat(found.zeros, form.width(k), axis=1)[:, :k].astype(float)
    for integer in range(2**bits):  # in the place of each, one at a time: the error in closed form
        change = (integer - zeros) * scales - restore(found)
        other = least - 2 * change * (wrong @ gram) + np.diag(gram) * change**2
        assert (other >= least * (1 - 1e-5)).all()
    for row, block, factor in itertools.product(range(3), range(form.count(k)), (0.99, 1.01)):
        scales = found.scales.copy()
        scales[row, block] *= factor
        other = row_errors(w, found._replace(scales=scales), gram)
        assert other[row] >= least[row] * (1 - 1e-5)


@pytest.mark.parametrize("k", [40, 300])
def test_a_round_is_one_step_after_the_other(k, rng):
    """The scale by the normal equation, then each integer with all others as they are by then."""
    form = BlockFormat(2, 0, scale_type=np.float32)
    w, x = rng.standard_normal((5, k)), activations(rng, k, k)
    start = round_nearest(w, form)
    found = refine(start, w, x.T @ x, rounds=1)
    gram = damped(x.T @ x, k)
    for row in range(5):
        steps = start.values[row].astype(float) - form.middle
        scale = steps @ gram @ w[row] / (steps @ gram @ steps)
        for j in range(k):
            wanted = steps[j] + gram[j] @ (w[row] - steps * scale) / (gram[j, j] * scale)
            steps[j] = np.clip(np.rint(wanted), -2, 1)
        assert found.scales[row, 0] == pytest.approx(scale, rel=1e-4)
        assert (found.values[row] != steps + form.middle).mean() <= 0.02


def test_a_row_that_got_worse_is_not_taken(monkeypatch, rng):
    """As the rounding of float32 might have it."""
    w, x = rng.standard_normal((3, 32)), activations(rng, 100, 32)
    start = round_nearest(w, BlockFormat(4, 16))
    whole = refine(start, w, x.T @ x, rounds=1)
    plain = _Descent.round

    def spoilt(self):
        plain(self)
        self.scales[:, 1] *= 2
        self.lost[:, 1] *= 3

    monkeypatch.setattr(_Descent, "round", spoilt)
    found = refine(start, w, x.T @ x, rounds=1)
    for one, mine, other in (
        (found.values, start.values, whole.values),
        (found.scales, start.scales, whole.scales),
    ):
        np.testing.assert_array_equal(one[1], mine[1])
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])


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
