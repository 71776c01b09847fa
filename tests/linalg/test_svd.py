"""Truncated SVD against numpy and against the Eckart-Young bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import error_curve, truncated_svd

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (33, 17), (17, 33)]


@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_the_norm_of_the_singular_values_left_out(shape, rng):
    w = rng.standard_normal(shape)
    values = np.linalg.svd(w, compute_uv=False)
    for rank in range(1, min(shape) + 1):
        p, q = truncated_svd(w, rank)
        assert p.shape == (shape[0], rank)
        assert q.shape == (rank, shape[1])
        expected = np.linalg.norm(values[rank:])
        # both decompositions are backward stable: n * eps * norm, with a factor for the product
        tolerance = 100 * max(shape) * np.finfo(float).eps * values[0]
        assert abs(np.linalg.norm(w - p @ q) - expected) <= tolerance
        assert error_curve(w)[rank] == pytest.approx(expected / np.linalg.norm(values), abs=1e-12)


def test_a_matrix_of_known_rank_comes_back(rng):
    w = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 31))
    p, q = truncated_svd(w, 5)
    assert np.linalg.norm(w - p @ q) <= 1e-12 * np.linalg.norm(w)
    assert error_curve(w)[5] <= 1e-12
    assert error_curve(w)[4] > 1e-3


def test_factors_are_balanced_and_signs_do_not_depend_on_the_sign_of_the_input(rng):
    w = rng.standard_normal((9, 6))
    p, q = truncated_svd(w, 4)
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), np.linalg.norm(q, axis=1), rtol=1e-12)
    p_negative, q_negative = truncated_svd(-w, 4)
    np.testing.assert_allclose(p, p_negative, atol=1e-12)
    np.testing.assert_allclose(q, -q_negative, atol=1e-12)


def test_the_zero_matrix_has_no_error_at_any_rank():
    assert not error_curve(np.zeros((4, 3))).any()
    p, q = truncated_svd(np.zeros((4, 3)), 2)
    assert not (p @ q).any()


@given(k=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_the_error_curve_never_rises_and_ends_at_zero(k, n, seed):
    curve = error_curve(np.random.default_rng(seed).standard_normal((k, n)))
    assert curve[0] == 1.0
    assert curve[-1] == 0.0
    assert (np.diff(curve) <= 0).all()


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        truncated_svd(np.ones((3, 5)), rank)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 3)), np.array([[1.0, np.nan]])])
def test_what_is_no_finite_matrix_is_refused(bad):
    with pytest.raises(ValueError, match="found"):
        error_curve(bad)
