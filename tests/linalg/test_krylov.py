"""The Krylov basis: orthogonality, its images, and how few directions it needs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.linalg.krylov import KrylovBasis
from onnxslim_rx.linalg.randomized import _grow, randomized_svd
from onnxslim_rx.linalg.sketch import GaussianSketch


def started(a, width, rng):
    basis = KrylovBasis(a, float(np.linalg.norm(a)))
    block = a @ rng.standard_normal((a.shape[1], width)).astype(a.dtype)
    basis.extend(block, float(np.linalg.norm(block, axis=0).max()))
    return basis


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-5)])
def test_directions_stay_orthonormal_and_images_belong_to_them(dtype, tolerance, rng):
    left, right = (np.linalg.qr(rng.standard_normal((side, 80)))[0] for side in (80, 110))
    a = ((left * np.logspace(0, -6, 80)) @ right.T).astype(dtype)
    basis = started(a, 6, rng)
    for _ in range(8):
        basis.step(rng.standard_normal((110, 2)))
    q = basis.directions
    assert q.shape == (80, basis.width)
    np.testing.assert_allclose(q.T @ q, np.eye(basis.width), atol=tolerance)
    np.testing.assert_allclose(basis.images, a.T @ q, atol=tolerance)
    np.testing.assert_allclose(basis.gram, q.T @ a @ a.T @ q, atol=tolerance)
    values = np.linalg.svd(a, compute_uv=False)
    assert basis.leading_energy(3) <= np.sum(values[:3] ** 2) * (1 + tolerance)


def test_a_space_that_is_complete_is_closed_and_can_be_filled(rng):
    a = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 50))
    basis = started(a, 6, rng)
    assert basis.width == 4
    assert not basis.closed
    basis.step(rng.standard_normal((50, 3)))
    assert basis.closed
    assert basis.width == 4
    basis.fill(9, rng)
    np.testing.assert_allclose(basis.directions.T @ basis.directions, np.eye(9), atol=1e-13)
    assert np.abs(basis.images[:, 4:]).max() <= 1e-12 * np.abs(a).max()


def test_powers_are_kept(rng):
    """A decaying spectrum needs little more than twice the rank, not the whole space."""
    left, right = (np.linalg.qr(rng.standard_normal((side, 400)))[0] for side in (400, 450))
    a = (left * np.arange(1, 401) ** -0.5) @ right.T
    basis = started(a, 16, rng)
    assert _grow(basis, 64, float(np.linalg.norm(a) ** 2), 1e-2, rng, least=0.0)
    assert 64 < basis.width <= 3 * 64


def test_tall_matrices_are_the_wide_ones_transposed(rng):
    a = rng.standard_normal((70, 40))
    tall = randomized_svd(a, 8, GaussianSketch, np.random.default_rng(0), 1e-3)
    wide = randomized_svd(a.T, 8, GaussianSketch, np.random.default_rng(0), 1e-3)
    np.testing.assert_allclose(tall[0] * tall[1] @ tall[2], (wide[0] * wide[1] @ wide[2]).T)


def test_rounding_does_not_take_up_what_later_columns_have(rng):
    """Two of three columns lie in the space already; the last brings the one new direction."""
    a = rng.standard_normal((5, 40))
    basis = started(a, 4, rng)
    known = basis.directions @ rng.standard_normal((4, 2))
    basis.extend(np.hstack([known, rng.standard_normal((5, 1))]), 10.0)
    assert basis.width == 5
