"""Tensor trains against tensorly, the SVD, and tensors of known ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tensor_train

from onnxslim_rx.linalg import error_curve, tt_full, tt_round, tt_svd


def relative(t, found):
    return np.linalg.norm(t - found) / np.linalg.norm(t)


def ranks_of(cores):
    return [core.shape[2] for core in cores[:-1]]


def train(rng, sides, ranks):
    ends = [1, *ranks, 1]
    return [rng.standard_normal((ends[i], n, ends[i + 1])) for i, n in enumerate(sides)]


def check_form(cores):
    for core in cores[:-1]:
        matrix = core.reshape(-1, core.shape[2])
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-10)
        assert (np.take_along_axis(matrix, np.abs(matrix).argmax(0)[None], 0) > 0).all()


shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_full_ranks_are_exact_and_clamped(shape, seed):
    t = np.random.default_rng(seed).standard_normal(shape)
    for cores in (tt_svd(t, 10**6), tt_svd(t, tol=0.0)):
        assert relative(t, tt_full(cores)) < 1e-13
        possible = [min(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
        assert ranks_of(cores) == possible
        check_form(cores)


@settings(deadline=None)
@given(shape=shapes, tol=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_the_error_is_within_the_bound(shape, tol, seed):
    t = np.random.default_rng(seed).standard_normal(shape)
    cores = tt_svd(t, tol=tol)
    assert relative(t, tt_full(cores)) <= tol + 1e-12
    rounded = tt_round(tt_svd(t, tol=0.0), tol=tol)
    assert relative(t, tt_full(rounded)) <= tol + 1e-12
    check_form(cores)
    check_form(rounded)


@pytest.mark.parametrize(
    ("shape", "ranks"), [((24, 9, 16), (8, 5)), ((13, 5, 7), (6, 7)), ((5, 3, 3, 8), (4, 7, 6))]
)
def test_the_error_is_at_most_that_of_tensorly(rng, shape, ranks):
    t = rng.standard_normal(shape)
    theirs = tensor_train(t, rank=[1, *ranks, 1]).to_tensor()
    cores = tt_svd(t, ranks)
    assert ranks_of(cores) == list(ranks)
    assert relative(t, tt_full(cores)) <= relative(t, theirs) * (1 + 1e-9)
    # rounding the exact train cuts the same parts
    rounded = tt_full(tt_round(tt_svd(t, tol=0.0), ranks))
    assert relative(t, rounded) == pytest.approx(relative(t, theirs), rel=1e-6)


@pytest.mark.parametrize(("sides", "ranks"), [((24, 9, 16), (7, 5)), ((6, 3, 3, 8), (4, 6, 5))])
def test_known_ranks_are_recovered(rng, sides, ranks):
    exact = train(rng, sides, ranks)
    t = tt_full(exact)
    assert ranks_of(tt_svd(t, tol=1e-10)) == list(ranks)
    assert relative(t, tt_full(tt_svd(t, ranks))) < 1e-12
    # the sum of a train with itself has twice the ranks, and its rounding the first ones
    twice = [np.concatenate([exact[0], exact[0]], axis=2)]
    twice += [
        np.concatenate([np.concatenate([c, 0 * c], 2), np.concatenate([0 * c, c], 2)], 0)
        for c in exact[1:-1]
    ]
    twice.append(np.concatenate([exact[-1], exact[-1]], axis=0))
    rounded = tt_round(twice, tol=1e-10)
    assert ranks_of(rounded) == list(ranks)
    assert relative(2 * t, tt_full(rounded)) < 1e-9


def test_ranks_that_later_cores_cannot_use_are_cut_without_loss(rng):
    t = rng.standard_normal((30, 3, 20))
    cores = tt_svd(t, (30, 2))
    assert ranks_of(cores) == [6, 2]
    assert relative(t, tt_full(cores)) == pytest.approx(error_curve(t.reshape(90, 20))[2])
    check_form(cores)


def test_two_axes_are_the_singular_value_decomposition(rng):
    w = rng.standard_normal((20, 13))
    curve = error_curve(w)
    for rank in (1, 5, 12):
        assert relative(w, tt_full(tt_svd(w, rank))) == pytest.approx(curve[rank])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_scale_does_not_matter(rng, scale):
    t = rng.standard_normal((8, 6, 4))
    cores, scaled = tt_svd(t, 3), tt_svd(t * scale, 3)
    np.testing.assert_allclose(tt_full(scaled) / scale, tt_full(cores), atol=1e-12)
    for one, other in zip(tt_round(scaled, 2), tt_round(cores, 2), strict=True):
        assert one.shape == other.shape
    np.testing.assert_allclose(
        tt_full(tt_round(scaled, 2)) / scale, tt_full(tt_round(cores, 2)), atol=1e-12
    )


def test_zeros_are_of_rank_one():
    cores = tt_svd(np.zeros((3, 4, 2)), tol=0.1)
    assert ranks_of(cores) == [1, 1]
    assert not tt_full(cores).any()
    assert not tt_full(tt_round(cores, 2)).any()


def test_bad_input_is_named(rng):
    t = rng.standard_normal((4, 3, 2))
    with pytest.raises(ValueError, match="expected one of the two"):
        tt_svd(t)
    with pytest.raises(ValueError, match="expected one of the two"):
        tt_svd(t, 2, tol=0.1)
    with pytest.raises(ValueError, match="found tol 1"):
        tt_svd(t, tol=1.0)
    with pytest.raises(ValueError, match=r"found ranks \[2\]; expected 2"):
        tt_svd(t, [2])
    with pytest.raises(ValueError, match=r"found ranks \[0, 0\]"):
        tt_svd(t, 0)
    with pytest.raises(ValueError, match="NaN"):
        tt_svd(np.full((2, 2, 2), np.nan), 1)
    good = tt_svd(t, 2)
    for cores in (good[:1], good[1:], good[:-1], [good[0], good[2], good[2]], [c[0] for c in good]):
        with pytest.raises(ValueError, match="expected a chain"):
            tt_full(cores)
    with pytest.raises(ValueError, match="NaN"):
        tt_round([good[0] * np.inf, *good[1:]], 1)
