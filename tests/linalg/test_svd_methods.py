"""Every method of `svd` against LAPACK in float64 and the Eckart-Young bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.linalg import svd
from onnxslim_rx.linalg.svd import METHODS

EXACT = ("full", "gram")
RANDOM = ("randomized", "srht")
SHAPES = [(1, 1), (1, 9), (9, 1), (31, 31), (37, 101), (101, 37), (130, 64)]


def decaying(rng, shape, power=0.7):
    k = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, k)))[0] for side in shape)
    return (left * np.arange(1, k + 1) ** -power) @ right.T


def check(a, rank, found, tol):
    """Orthonormal, signs fixed, ordered, error as stated and at most `tol` above the least."""
    u, s, vt = found.u, found.s, found.vt
    assert (u.dtype, s.dtype, vt.dtype) == (np.float64,) * 3
    assert (u.shape, s.shape, vt.shape) == ((len(a), rank), (rank,), (rank, a.shape[1]))
    np.testing.assert_allclose(u.T @ u, np.eye(rank), atol=1e-12)
    np.testing.assert_allclose(vt @ vt.T, np.eye(rank), atol=1e-12)
    assert (s >= 0).all()
    assert (np.diff(s) <= 1e-12 * s[0]).all()
    assert (u[np.abs(u).argmax(axis=0), np.arange(rank)] >= 0).all()
    scale = np.abs(a).max()
    exact = a.astype(np.float64) / scale
    values = np.linalg.svd(exact, compute_uv=False)
    norm, least = np.linalg.norm(values), np.linalg.norm(values[rank:])
    error = np.linalg.norm(exact - (u * (s / scale)) @ vt)
    assert error <= (1 + tol) * least + 1e-13 * norm
    assert found.error == pytest.approx(error / norm, rel=1e-3, abs=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_the_least_or_within_the_tolerance(method, shape, rng):
    for a in (rng.standard_normal(shape), decaying(rng, shape)):
        for rank in {1, min(shape) // 3 or 1, min(shape)}:
            found = svd(a, rank, method=method, tol=1e-2)
            check(a, rank, found, 1e-9 if method in EXACT else 1e-2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_any_scale_gives_the_same_relative_error(method, scale, rng):
    a = decaying(rng, (40, 60)) * scale
    check(a, 9, svd(a, 9, method=method), 1e-2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [4, 5, 20])
def test_a_matrix_of_known_rank_comes_back(method, rank, rng):
    a = rng.standard_normal((60, 5)) @ np.diag([1.0, 1e-2, 1e-4, 1e-6, 1e-8])
    a = a @ rng.standard_normal((5, 90))
    found = svd(a, rank, method=method)
    check(a, rank, found, 1e-2)
    if rank > 4:
        assert found.error <= 1e-13


@pytest.mark.parametrize("method", METHODS)
def test_sparse_and_repeated_structure(method, rng):
    block = np.zeros((50, 70))
    block[:8, :8] = np.eye(8) * 3.0
    check(block, 4, svd(block, 4, method=method), 1e-2)
    check(block, 20, svd(block, 20, method=method), 1e-2)
    ones = np.ones((33, 47))
    check(ones, 3, svd(ones, 3, method=method), 1e-2)
    check(np.eye(40), 10, svd(np.eye(40), 10, method=method), 1e-2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_narrow_types_are_decomposed_in_full_precision(method, dtype, rng):
    a = (decaying(rng, (48, 80)) * 100).astype(dtype)
    check(a.astype(np.float64), 12, svd(a, 12, method=method), 1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_the_zero_matrix(method):
    found = svd(np.zeros((5, 7)), 3, method=method)
    assert found.error == 0.0
    assert not found.s.any()
    np.testing.assert_array_equal(found.u.T @ found.u, np.eye(3))


@pytest.mark.parametrize("method", RANDOM)
def test_equal_seeds_give_equal_bytes_and_others_do_not(method, rng):
    a = rng.standard_normal((90, 120))
    first, again, other = (svd(a, 20, method=method, seed=seed).u for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_smaller_tolerance_gives_a_smaller_error(rng):
    a = decaying(rng, (200, 300), power=0.3)
    least = svd(a, 40, method="full").error
    errors = [svd(a, 40, method="randomized", tol=tol).error for tol in (0.3, 1e-3, 1e-7)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= least * (1 + 1e-7)


def test_float32_inside_does_not_hide_small_errors(rng):
    """The least error is 1e-6 of the norm: float32 alone could not see it."""
    k = 120
    left, right = (np.linalg.qr(rng.standard_normal((side, k)))[0] for side in (k, 150))
    a = (left * np.where(np.arange(k) < 20, 1.0, 1e-6)) @ right.T
    check(a, 20, svd(a, 20, method="randomized"), 1e-3)


def test_factors_are_balanced_and_give_the_product(rng):
    found = svd(rng.standard_normal((20, 30)), 6)
    p, q = found.factors()
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), np.linalg.norm(q, axis=1), rtol=1e-12)
    np.testing.assert_allclose(p @ q, (found.u * found.s) @ found.vt, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 24),
    n=st.integers(1, 24),
    rank=st.integers(1, 24),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(METHODS),
)
def test_laws_hold_for_any_shape(k, n, rank, seed, method):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, n)) * 10.0 ** rng.integers(-6, 7, (1, n))
    rank = min(rank, k, n)
    check(a, rank, svd(a, rank, method=method, tol=0.02), 0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0.3, 1.0, 3.0])
def test_the_least_error_is_reached_at_every_size(method, step, rng):
    """Down to 1e-12 of the norm: squares of singular values keep only 1e-8.

    Randomized methods cannot see what they gain below 1e-7 / sqrt(tol) = 1e-5 of the norm.
    """
    left, right = (np.linalg.qr(rng.standard_normal((side, 60)))[0] for side in (60, 75))
    a = (left * np.exp(-step * np.arange(60))) @ right.T
    for rank in range(1, 60, 3):
        if np.exp(-step * rank) > 1e-12:
            unseen = method in (*RANDOM, "auto") and np.exp(-step * rank) < 1e-5
            check(a, rank, svd(a, rank, method=method), 1.0 if unseen else 1e-3)


def test_not_worse_than_scikit_learn(rng):
    extmath = pytest.importorskip("sklearn.utils.extmath")
    for a in (rng.standard_normal((300, 500)), decaying(rng, (300, 500))):
        u, s, vt = extmath.randomized_svd(a, 40, random_state=0)
        peer = np.linalg.norm(a - (u * s) @ vt) / np.linalg.norm(a)
        for method in METHODS:
            assert svd(a, 40, method=method).error <= peer * (1 + 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_is_refused(bad, method):
    a = np.ones((4, 5), dtype=np.float32)
    a[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        svd(a, 2, method=method)


@pytest.mark.parametrize("a", [np.ones(3), np.ones((0, 3)), np.ones((2, 2, 2))])
def test_what_is_no_matrix_is_refused(a):
    with pytest.raises(ValueError, match="expected a matrix"):
        svd(a, 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "rank 0"),
        ({"rank": 4}, "expected 1 to 3"),
        ({"rank": 1, "method": "lanczos"}, "method 'lanczos'"),
        ({"rank": 1, "tol": -1.0}, "tol -1.0"),
        ({"rank": 1, "tol": float("nan")}, "tol nan"),
        ({"rank": 1, "tol": 0.0, "method": "srht"}, "tol 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        svd(np.ones((3, 5)), **options)


@pytest.mark.parametrize("rest", [0.1, 1e-3, 1e-8])
@pytest.mark.parametrize("method", RANDOM)
def test_equal_singular_values_are_all_found(method, rest, rng):
    """Thirty of one size, where a block of the basis has eight columns."""
    left, right = (np.linalg.qr(rng.standard_normal((side, 200)))[0] for side in (200, 260))
    a = (left * np.where(np.arange(200) < 30, 1.0, rest)) @ right.T
    check(a, 30, svd(a, 30, method=method, tol=1e-2), 1e-2)
