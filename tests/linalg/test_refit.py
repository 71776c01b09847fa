"""Fits under changed inputs against least squares on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import (
    bias_correction,
    centred_gram,
    mismatch_energy,
    reduced_rank_regression,
    ridge_regression,
    truncated_svd,
    whitened_svd,
)

ROWS, K, N = 4000, 20, 14


@pytest.fixture
def data(rng):
    """Inputs, what the compressed network makes of them, and a weight."""
    x = rng.standard_normal((ROWS, K)) @ np.diag(np.logspace(0, -1, K))
    return x, x @ (np.eye(K) + 0.2 * rng.standard_normal((K, K))), rng.standard_normal((K, N))


def least(x_now, target, rank):
    """min over all B of some rank of ||x_now B - target||, from the rows."""
    fitted = x_now @ np.linalg.lstsq(x_now, target, rcond=None)[0]
    values = np.linalg.svd(fitted, compute_uv=False)
    return np.sqrt(np.linalg.norm(target - fitted) ** 2 + np.sum(values[rank:] ** 2))


def test_a_second_factor_is_the_least_squares_solution(data):
    x, now, w = data
    p, old = truncated_svd(w, 6)
    middle = now @ p
    q = ridge_regression(middle.T @ middle, middle.T @ (x @ w), old)
    best = np.linalg.lstsq(middle, x @ w, rcond=None)[0]
    error = np.linalg.norm(middle @ q - x @ w)
    assert error <= np.linalg.norm(middle @ best - x @ w) * (1 + 1e-5)  # the ridge's share
    np.testing.assert_allclose(q, best, atol=1e-2 * np.abs(best).max())


@pytest.mark.parametrize("rows", [3, 50, None])
def test_the_ridge_is_what_it_says(data, rows):
    """Against least squares on rows to which those of the ridge are added."""
    x, now, w = data
    x, now = x[:50], now[:50]
    near = w + 0.1
    share = 1e-4 if rows is None else max(1e-4, 0.5 * K / rows)
    extra = np.sqrt(share * np.sum(now**2) / K) * np.eye(K)
    full_x, full_y = np.vstack([now, extra]), np.vstack([x @ w, extra @ near])
    best = np.linalg.lstsq(full_x, full_y, rcond=None)[0]
    gram, cross = now.T @ now, now.T @ (x @ w)
    np.testing.assert_allclose(ridge_regression(gram, cross, near, rows=rows), best, atol=1e-8)
    p, q = reduced_rank_regression(gram, cross, near, 3, rows=rows)
    error = np.linalg.norm(full_x @ p @ q - full_y)
    assert error == pytest.approx(least(full_x, full_y, 3), rel=1e-9)


def test_both_factors_are_the_best_of_their_rank(data):
    x, now, w = data
    for rank in (1, 5, N):
        p, q = reduced_rank_regression(now.T @ now, now.T @ (x @ w), w, rank)
        assert (p.shape, q.shape) == ((K, rank), (rank, N))
        error = np.linalg.norm(now @ p @ q - x @ w)
        best = least(now, x @ w, rank)
        # the ridge is 1e-4 of the mean energy of a channel
        allowed = 1e-2 * np.sqrt(np.sum(now**2) / K) * np.linalg.norm(p @ q - w)
        assert best * (1 - 1e-9) <= error <= np.hypot(best, allowed)


def test_the_order_of_methods_under_mismatch(data):
    """Joint optimum <= refit of the second factor <= what knows nothing of the mismatch."""
    x, now, w = data
    gram, cross, wanted = now.T @ now, now.T @ (x @ w), np.linalg.norm(x @ w) ** 2
    p, q = whitened_svd(w, x.T @ x, 6)
    blind = mismatch_energy(p @ q, gram, cross, wanted)
    second = ridge_regression(p.T @ gram @ p, p.T @ cross, q)
    refitted = mismatch_energy(p @ second, gram, cross, wanted)
    joint = mismatch_energy(
        np.matmul(*reduced_rank_regression(gram, cross, w, 6)), gram, cross, wanted
    )
    assert joint <= refitted * (1 + 1e-6) <= blind
    assert joint < 0.9 * blind
    direct = np.linalg.norm(now @ p @ q - x @ w) ** 2
    assert blind == pytest.approx(direct, rel=1e-9)


def test_without_mismatch_it_is_the_whitened_product(data):
    x, _, w = data
    gram = x.T @ x
    for tol in (0.0, 1e-8):
        p, q = reduced_rank_regression(gram, gram @ w, w, 5, tol=tol)
        other = np.matmul(*whitened_svd(w, gram, 5))
        np.testing.assert_allclose(p @ q, other, atol=1e-6 * np.abs(other).max())
    np.testing.assert_allclose(ridge_regression(gram, gram @ w, w), w, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), rank=st.integers(1, 6))
def test_few_rows_are_survived(seed, rows, rank):
    """Fewer rows than channels: the ridge decides, and nothing explodes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 8))
    now = x * 0.9
    w = rng.standard_normal((8, 6))
    gram, cross = now.T @ now, now.T @ (x @ w)
    p, q = reduced_rank_regression(gram, cross, w, rank, rows=rows)
    assert np.linalg.norm(p @ q) <= 10 * np.linalg.norm(w)
    assert np.linalg.norm(ridge_regression(gram, cross, w, rows=rows)) <= 2 * np.linalg.norm(w)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_scales_carry_over(data, scale):
    x, now, w = data
    gram, cross = now.T @ now, now.T @ (x @ w)
    big = (gram * scale, cross * scale * scale, w * scale)
    p, q = reduced_rank_regression(gram, cross, w, 4)
    big_p, big_q = reduced_rank_regression(*big, 4)
    np.testing.assert_allclose(big_p @ big_q / scale, p @ q, atol=1e-9)
    np.testing.assert_allclose(
        ridge_regression(*big) / scale, ridge_regression(gram, cross, w), atol=1e-9
    )
    assert np.abs(np.linalg.norm(big_p, axis=0) / np.linalg.norm(big_q, axis=1) - 1).max() < 1e-9


