"""Chains whose first factor reads the inputs, fitted: against least squares by LAPACK."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnxslim_rx.linalg import (
    network_product,
    reduced_rank_regression,
    ridge_regression,
    row_network_regression,
)

Matrix = npt.NDArray[np.float64]

SPECS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "tucker": ("kr,rs,sn->kn", ((20, 4), (4, 3), (3, 12))),
    "train": ("kr,ris,sj->kij", ((20, 4), (4, 3, 2), (2, 4))),
    "cp": ("kr,ir,rj->kij", ((20, 5), (3, 5), (5, 4))),
    "wide": ("kr,ris,sj->kij", ((7, 4), (4, 3, 2), (2, 4))),
}


def problem(name: str, rng: np.random.Generator) -> tuple[str, list[Matrix], Matrix, Matrix]:
    """The chain, a start, inputs of one size in each direction, and outputs (rows, N)."""
    spec, shapes = SPECS[name]
    factors = [rng.standard_normal(shape) for shape in shapes]
    x = rng.standard_normal((500, shapes[0][0])) * np.logspace(0, -1, shapes[0][0])
    y = x @ rng.standard_normal((shapes[0][0], 12)) + 0.1 * rng.standard_normal((500, 12))
    return spec, factors, x, y


def lost(spec: str, factors: list[Matrix], x: Matrix, y: Matrix) -> float:
    return float(np.linalg.norm(x @ network_product(spec, factors).reshape(x.shape[1], -1) - y))


@pytest.mark.parametrize("name", SPECS)
def test_the_fit_is_a_minimum_in_each_factor(name, rng):
    spec, start, x, y = problem(name, rng)
    near = ridge_regression(x.T @ x, x.T @ y, np.zeros((x.shape[1], 12)))
    near = near.reshape(network_product(spec, start).shape)
    found = row_network_regression(spec, start, x.T @ x, x.T @ y, near, sweeps=200)
    assert [f.shape for f in found] == [f.shape for f in start]
    error = lost(spec, found, x, y)
    assert error < 0.9 * lost(spec, start, x, y)
    for place in range(len(found)):

        def images(factor: Matrix, place: int = place) -> Matrix:
            own = [*found[:place], factor, *found[place + 1 :]]
            return (x @ network_product(spec, own).reshape(x.shape[1], -1)).ravel()

        shape = found[place].shape
        units = np.eye(found[place].size).reshape(-1, *shape)
        columns = np.stack([images(unit) for unit in units], axis=1)
        best = np.linalg.lstsq(columns, y.ravel(), rcond=None)[0]
        least = float(np.linalg.norm(columns @ best - y.ravel()))
        assert error <= 1.01 * least, place


def test_two_factors_are_reduced_rank_regression(rng):
    x, y = rng.standard_normal((300, 15)), rng.standard_normal((300, 9))
    gram, cross, near = x.T @ x, x.T @ y, rng.standard_normal((15, 9))
    start = [rng.standard_normal((15, 3)), rng.standard_normal((3, 9))]
    found = row_network_regression("kr,rn->kn", start, gram, cross, near, rows=300, sweeps=500)
    p, q = reduced_rank_regression(gram, cross, near, 3, rows=300)
    assert np.linalg.norm(x @ found[0] @ found[1] - y) == pytest.approx(
        np.linalg.norm(x @ p @ q - y), rel=1e-3
    )
    np.testing.assert_allclose(
        np.linalg.norm(found[0], axis=0), np.linalg.norm(found[1], axis=1), rtol=1e-9
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scales_do_not_matter(scale, rng):
    spec, start, x, y = problem("train", rng)
    near = np.zeros((20, 3, 4))
    small = row_network_regression(spec, start, x.T @ x, x.T @ y, near, rows=500)
    large = row_network_regression(
        spec, [start[0] * scale, *start[1:]], x.T @ x, x.T @ y * scale, near, rows=500
    )
    np.testing.assert_allclose(
        network_product(spec, large) / scale, network_product(spec, small), atol=1e-6
    )


def test_components_that_are_zero_stay_finite(rng):
    spec, start, x, y = problem("cp", rng)
    start[1][:, 2] = 0.0
    start[0][:, 2] = 0.0
    found = row_network_regression(spec, start, x.T @ x, x.T @ y, np.zeros((20, 3, 4)))
    assert all(np.isfinite(factor).all() for factor in found)
