"""The CP decomposition against tensors of known rank, the SVD and tensorly."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import parafac

from onnxslim_rx.linalg import cp, cp_full, error_curve

# sums of squares are exact to about 1e-15 of the norm, so that errors below its root are not seen
EXACT = 3e-7


def relative(t, found):
    return np.linalg.norm(t - found) / np.linalg.norm(t)


def spread(t, factors):
    """Squared norms of the terms by that of the tensor: large where terms cancel each other."""
    norms = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    return np.sum(norms**2) / np.sum(t**2)


def sum_of_terms(rng, shape, rank):
    return cp_full([rng.standard_normal((side, rank)) for side in shape])


def w_state():
    """A tensor of rank 3 that terms of rank 2 approach without end, their norms growing."""
    t = np.zeros((2, 2, 2))
    t[0, 0, 1] = t[0, 1, 0] = t[1, 0, 0] = 1.0
    return t


def test_the_sum_of_the_terms(rng):
    a, b, c, d = (rng.standard_normal((side, 5)) for side in (4, 3, 2, 6))
    np.testing.assert_allclose(cp_full([a, b]), a @ b.T)
    np.testing.assert_allclose(cp_full([a, b, c, d]), np.einsum("ir,jr,kr,lr->ijkl", a, b, c, d))


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ((10, 8, 5), 5), ((12, 9, 12), 18), ((9, 33, 5), 13), ((7, 5, 3, 2), 4), ((6, 1, 4), 4),
        ((5, 40, 9), 5), ((40, 30, 9), 6),
    ],
)  # fmt: skip
def test_a_known_rank_is_recovered(rng, shape, rank):
    t = sum_of_terms(rng, shape, rank)
    factors = cp(t, rank, sweeps=2000, tol=0)
    assert [factor.shape for factor in factors] == [(side, rank) for side in shape]
    assert relative(t, cp_full(factors)) < EXACT


@pytest.mark.parametrize(
    "shape", [(6, 5, 3), (3, 6, 5), (4, 3, 2, 2), (5, 4), (5, 1, 1), (7, 3, 1)]
)
@pytest.mark.parametrize("more", [0, 3])
def test_full_rank_is_exact(rng, shape, more):
    t = rng.standard_normal(shape)
    full = t.size // max(shape)
    factors = cp(t, full + more)
    assert factors[0].shape == (shape[0], full + more)
    assert relative(t, cp_full(factors)) < 1e-14
    assert not any(factor[:, full:].any() for factor in factors)


def test_two_axes_are_the_singular_value_decomposition(rng):
    w = rng.standard_normal((20, 13))
    curve = error_curve(w)
    for rank in (1, 5, 12):
        assert relative(w, cp_full(cp(w, rank))) == pytest.approx(curve[rank])
        # sweeps from elsewhere go there, but for the penalty
        start = [rng.standard_normal((side, rank)) for side in w.shape]
        found = cp_full(cp(w, rank, sweeps=2000, tol=0, penalty=0.0, start=start))
        assert relative(w, found) == pytest.approx(curve[rank], rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "rank"), [((24, 16, 9), 12), ((13, 7, 5), 20), ((32, 32, 9), 64), ((9, 8, 3, 3), 10)]
)
@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.filterwarnings("ignore")
def test_the_error_is_at_most_that_of_tensorly(rng, shape, rank, init):
    noise = rng.standard_normal(shape)
    t = sum_of_terms(rng, shape, rank) / np.sqrt(rank) + noise
    ours = relative(t, cp_full(cp(t, rank, tol=1e-6, sweeps=500)))
    theirs = tensorly.cp_to_tensor(parafac(t, rank, n_iter_max=100, init=init, random_state=0))
    # both end in local minima, which differ in the third digit
    assert ours <= relative(t, theirs) * 1.005


def test_terms_that_cancel_each_other_are_bounded(rng):
    w = w_state()
    spreads = [spread(w, cp(w, 2, penalty=p, sweeps=500, tol=0)) for p in (0.1, 0.01, 0.0)]
    # e falls as 1 / s^2 here, so that e + penalty e_0 s is least at s = 2 / penalty
    assert spreads[0] < 2.5 / 0.1
    assert spreads[1] < 2.5 / 0.01
    assert spreads[2] > 4 * spreads[0]  # and no end
    assert relative(w, cp_full(cp(w, 2))) < 0.01
    assert relative(w, cp_full(cp(w, 3))) < EXACT
    t = rng.standard_normal((20, 20, 9))
    ours, loose = cp(t, 60), cp(t, 60, penalty=0.0)
    assert spread(t, ours) < 0.5 * spread(t, loose)
    assert relative(t, cp_full(ours)) < 1.05 * relative(t, cp_full(loose))


def test_a_fit_goes_on_from_another_rank(rng):
    t = sum_of_terms(rng, (16, 12, 9), 30) + 0.1 * rng.standard_normal((16, 12, 9))
    few, many = cp(t, 12), cp(t, 24)
    alone = relative(t, cp_full(cp(t, 18)))
    for start in (few, many):
        begun = cp(t, 18, sweeps=0, start=start)
        assert relative(t, cp_full(begun)) < 1.0
        assert relative(t, cp_full(cp(t, 18, start=start))) < 1.05 * alone
    # more terms never make it worse, and no sweeps at the same rank change nothing
    assert relative(t, cp_full(cp(t, 18, sweeps=0, start=few))) < relative(t, cp_full(few))
    for one, other in zip(cp(t, 12, sweeps=0, start=few), few, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    rank=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_the_form_of_the_factors(shape, rank, seed):
    t = np.random.default_rng(seed).standard_normal(shape)
    factors = cp(t, rank, sweeps=20)
    norms = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), atol=1e-12)
    assert (np.diff(norms[0]) <= 1e-12).all()
    for factor in factors[:-1]:
        assert (np.take_along_axis(factor, np.abs(factor).argmax(0)[None], 0) >= 0).all()
    # never worse than nothing, and equal input gives equal bytes
    assert relative(t, cp_full(factors)) <= 1 + 1e-12
    np.testing.assert_array_equal(cp(t.copy(), rank, sweeps=20)[0], factors[0])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_scale_does_not_matter(rng, scale):
    t = rng.standard_normal((8, 6, 4))
    factors, scaled = cp(t, 5), cp(t * scale, 5)
    np.testing.assert_allclose(cp_full(scaled) / scale, cp_full(factors), atol=1e-9)
    again = cp(t * scale, 5, sweeps=0, start=scaled)
    np.testing.assert_allclose(cp_full(again) / scale, cp_full(factors), atol=1e-9)


def test_zeros_give_zeros():
    assert not any(factor.any() for factor in cp(np.zeros((3, 4, 2)), 2))
    t = np.zeros((3, 4, 2))
    t[1, 2, 0] = 5.0
    factors = cp(t, 3)
    np.testing.assert_allclose(cp_full(factors), t, atol=1e-12)
    start = [np.zeros((side, 2)) for side in t.shape]
    np.testing.assert_allclose(cp_full(cp(t, 3, start=start)), t, atol=1e-9)


def test_bad_input_is_named(rng):
    t = rng.standard_normal((4, 3, 2))
    for arguments in ({"rank": 0}, {"tol": -1.0}, {"penalty": np.nan}, {"sweeps": -1}):
        with pytest.raises(ValueError, match="expected a rank of 1 or more"):
            cp(t, **({"rank": 2} | arguments))
    with pytest.raises(ValueError, match="NaN"):
        cp(np.full((2, 2, 2), np.nan), 1)
    with pytest.raises(ValueError, match="found a start of"):
        cp(t, 2, start=[np.ones((4, 2)), np.ones((3, 2))])
    with pytest.raises(ValueError, match="found a start of"):
        cp(t, 2, start=[np.ones((4, 2)), np.ones((3, 1)), np.ones((2, 2))])
    with pytest.raises(ValueError, match="NaN or infinity in the start"):
        cp(t, 2, start=[np.ones((4, 2)), np.ones((3, 2)), np.full((2, 2), np.inf)])
