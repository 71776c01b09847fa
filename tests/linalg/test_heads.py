"""Narrower heads against the singular value decomposition of the scores and outputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.linalg.heads import (
    augmented_gram,
    head_roots,
    score_bases,
    score_error_curve,
    value_error_curve,
    value_factors,
)


def uneven(rng, rows, k):
    """Rows with an uneven spectrum and a mean, so that weighing by them matters."""
    return rng.standard_normal((rows, k)) @ np.diag(np.logspace(0, -2, k)) + 0.3


def best_error(matrix, rank):
    """Eckart and Young."""
    return float(np.linalg.norm(np.linalg.svd(matrix, compute_uv=False)[rank:]))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_scores_are_as_near_as_any_of_that_rank(heads, d, k, k2, biased, seed):
    rng = np.random.default_rng(seed)
    x, y = uneven(rng, 20, k), uneven(rng, 25, k2)
    a, b = rng.standard_normal((k, heads * d)), rng.standard_normal((k2, heads * d))
    gram = x.T @ x
    if biased:
        a = np.vstack([a, rng.standard_normal(heads * d)])
        gram = augmented_gram(gram, x.mean(0), len(x))
        x = np.hstack([x, np.ones((len(x), 1))])
    np.testing.assert_allclose(gram, x.T @ x, atol=1e-9)
    roots = head_roots(a, gram, heads), head_roots(b, y.T @ y, heads)
    curve = score_error_curve(*roots)
    scores = [
        (x @ a[:, h * d : (h + 1) * d]) @ (y @ b[:, h * d : (h + 1) * d]).T for h in range(heads)
    ]
    size = np.linalg.norm(scores)
    assert curve.shape == (d + 1,)
    assert (np.diff(curve) <= 1e-12).all()
    for width in range(1, d + 1):
        s, t = score_bases(*roots, width)
        assert s.shape == t.shape == (heads, d, width)
        errors, least = [], []
        for h, right in enumerate(scores):
            part = slice(h * d, (h + 1) * d)
            errors.append(
                np.linalg.norm((x @ a[:, part] @ s[h]) @ (y @ b[:, part] @ t[h]).T - right)
            )
            least.append(best_error(right, width))
        # moments keep half of the digits: what is 1e-7 of the scores is rounding
        np.testing.assert_allclose(errors, least, rtol=1e-6, atol=1e-6 * size)
        assert curve[width] * size == pytest.approx(
            np.linalg.norm(least), rel=1e-5, abs=1e-6 * size
        )


def test_scores_by_explicit_whitening_of_the_whole_product(rng):
    k, d, width = 14, 6, 3
    x, y = uneven(rng, 90, k), uneven(rng, 80, k)
    a, b = rng.standard_normal((k, d)), rng.standard_normal((k, d))
    left, right = scipy.linalg.cholesky(x.T @ x), scipy.linalg.cholesky(y.T @ y)
    u, s, vt = np.linalg.svd(left @ a @ b.T @ right.T)
    wanted = (
        np.linalg.solve(left, u[:, :width] * s[:width]) @ np.linalg.solve(right, vt[:width].T).T
    )
    bases = score_bases(head_roots(a, x.T @ x, 1), head_roots(b, y.T @ y, 1), width)
    np.testing.assert_allclose(a @ bases[0][0] @ (b @ bases[1][0]).T, wanted, atol=1e-7)


def test_both_sides_have_equal_norms(rng):
    x, y = uneven(rng, 60, 10), uneven(rng, 50, 10)
    a, b = rng.standard_normal((10, 8)) * 1e4, rng.standard_normal((10, 8)) * 1e-4
    s, t = score_bases(head_roots(a, x.T @ x, 2), head_roots(b, y.T @ y, 2), 3)
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        left, right = x @ a[:, part] @ s[h], y @ b[:, part] @ t[h]
        np.testing.assert_allclose(
            np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=0), rtol=1e-6
        )


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_full_width_gives_the_scores_back_at_any_scale(scale, rng):
    a, b = (rng.standard_normal((12, 12)).astype(np.float32) * np.float32(scale) for _ in "ab")
    roots = head_roots(a, np.eye(12), 3), head_roots(b, np.eye(12), 3)
    s, t = score_bases(*roots, 4)
    for h in range(3):
        one, other = a[:, 4 * h : 4 * h + 4].astype("d"), b[:, 4 * h : 4 * h + 4].astype("d")
        np.testing.assert_allclose((one @ s[h]) @ (other @ t[h]).T, one @ other.T, rtol=1e-6)


def test_heads_that_are_zero_or_of_lower_rank_stay_finite(rng):
    a = rng.standard_normal((10, 12))
    a[:, :4] = 0.0
    a[:, 4:8] = rng.standard_normal((10, 1)) @ rng.standard_normal((1, 4))
    b = rng.standard_normal((10, 12))
    roots = head_roots(a, np.eye(10), 3), head_roots(b, np.eye(10), 3)
    s, t = score_bases(*roots, 4)
    assert np.isfinite(s).all()
    assert np.isfinite(t).all()
    for h in range(3):
        one, other = a[:, 4 * h : 4 * h + 4], b[:, 4 * h : 4 * h + 4]
        np.testing.assert_allclose((one @ s[h]) @ (other @ t[h]).T, one @ other.T, atol=1e-7)
    assert score_error_curve(roots[0] * 0, roots[1]).tolist() == [0.0] * 5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**31))
def test_values_of_one_head_are_as_near_as_any_of_that_rank(d, n, seed):
    rng = np.random.default_rng(seed)
    c, w = uneven(rng, 60, d), rng.standard_normal((d, n))
    gram = c.T @ c
    wanted = c @ w
    curve = value_error_curve(w, gram, 1)
    assert curve.shape == (min(d, n) + 1,)
    for width in range(1, min(d, n) + 1):
        (p,), (q,) = value_factors(w, gram, 1, width)
        assert p.shape == (d, width)
        assert q.shape == (width, n)
        least = best_error(wanted, width)
        # the ridge is 1e-4 of the mean energy of a channel; its square root is 1e-2
        slack = 1e-2 * np.sqrt(np.trace(gram) / d) * np.linalg.norm(w)
        error = np.linalg.norm(c @ p @ q - wanted)
        assert least - 1e-9 * np.linalg.norm(wanted) <= error <= least + slack
        # it counts in the curve too
        assert abs(curve[width] * np.linalg.norm(wanted) - least) <= 2 * slack


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 20), st.integers(0, 2**31))
def test_the_output_weight_is_the_least_squares_fit_over_all_heads(heads, d, n, seed):
    rng = np.random.default_rng(seed)
    k = heads * d
    c = rng.standard_normal((90, k)) @ (np.eye(k) + 0.3 * rng.standard_normal((k, k)))
    w = rng.standard_normal((k, n))
    curve = value_error_curve(w, c.T @ c, heads)
    assert (np.diff(curve) <= 1e-12).all()
    for width in range(1, min(d, n) + 1):
        p, q = value_factors(w, c.T @ c, heads, width)
        cut = c @ scipy.linalg.block_diag(*p)
        fitted = cut @ np.linalg.lstsq(cut, c @ w, rcond=None)[0]
        got = cut @ q.reshape(heads * width, n)
        size = np.linalg.norm(c @ w)
        # the ridge pulls towards the weight itself, by 1e-4
        assert np.linalg.norm(got - fitted) <= 3e-3 * size
        assert curve[width] == pytest.approx(np.linalg.norm(got - c @ w) / size, abs=1e-2)
        np.testing.assert_allclose(np.linalg.norm(p, axis=1), np.linalg.norm(q, axis=2), rtol=1e-6)


def test_correlated_heads_are_cut_once(rng):
    half = rng.standard_normal((100, 4))
    c = np.hstack([half, half])  # two heads of the same content
    w = rng.standard_normal((8, 6))
    curve = value_error_curve(w, c.T @ c, 2)
    alone = [np.linalg.svd(half @ part, compute_uv=False) for part in (w[:4], w[4:])]
    apart = np.sqrt(sum((s[2:] ** 2).sum() for s in alone)) / np.linalg.norm(c @ w)
    assert curve[2] < 0.7 * apart


def test_dead_heads_and_weights_of_lower_rank_stay_finite(rng):
    c = rng.standard_normal((50, 12))
    c[:, :4] = 0.0
    w = rng.standard_normal((12, 6))
    w[4:8] = rng.standard_normal((4, 1)) @ rng.standard_normal((1, 6))
    for width in range(1, 5):
        p, q = value_factors(w, c.T @ c, 3, width)
        assert np.isfinite(p).all()
        assert np.isfinite(q).all()
    np.testing.assert_allclose(
        scipy.linalg.block_diag(*p) @ q.reshape(12, 6), w, atol=1e-6 * np.abs(w).max()
    )
    assert np.isfinite(value_factors(w * 0, c.T @ c, 3, 2)[0]).all()


def test_refusals(rng):
    a = rng.standard_normal((6, 8))
    with pytest.raises(ValueError, match="3 heads"):
        head_roots(a, np.eye(6), 3)
    with pytest.raises(ValueError, match="Gram matrix"):
        head_roots(a, np.eye(5), 2)
    with pytest.raises(ValueError, match="NaN"):
        head_roots(a * np.nan, np.eye(6), 2)
    roots = head_roots(a, np.eye(6), 2)
    with pytest.raises(ValueError, match="rank 5"):
        score_bases(roots, roots, 5)
    with pytest.raises(ValueError, match="3 heads"):
        value_factors(a.T, np.eye(8), 3, 1)
    with pytest.raises(ValueError, match="rank 0"):
        value_factors(a.T, np.eye(8), 2, 0)
    with pytest.raises(ValueError, match="mean of shape"):
        augmented_gram(np.eye(3), np.zeros(2), 5)
    with pytest.raises(ValueError, match="0 rows"):
        augmented_gram(np.eye(3), np.zeros(3), 0)
