"""Grids of blocks against brute force, and the corners of what can be stored."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import BlockFormat, restore, round_clipped, round_nearest

BOTH = pytest.mark.parametrize("rounding", [round_nearest, round_clipped])


def squares(weight, blocks, importance=1.0):
    return float(np.sum(importance * np.square(weight - restore(blocks))))


@given(
    bits=st.integers(2, 8),
    group=st.sampled_from([0, 16, 32]),
    symmetric=st.booleans(),
    signed=st.booleans(),
    scale_type=st.sampled_from([np.float16, np.float32]),
    rows=st.integers(1, 4),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_are_valid_and_clipping_has_no_more_error(
    bits, group, symmetric, signed, scale_type, rows, k, seed
):
    form = BlockFormat(bits, group, symmetric, scale_type, signed)
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, k)) * rng.choice([0, 1e-9, 1, 100], (rows, 1))
    plain, clipped = round_nearest(w, form), round_clipped(w, form)
    for blocks in (plain, clipped):
        assert blocks.values.max() < 2**bits
        assert (blocks.scales == blocks.scales.astype(scale_type)).all()
        assert np.isfinite(blocks.scales).all()
        assert (blocks.scales > 0).all() if not (symmetric and signed) else blocks.scales.all()
        assert (blocks.zeros is None) == symmetric
    assert squares(w, clipped) <= squares(w, plain) * (1 + 1e-12)
    # nothing is clipped by more than a step, nothing between is off by more than half of one
    step = np.repeat(np.abs(plain.scales), form.width(k), axis=1)[:, :k]
    assert (np.abs(w - restore(plain)) <= step * 1.01).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_clipping_is_near_the_best_of_all_scales(bits, signed, rng):
    form = BlockFormat(bits, 16, scale_type=np.float32, signed=signed)
    w = rng.standard_normal((20, 16))
    importance = rng.uniform(0.1, 3.0, 16)
    found = np.sum(importance * np.square(w - restore(round_clipped(w, form, importance))), axis=1)
    scales = np.linspace(0.02, 1.0, 2000) * np.abs(w).max(axis=1, keepdims=True)
    middle = 2 ** (bits - 1)
    best = np.full(20, np.inf)
    for sign in (1, -1) if signed else (1,):
        for scale in sign * scales.T[..., None]:
            rounded = np.clip(np.rint(w / scale), -middle, middle - 1) * scale
            best = np.minimum(best, np.sum(importance * np.square(w - rounded), axis=1))
    assert (found >= best * (1 - 1e-3)).all()
    assert found.sum() <= 1.03 * best.sum()


def test_negative_scales_give_the_peak_its_place():
    w = np.array([[1.0, -0.375, 0.25, 0.5]])
    signed = round_nearest(w, BlockFormat(4, 0, scale_type=np.float32))
    assert signed.scales.tolist() == [[-0.125]]
    assert signed.values.tolist() == [[0, 11, 6, 4]]
    unsigned = round_nearest(w, BlockFormat(4, 0, scale_type=np.float32, signed=False))
    assert (unsigned.scales > 0).all()
    assert squares(w, signed) == 0 < squares(w, unsigned)


@BOTH
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_and_constants_are_exact(rounding, bits, symmetric):
    form = BlockFormat(bits, 16, symmetric)
    w = np.repeat([0.0, 0.3125, -7.0, 60000.0, 0.0], 16)[None, :70].copy()
    w[0, 20] = -0.3125
    w[0, 40] = 0.0
    blocks = rounding(w, form)
    np.testing.assert_array_equal(restore(blocks), w)
    assert blocks.scales[0, 0] == blocks.scales[0, 4] == 1.0


@BOTH
def test_tiny_entries_become_zeros_only_where_that_is_nearest(rounding):
    least = 2.0**-24
    w = np.array([[0.4 * least] * 16 + [0.6 * least] * 16 + [-2.4 * least] * 16])
    blocks = rounding(w, BlockFormat(4, 16))
    wanted = np.repeat([0.0, least, -2 * least], 16)
    np.testing.assert_array_equal(restore(blocks)[0], wanted)
    assert blocks.scales[0, 0] == 1.0


@BOTH
def test_scales_that_overflow_are_refused(rounding):
    w = np.array([[6e5, -1.0]])
    with pytest.raises(ValueError, match="overflow float16"):
        rounding(w, BlockFormat(4, 16))
    assert rounding(w, BlockFormat(4, 16, scale_type=np.float32)).scales.all()
    w = np.array([[-5e5, 1.0]])  # a flat grid would overflow, that of the peak does not
    assert restore(rounding(w, BlockFormat(4, 16)))[0, 0] == pytest.approx(-5e5, rel=1e-3)


@BOTH
@pytest.mark.parametrize("bad", [np.ones((0, 4)), np.ones((2, 0)), np.ones(3)])
def test_shapes_that_are_no_matrix_are_refused(rounding, bad):
    with pytest.raises(ValueError, match="not empty"):
        rounding(bad, BlockFormat())


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_entries_that_are_not_finite_are_refused(rounding, bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        rounding(np.array([[1.0, bad]]), BlockFormat())


@pytest.mark.parametrize("bad", [np.ones(3), -np.ones(4), np.full(4, np.nan)])
def test_importances_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="importances"):
        round_clipped(np.ones((2, 4)), BlockFormat(), bad)


def test_entries_that_do_not_matter_still_choose_a_grid(rng):
    w = rng.standard_normal((2, 32))
    form = BlockFormat(4, 16)
    importance = np.repeat([0.0, 1.0], 16)
    for given_importance in (importance, np.zeros(32)):
        found = restore(round_clipped(w, form, given_importance))
        np.testing.assert_array_equal(found, restore(round_clipped(w, form)))


@BOTH
def test_half_precision_and_parts_change_nothing(rounding, monkeypatch, rng):
    w = rng.standard_normal((7, 40)).astype(np.float16)
    form = BlockFormat(4, 16, symmetric=False)
    whole = rounding(w.astype(np.float64), form)
    monkeypatch.setattr("onnxslim_rx.quant.blocks._PART", 50)
    for one, other in zip(whole, rounding(w, form), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_large_weight_is_not_copied_whole():
    w = np.ones((4096, 1024), np.float32)
    tracemalloc.start()
    blocks = round_nearest(w, BlockFormat())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= w.size + 3 * blocks.scales.nbytes + 8 * (1 << 18) * 8