def test_an_indefinite_gram_matrix_from_rounding_is_survived(data):
    x, now, w = data
    gram = now.T @ now
    gram[0, 0] = -gram[0, 0]
    p, q = reduced_rank_regression(gram, now.T @ (x @ w), w, 3)
    assert np.isfinite(p @ q).all()


def test_arguments_are_not_changed(data):
    x, now, w = data
    given = now.T @ now, now.T @ (x @ w), w
    before = [one.copy() for one in given]
    reduced_rank_regression(*given, 3)
    ridge_regression(*given)
    for one, other in zip(given, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bias_takes_what_the_mean_needs(data, rng):
    x, _, w = data
    x = x + 3.0 * rng.standard_normal(K)
    mean = x.mean(axis=0)
    centred = centred_gram(x.T @ x, mean, ROWS)
    np.testing.assert_allclose(centred, (x - mean).T @ (x - mean), atol=1e-8 * np.sum(x**2))
    plain = np.matmul(*whitened_svd(w, x.T @ x, 5))
    p, q = whitened_svd(w, centred, 5)
    bias = bias_correction(w, p, q, mean)
    corrected = np.linalg.norm(x @ (p @ q) + bias - x @ w)
    assert corrected < 0.99 * np.linalg.norm(x @ (plain - w))
    np.testing.assert_allclose(mean @ (p @ q) + bias, mean @ w, atol=1e-9)


def test_bad_arguments_are_refused(data):
    x, now, w = data
    gram, cross = now.T @ now, now.T @ (x @ w)
    with pytest.raises(ValueError, match="Gram matrix of shape"):
        reduced_rank_regression(gram[:3, :3], cross, w, 2)
    with pytest.raises(ValueError, match="cross moment of shape"):
        ridge_regression(gram, cross[:, :3], w)
    with pytest.raises(ValueError, match="rank 99"):
        reduced_rank_regression(gram, cross, w, 99)
    with pytest.raises(ValueError, match="NaN"):
        reduced_rank_regression(gram * np.nan, cross, w, 2)
    with pytest.raises(ValueError, match="0 rows"):
        ridge_regression(gram, cross, w, rows=0)
    with pytest.raises(ValueError, match="mean of shape"):
        centred_gram(gram, np.ones(3), 10)
    with pytest.raises(ValueError, match="0 rows"):
        centred_gram(gram, np.ones(K), 0)
