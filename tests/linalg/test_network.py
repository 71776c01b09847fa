"""Chains of factors under the activations: against closed forms and direct solutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.linalg import mismatch_energy, reduced_rank_regression, whitened_error_curve
from onnxslim_rx.linalg.moments import ridge
from onnxslim_rx.linalg.network import fit_network, network_product, network_regression

TUCKER, CP, SPATIAL = "mr,rsx,sc->mcx", "mr,cr,xr->mcx", "mry,rcx->mcxy"


def gram_of(rng, sides, rows):
    """Correlated patches of (*sides) and their Gram matrix."""
    k = int(np.prod(sides))
    x = rng.standard_normal((rows, k)) @ (np.eye(k) + 0.05 * rng.standard_normal((k, k)))
    return x, x.T @ x


def start(rng, spec, sizes):
    return [rng.standard_normal([sizes[i] for i in one]) for one in spec.split("->")[0].split(",")]


def energy_of(weight, product, gram):
    change = (weight - product).reshape(len(weight), -1)
    return float(np.vdot(change, change @ gram))


def test_two_factors_reach_the_best_of_their_rank(rng):
    _, gram = gram_of(rng, (6, 3), 4000)
    weight = rng.standard_normal((9, 6, 3))
    factors = start(rng, "mr,rcx->mcx", {"m": 9, "r": 4, "c": 6, "x": 3})
    found = fit_network("mr,rcx->mcx", factors, weight, gram, sweeps=200)
    product = network_product("mr,rcx->mcx", found)
    ridged = gram + np.eye(18) * ridge(gram, None)
    best = whitened_error_curve(weight.reshape(9, -1).T, gram)[4]
    error = np.sqrt(energy_of(weight, product, ridged) / energy_of(weight, 0 * weight, ridged))
    assert error == pytest.approx(best, rel=1e-2)
    assert error >= best * (1 - 1e-9)


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (TUCKER, {"m": 8, "r": 3, "s": 4, "c": 6, "x": 9}),
        (CP, {"m": 8, "r": 5, "c": 6, "x": 9}),
        (SPATIAL, {"m": 8, "r": 4, "c": 6, "x": 3, "y": 3}),
        ("mrx,rc->mcx", {"m": 8, "r": 3, "c": 6, "x": 9}),
        ("mr,cr,xr,yr->mcxy", {"m": 8, "r": 5, "c": 6, "x": 3, "y": 3}),
        ("gmr,grcx->gmcx", None),
    ],
)
def test_a_kernel_of_that_structure_is_found_again_from_nearby(spec, sizes, rng):
    if sizes is None:  # the filters must come first
        with pytest.raises(ValueError, match="found factors"):
            fit_network(
                spec, [np.ones((1, 2, 1)), np.ones((1, 1, 2, 2))], np.ones((2, 2, 2)), np.eye(4)
            )
        return
    true = start(rng, spec, sizes)
    weight = network_product(spec, true)
    _, gram = gram_of(rng, weight.shape[1:], 500)
    near = [one + 0.1 * rng.standard_normal(one.shape) for one in true]
    before = energy_of(weight, network_product(spec, near), gram)
    found = fit_network(spec, near, weight, gram, sweeps=60)
    after = energy_of(weight, network_product(spec, found), gram)
    assert after < 1e-2 * before  # sweeps end where they gain 0.2%
    assert [one.shape for one in found] == [one.shape for one in true]


def test_one_factor_is_solved_exactly(rng):
    """A chain with one free factor is a linear equation that numpy solves directly."""
    _, gram = gram_of(rng, (5,), 300)
    weight = rng.standard_normal((7, 5))
    basis = rng.standard_normal((2, 5))
    ridged = gram / np.abs(gram).max()
    ridged = ridged + np.eye(5) * ridge(ridged, 300)
    best = weight @ ridged @ basis.T @ np.linalg.inv(basis @ ridged @ basis.T)
    found = fit_network("mr,rc->mc", [np.zeros((7, 2)), basis], weight, gram, rows=300, sweeps=1)
    assert found[0] == pytest.approx(best, rel=1e-2, abs=1e-2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([1e-9, 1.0, 1e9]))
def test_no_sweep_makes_it_worse(seed, rank, scale):
    rng = np.random.default_rng(seed)
    weight = scale * rng.standard_normal((5, 4, 3))
    _, gram = gram_of(rng, (4, 3), int(rng.integers(1, 40)))
    factors = start(rng, CP, {"m": 5, "r": rank, "c": 4, "x": 3})
    ridged = gram + np.eye(12) * ridge(gram, 5)
    energies = [
        energy_of(
            weight,
            network_product(CP, fit_network(CP, factors, weight, gram, rows=5, sweeps=sweeps)),
            ridged,
        )
        for sweeps in (0, 1, 3)
    ]
    assert energies[1] <= energies[0] * (1 + 1e-9)
    assert energies[2] <= energies[1] * (1 + 1e-9)


def test_a_regression_comes_close_to_the_closed_form(rng):
    x, gram = gram_of(rng, (6, 3), 900)
    wanted = x @ rng.standard_normal((18, 7)) + 0.1 * rng.standard_normal((900, 7))
    cross, near = x.T @ wanted, 0.1 * rng.standard_normal((18, 7))
    p, q = reduced_rank_regression(gram, cross, near, 3, rows=900)
    factors = start(rng, "mr,rcx->mcx", {"m": 7, "r": 3, "c": 6, "x": 3})
    kernel = near.T.reshape(7, 6, 3)
    found = network_regression("mr,rcx->mcx", factors, gram, cross, kernel, rows=900, sweeps=300)
    product = network_product("mr,rcx->mcx", found).reshape(7, -1).T
    total = float(np.vdot(wanted, wanted))
    best = mismatch_energy(p @ q, gram, cross, total)
    assert mismatch_energy(product, gram, cross, total) == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize(
    ("weight", "gram"),
    [
        (np.ones((3, 4)), np.eye(3)),
        (np.ones((3, 4)), np.full((4, 4), np.nan)),
        (np.full((3, 4), np.inf), np.eye(4)),
        (np.ones((2, 4)), np.eye(4)),
    ],
)
def test_what_does_not_fit_is_refused(weight, gram):
    with pytest.raises(ValueError, match="found"):
        fit_network("mr,rc->mc", [np.ones((3, 1)), np.ones((1, 4))], weight, gram)
