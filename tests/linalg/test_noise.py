"""Noise rules on matrices whose rank and noise are known, and against other closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.linalg import evbmf_rank, mdl_rank, noise_variance
from onnxslim_rx.linalg.noise import _least_signal

SHAPES = [(60, 90), (90, 60), (80, 80), (40, 400)]


def noisy(rng, shape, rank, deviation):
    """Singular values of a strong product of some rank plus noise."""
    product = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    a = 3 * product + deviation * rng.standard_normal(shape)
    return np.linalg.svd(a, compute_uv=False)


@pytest.mark.parametrize("rank", [0, 1, 7])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_true_rank_and_noise_are_found(shape, rank, scale, rng):
    values = noisy(rng, shape, rank, 1.0) * scale
    assert evbmf_rank(values, shape) == rank
    assert evbmf_rank(values, shape, variance=scale**2) == rank
    assert mdl_rank(values, shape) == rank
    assert noise_variance(values, shape) == pytest.approx(scale**2, rel=0.1)


def test_weak_components_drown_in_noise(rng):
    """Above the threshold of the model but not below: sigma sqrt(M x)."""
    shape = (100, 150)
    edge = np.sqrt(150 * _least_signal(100 / 150))
    left, right = (np.linalg.qr(rng.standard_normal((side, 1)))[0] for side in shape)
    noise = rng.standard_normal(shape)
    for strength, expected in ((1.3, 1), (0.5, 0)):
        values = np.linalg.svd(strength * edge * left @ right.T + noise, compute_uv=False)
        assert evbmf_rank(values, shape) == expected


def test_the_threshold_has_the_published_values():
    """2.5129 is tabulated for square matrices; above the edge of pure noise for all."""
    assert _least_signal(1.0) == pytest.approx((1 + 2.5129) * (1 + 1 / 2.5129), rel=1e-4)
    for ratio in (1e-4, 0.01, 0.3, 0.7, 1.0):
        assert _least_signal(ratio) > (1 + np.sqrt(ratio)) ** 2
        # the paper's approximation of the root
        root = 2.5129 * np.sqrt(ratio)
        assert _least_signal(ratio) == pytest.approx((1 + root) * (1 + ratio / root), rel=0.03)


def test_the_variance_has_the_least_free_energy(rng):
    """Against a fine grid over the whole range, with the function written anew."""
    shape = (30, 50)
    values = noisy(rng, shape, 4, 0.8)
    ratio = 30 / 50

    def energy(variance):
        x = values**2 / (50 * variance)
        total = np.sum(x - np.log(x))
        for y in x[x > _least_signal(ratio)]:
            t = 0.5 * (y - 1 - ratio + np.sqrt((y - 1 - ratio) ** 2 - 4 * ratio))
            total += np.log(t + 1) + ratio * np.log(t / ratio + 1) - t
        return total

    grid = np.geomspace(0.2, 3.0, 4000)
    best = grid[np.argmin([energy(v) for v in grid])]
    assert noise_variance(values, shape) == pytest.approx(best, rel=2e-3)


def description_lengths(values):
    """By rank, for 12 channels and 40 samples, as Wax and Kailath write it."""
    energies, lengths = values**2 / 40, []
    for r in range(12):
        rest = energies[r:]
        likelihood = np.prod(rest) ** (1 / len(rest)) / rest.mean()
        free = r * (2 * 12 - r + 1) / 2 + 1
        lengths.append(-40 / 2 * len(rest) * np.log(likelihood) + free / 2 * np.log(40))
    return lengths


def test_mdl_is_the_formula(rng):
    values = noisy(rng, (12, 40), 3, 1.0)
    assert mdl_rank(values, (12, 40)) == int(np.argmin(description_lengths(values))) == 3


@pytest.mark.parametrize("seed", range(30))
def test_mdl_is_the_formula_where_ranks_are_close(seed):
    rng = np.random.default_rng(seed)
    decay = np.diag(np.arange(1, 13) ** -0.7)
    values = np.linalg.svd(decay @ rng.standard_normal((12, 40)), compute_uv=False)
    assert mdl_rank(values, (12, 40)) == int(np.argmin(description_lengths(values)))


def test_exact_low_rank_has_no_noise(rng):
    values = noisy(rng, (30, 40), 5, 0.0)
    assert noise_variance(values, (30, 40)) == 0.0
    assert evbmf_rank(values, (30, 40)) == 5
    assert mdl_rank(values, (30, 40)) == 5


def test_small_and_zero_matrices():
    assert evbmf_rank(np.zeros(3), (3, 4)) == 0
    assert mdl_rank(np.zeros(3), (3, 4)) == 0
    assert evbmf_rank(np.ones(1), (1, 1)) == 0
    assert mdl_rank(np.ones(1), (1, 9)) == 0


@pytest.mark.parametrize("rule", [evbmf_rank, mdl_rank, noise_variance])
def test_bad_spectra_are_refused(rule):
    with pytest.raises(ValueError, match="2 singular values"):
        rule(np.array([2.0, 1.0]), (3, 4))
    with pytest.raises(ValueError, match="increase"):
        rule(np.array([1.0, 2.0]), (2, 4))
    with pytest.raises(ValueError, match="found a variance"):
        evbmf_rank(np.ones(2), (2, 4), variance=0.0)
