"""Error estimates against the error itself."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.linalg import svd
from onnxslim_rx.linalg.estimate import estimate_error


def test_the_estimate_has_no_bias_and_the_stated_spread(rng):
    a = rng.standard_normal((30, 40))
    p, q = svd(a, 5).factors()
    true = np.linalg.norm(a - p @ q)
    squares = [estimate_error(a, p, q, vectors=8, seed=s).frobenius ** 2 for s in range(400)]
    assert np.mean(squares) == pytest.approx(true**2, rel=0.03)
    assert np.std(squares) <= np.sqrt(2 / 8) * true**2


def test_the_bound_holds(rng):
    """With one vector it fails once in ten times at most; with four, never in 300."""
    a = np.outer(rng.standard_normal(20), rng.standard_normal(25))  # the worst case: rank one
    p, q = np.zeros((20, 1)), np.zeros((1, 25))
    true = np.linalg.norm(a, 2)

    def failures(vectors):
        found = (estimate_error(a, p, q, vectors=vectors, seed=s) for s in range(300))
        return sum(estimate.spectral_bound < true for estimate in found)

    assert 5 <= failures(1) <= 45
    assert failures(4) == 0


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_scales_that_squares_do_not_survive(scale, rng):
    a = rng.standard_normal((10, 12))
    p, q = svd(a, 2).factors()
    small, plain = estimate_error(a * scale, p * scale, q), estimate_error(a, p, q)
    assert small.frobenius == pytest.approx(plain.frobenius * scale, rel=1e-9)


def test_bad_arguments_are_refused():
    a = np.ones((3, 4))
    with pytest.raises(ValueError, match="factors of shapes"):
        estimate_error(a, np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="0 vectors"):
        estimate_error(a, np.ones((3, 2)), np.ones((2, 4)), vectors=0)
    with pytest.raises(ValueError, match="NaN"):
        estimate_error(a * np.nan, np.ones((3, 2)), np.ones((2, 4)))
