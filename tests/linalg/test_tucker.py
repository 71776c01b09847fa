"""Tucker decompositions against tensorly, numpy, and tensors of known rank."""

from __future__ import annotations

import numpy as np
import pytest
from tensorly.decomposition import partial_tucker

from onnxslim_rx.linalg import (
    hosvd_energies,
    mode_ranks,
    tucker,
    tucker_error_table,
    tucker_full,
    unfold,
)

SHAPES = [(24, 16, 9), (13, 7, 5), (5, 40, 3, 3), (1, 6, 9), (8, 2, 1)]


def relative(t, found):
    return np.linalg.norm(t - found) / np.linalg.norm(t)


def low_rank(rng, shape, ranks):
    """A tensor of exact ranks along the first modes."""
    core = rng.standard_normal((*ranks, *shape[len(ranks) :]))
    return tucker_full(core, {m: rng.standard_normal((shape[m], r)) for m, r in enumerate(ranks)})


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_exact_and_bases_are_orthonormal(rng, shape):
    t = rng.standard_normal(shape)
    core, bases = tucker(t, dict(enumerate(shape)))
    assert core.shape == shape
    for basis in bases.values():
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    assert relative(t, tucker_full(core, bases)) < 1e-14


@pytest.mark.parametrize(("shape", "ranks"), [((24, 16, 9), (5, 3)), ((13, 7, 5), (4, 7))])
def test_a_known_rank_is_recovered(rng, shape, ranks):
    t = low_rank(rng, shape, ranks)
    core, bases = tucker(t, dict(enumerate(ranks)))
    assert relative(t, tucker_full(core, bases)) < 1e-13
    noisy = t + 1e-6 * np.linalg.norm(t) / np.sqrt(t.size) * rng.standard_normal(shape)
    assert relative(noisy, tucker_full(*tucker(noisy, dict(enumerate(ranks))))) < 1e-6


@pytest.mark.filterwarnings("ignore:Trying to compute SVD")
@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_error_is_at_most_that_of_tensorly(rng, shape, share):
    t = rng.standard_normal(shape) * np.linspace(1, 0.1, shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    ranks = [max(int(share * side), 1) for side in shape[:2]]
    ours = relative(t, tucker_full(*tucker(t, dict(enumerate(ranks)))))
    (core, factors), _ = partial_tucker(t, rank=ranks, modes=[0, 1], tol=1e-4)
    theirs = relative(t, tucker_full(core, dict(enumerate(factors))))
    # both stop at a stall; what is left is below a thousandth
    assert ours <= theirs * (1 + 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_is_the_error_of_the_truncated_hosvd(rng, shape):
    t = rng.standard_normal(shape)
    table = tucker_error_table(t, (1, 0))
    assert table.shape == (shape[1] + 1, shape[0] + 1)
    for i in {1, (shape[1] + 1) // 2, shape[1]}:
        for j in {1, (shape[0] + 1) // 2, shape[0]}:
            hosvd = tucker_full(*tucker(t, {1: i, 0: j}, sweeps=0))
            assert table[i, j] == pytest.approx(relative(t, hosvd), abs=1e-7)
            assert relative(t, tucker_full(*tucker(t, {1: i, 0: j}))) <= table[i, j] + 1e-13
    np.testing.assert_allclose([table[0, 0], table[-1, 0], table[0, -1]], 1.0, rtol=1e-12)
    assert table[-1, -1] == 0.0
    assert (np.diff(table, axis=0) <= 0).all()
    assert (np.diff(table, axis=1) <= 0).all()


def test_energies_are_those_of_the_unfoldings(rng):
    t = rng.standard_normal((6, 3, 1))
    energies = hosvd_energies(t, [0, 1])
    for mode in (0, 1):
        values = np.linalg.svd(unfold(t, mode), compute_uv=False) ** 2
        padded = np.append(values, np.zeros(t.shape[mode] - len(values)))
        np.testing.assert_allclose(energies[mode], padded / np.sum(t**2), atol=1e-14)


@pytest.mark.parametrize("rule", ["evbmf", "mdl"])
def test_ranks_of_modes_stand_out_of_noise(rng, rule):
    t = low_rank(rng, (60, 40, 9), (6, 4))
    noisy = t + 0.05 * rng.standard_normal(t.shape)
    assert mode_ranks(noisy, (0, 1), rule=rule) == {0: 6, 1: 4}
    assert mode_ranks(np.zeros((4, 3, 2)), (0, 2), rule=rule) == {0: 1, 2: 1}


@pytest.mark.parametrize("scale", [1e-180, 1e180])
def test_the_scale_does_not_matter(rng, scale):
    t = rng.standard_normal((9, 6, 4))
    core, bases = tucker(t, {0: 4, 1: 3})
    scaled, same = tucker(t * scale, {0: 4, 1: 3})
    np.testing.assert_allclose(scaled / scale, core, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(same[0], bases[0], atol=1e-12)
    table = tucker_error_table(t * scale, (0, 1))
    np.testing.assert_allclose(table, tucker_error_table(t, (0, 1)), atol=1e-12)
    shares = hosvd_energies(t * scale, [0])[0]
    np.testing.assert_allclose(shares, hosvd_energies(t, [0])[0], atol=1e-12)


def test_zeros_and_signs(rng):
    t = np.zeros((4, 3, 2))
    assert not tucker_full(*tucker(t, {0: 2, 1: 2})).any()
    assert not tucker_error_table(t, (0, 1)).any()
    assert not hosvd_energies(t, [2])[2].any()
    t = rng.standard_normal((8, 7, 3))
    for basis in tucker(t, {0: 3, 1: 3})[1].values():
        assert (np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0) > 0).all()
    for one, other in zip(tucker(t, {0: 3}), tucker(t.copy(), {0: 3}), strict=True):
        np.testing.assert_equal(one, other)


def test_bad_input_is_named(rng):
    t = rng.standard_normal((4, 3, 2))
    with pytest.raises(ValueError, match="found rank 5 for mode 0; expected 1 to 4"):
        tucker(t, {0: 5})
    with pytest.raises(ValueError, match="found rank 0 for mode 2"):
        tucker(t, {2: 0})
    with pytest.raises(ValueError, match="found mode 3"):
        tucker(t, {3: 1})
    with pytest.raises(ValueError, match="expected two different ones"):
        tucker_error_table(t, (1, 1))
    with pytest.raises(ValueError, match="found the rule 'aic'"):
        mode_ranks(t, [0], rule="aic")
    with pytest.raises(ValueError, match="NaN"):
        tucker(np.full((2, 2, 2), np.inf), {0: 1})
