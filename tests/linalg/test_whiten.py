"""Whitened SVD against the SVD of the outputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import scaled_svd, truncated_svd, whitened_error_curve, whitened_svd
from onnxslim_rx.linalg.whiten import output_energy


def activations(rng, rows, k):
    """Rows with a strongly uneven spectrum, so that weighing by them matters."""
    return rng.standard_normal((rows, k)) @ np.diag(np.logspace(0, -2, k))


@pytest.mark.parametrize(("k", "n"), [(24, 16), (16, 24), (16, 16), (1, 5), (5, 1)])
def test_output_error_is_the_least_that_any_product_of_that_rank_has(k, n, rng):
    x = activations(rng, 400, k)
    w = rng.standard_normal((k, n))
    values = np.linalg.svd(x @ w, compute_uv=False)
    curve = whitened_error_curve(w, x.T @ x)
    assert len(curve) == min(k, n) + 1
    for rank in range(1, min(k, n) + 1):
        p, q = whitened_svd(w, x.T @ x, rank)
        best = np.linalg.norm(values[rank:])
        # the ridge is 1e-4 of the mean energy of an input channel; its square root is 1e-2
        ridge = 1e-2 * np.sqrt(np.trace(x.T @ x) / k) * np.linalg.norm(w)
        got = np.linalg.norm(x @ (w - p @ q))
        assert got <= best + ridge
        assert got >= best * (1 - 1e-9)
        total = np.linalg.norm(x @ w)
        assert abs(curve[rank] * total - best) <= ridge + 1e-6 * total


def test_it_beats_plain_svd_on_uneven_activations(rng):
    x = activations(rng, 300, 32)
    w = rng.standard_normal((32, 24))
    whitened = np.linalg.norm(x @ (w - np.matmul(*whitened_svd(w, x.T @ x, 6))))
    plain = np.linalg.norm(x @ (w - np.matmul(*truncated_svd(w, 6))))
    assert whitened < 0.8 * plain


@pytest.mark.parametrize(("k", "n"), [(20, 12), (12, 20)])
def test_full_rank_gives_the_weight_back(k, n, rng):
    x = rng.standard_normal((5, k))  # fewer rows than channels: a singular Gram matrix
    w = rng.standard_normal((k, n))
    p, q = whitened_svd(w, x.T @ x, min(k, n))
    assert np.linalg.norm(w - p @ q) <= 1e-7 * np.linalg.norm(w)


def test_dead_activations_fall_back_to_plain_svd(rng):
    w = rng.standard_normal((10, 8))
    p, q = whitened_svd(w, np.zeros((10, 10)), 3)
    best = np.linalg.svd(w, compute_uv=False)[3:]
    assert np.linalg.norm(w - p @ q) == pytest.approx(np.linalg.norm(best), rel=1e-9)


def test_an_indefinite_gram_matrix_from_rounding_is_survived(rng):
    x = rng.standard_normal((3, 6))
    gram = x.T @ x
    gram[0, 0] -= 0.5  # far worse than rounding: clearly indefinite
    p, q = whitened_svd(rng.standard_normal((6, 4)), gram, 2)
    assert np.isfinite(p).all()
    assert np.isfinite(q).all()


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 8), n=st.integers(1, 8))
def test_output_energy_is_the_squared_norm_of_the_output(seed, k, n):
    rng = np.random.default_rng(seed)
    x, d = rng.standard_normal((11, k)), rng.standard_normal((k, n))
    assert output_energy(d, x.T @ x) == pytest.approx(np.linalg.norm(x @ d) ** 2, rel=1e-9)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Gram matrix of shape"):
        whitened_svd(np.ones((3, 2)), np.eye(2), 1)


def test_few_rows_are_trusted_less(rng):
    """Fitted to fewer rows than channels, the ridge makes the error on other rows smaller."""
    mixing = rng.standard_normal((64, 64)) @ np.diag(np.logspace(0, -1, 64))
    x, fresh = (rng.standard_normal((rows, 64)) @ mixing for rows in (16, 500))
    w = rng.standard_normal((64, 48))
    errors = [
        np.linalg.norm(fresh @ (w - np.matmul(*whitened_svd(w, x.T @ x, 12, rows=rows))))
        for rows in (None, 16)
    ]
    assert errors[1] < 0.98 * errors[0]
    assert whitened_error_curve(w, x.T @ x)[16] < 0.1
    assert whitened_error_curve(w, x.T @ x, rows=16)[16] > 0.2


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 rows"):
        whitened_svd(np.ones((3, 2)), np.eye(3), 1, rows=0)


@pytest.mark.parametrize(("k", "n"), [(120, 80), (80, 120)])
def test_a_tolerance_keeps_the_output_error_near_the_least(k, n, rng):
    x = activations(rng, 900, k)
    w = rng.standard_normal((k, n))
    exact, near = (
        np.linalg.norm(x @ (w - np.matmul(*whitened_svd(w, x.T @ x, 12, tol=tol))))
        for tol in (0.0, 1e-3)
    )
    assert near <= exact * 1.002


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_scales_of_weight_and_gram_matrix_do_not_matter(scale, rng):
    x = activations(rng, 100, 9)
    w = rng.standard_normal((9, 7))
    p, q = whitened_svd(w, x.T @ x, 3)
    big_p, big_q = whitened_svd(w * scale, x.T @ x * scale, 3)
    np.testing.assert_allclose(big_p @ big_q / scale, p @ q, rtol=1e-9, atol=1e-12)
    curves = whitened_error_curve(w, x.T @ x), whitened_error_curve(w * scale, x.T @ x * scale)
    np.testing.assert_allclose(*curves, atol=1e-9)
    scaled = np.matmul(*scaled_svd(w * scale, np.arange(9.0), 3)) / scale
    np.testing.assert_allclose(scaled, np.matmul(*scaled_svd(w, np.arange(9.0), 3)), atol=1e-12)


def test_weighing_channels_lies_between_plain_and_whitened(rng):
    """Channels of uneven size that hang together: sizes help, the whole Gram matrix helps more."""
    mixing = np.linalg.qr(rng.standard_normal((32, 32)))[0] * np.logspace(0, -1, 32)
    x = rng.standard_normal((300, 32)) @ mixing @ np.diag(np.logspace(0, -2, 32))
    w = rng.standard_normal((32, 24))
    products = {
        "plain": truncated_svd(w, 6),
        "scaled": scaled_svd(w, np.abs(x).mean(axis=0), 6),
        "whitened": whitened_svd(w, x.T @ x, 6),
    }
    error = {name: np.linalg.norm(x @ (w - p @ q)) for name, (p, q) in products.items()}
    assert error["whitened"] < 0.95 * error["scaled"]
    assert error["scaled"] < 0.95 * error["plain"]


def test_channel_sizes_weigh_rows_exactly(rng):
    w, sizes = rng.standard_normal((8, 10)), rng.random(8) + 0.1
    p, q = scaled_svd(w, sizes, 3, power=1.0)
    values = np.linalg.svd(sizes[:, None] * w, compute_uv=False)
    assert np.linalg.norm(sizes[:, None] * (w - p @ q)) == pytest.approx(np.linalg.norm(values[3:]))
    plain = np.matmul(*truncated_svd(w, 3))
    np.testing.assert_allclose(np.matmul(*scaled_svd(w, sizes, 3, power=0.0)), plain, atol=1e-12)
    np.testing.assert_allclose(np.matmul(*scaled_svd(w, np.zeros(8), 3)), plain, atol=1e-12)


@pytest.mark.parametrize("sizes", [np.ones(2), -np.ones(3), np.full(3, np.nan)])
def test_bad_channel_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="found sizes"):
        scaled_svd(np.ones((3, 2)), sizes, 1)
