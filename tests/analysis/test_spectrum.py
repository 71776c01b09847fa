"""Shares of energy by rank, against numpy's decomposition of what the runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.analysis import spectrum as module
from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.analysis.spectrum import (
    Spectrum,
    as_matrices,
    kept_by_rank,
    kept_by_rank_of_outputs,
    kept_by_rank_of_rows,
    ranks_to_show,
)


def kept(*matrices):
    """By numpy: of the sum of the matrices' energies."""
    energies = np.sum([np.linalg.svd(m.astype(float), compute_uv=False) ** 2 for m in matrices], 0)
    return np.append(0.0, np.cumsum(energies)) / energies.sum()


@pytest.mark.parametrize("shape", [(1, 7, 5), (1, 5, 7), (3, 4, 9), (1, 1, 6)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_plain_shares_are_those_of_the_singular_values(rng, shape, dtype):
    matrices = rng.standard_normal(shape).astype(dtype)
    found = kept_by_rank(matrices)
    assert found is not None
    np.testing.assert_allclose(found, kept(*matrices), atol=1e-12)


@pytest.mark.parametrize(("k", "n", "rows"), [(6, 9, 50), (9, 6, 50), (8, 8, 3000)])
def test_whitened_shares_are_those_of_the_outputs(rng, k, n, rows):
    # far from singular, so that the ridge of a ten-thousandth does not matter
    x = rng.standard_normal((rows * 40, k)) * np.linspace(1, 3, k)
    weight = rng.standard_normal((k, n))
    found = kept_by_rank_of_outputs(weight[None], x.T @ x, len(x))
    wanted = kept(x @ weight)[: min(k, n) + 1]
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_rows_of_an_embedding_count_as_often_as_they_are_read(rng):
    for v, n in ((12, 5), (5, 12)):
        table, counts = rng.standard_normal((v, n)), rng.integers(0, 4, v)
        read = np.repeat(table, counts, axis=0)
        wanted = kept(np.concatenate([read, np.zeros((max(5 - len(read), 0), n))]))
        found = kept_by_rank_of_rows(table, counts)
        assert found is not None
        np.testing.assert_allclose(found, np.append(wanted, np.ones(9))[: len(found)], atol=1e-12)


def test_large_matrices_are_measured_at_their_leading_ranks(rng, monkeypatch):
    monkeypatch.setattr(module, "EXACT_SIDE", 40)
    monkeypatch.setattr(module, "LEADING", 10)
    matrices = rng.standard_normal((2, 60, 50)) * (np.arange(1, 51) ** -1.0)
    found = kept_by_rank(matrices.astype(np.float32))
    assert found is not None
    np.testing.assert_allclose(found, kept(*matrices)[:11], atol=5e-3)
    gram = np.diag(np.linspace(1.0, 2.0, 60)) * 1e5
    outputs = [np.sqrt(gram) @ matrix for matrix in matrices]
    found = kept_by_rank_of_outputs(matrices, gram, 10**6)
    np.testing.assert_allclose(found, kept(*outputs)[:11], atol=5e-3)


def test_weights_that_are_not_finite_or_nothing_have_no_shares(monkeypatch):
    broken = np.full((1, 6, 6), np.nan)
    assert kept_by_rank(broken) is None
    np.testing.assert_array_equal(kept_by_rank(np.zeros((1, 4, 3))), np.ones(4))
    monkeypatch.setattr(module, "EXACT_SIDE", 2)
    monkeypatch.setattr(module, "LEADING", 2)
    assert kept_by_rank(broken) is None
    np.testing.assert_array_equal(kept_by_rank(np.zeros((1, 4, 3))), np.ones(3))


@pytest.mark.parametrize(
    ("body", "shape", "wanted"),
    [
        ("y = MatMul(x, w)", (6, 4), lambda w: w),
        ("y = MatMul(w, x)", (4, 6), lambda w: w.T),
        ("y = Gemm(x, w)", (6, 4), lambda w: w),
        ("y = Gemm<transB=1>(x, w)", (4, 6), lambda w: w.T),
        ("y = Gemm(w, x)", (4, 6), lambda w: w.T),
        ("y = Gemm<transA=1>(w, x)", (6, 4), lambda w: w),
        ("y = Gather(w, i)", (6, 4), lambda w: w),
        ("y = Conv(x, w)", (4, 2, 3), lambda w: w.reshape(4, 6).T),
        ("y = ConvTranspose(x, w)", (6, 2, 2), lambda w: w.reshape(6, 4)),
        ("y = RNN<hidden_size=4>(x, w, r)", (1, 4, 6), lambda w: w[0].T),
    ],
)
def test_weights_stand_as_their_node_applies_them(build, rng, body, shape, wanted):
    weight = rng.standard_normal(shape).astype(np.float32)
    weights = {"w": weight, "r": (1, 4, 4)} if " r)" in body else {"w": weight}
    head = "int64[2] i" if "Gather" in body else "float[?,?] x"
    (use,) = (u for u in weight_uses(build(head, body, **weights)) if u.tensor.name == "w")
    found = as_matrices(use.node, use.index, use.tensor.numpy())
    assert found.shape == (1, 6, 4)
    np.testing.assert_array_equal(found[0], wanted(weight))


def test_ranks_of_a_spectrum():
    kept = np.array([0.0, 0.5, 0.9, 0.99, 1.0])
    full = Spectrum("w", "MatMul", (4, 9), 1, 144, kept)
    assert [full.rank(share) for share in (0.5, 0.9, 0.95, 0.999, 1.0)] == [1, 2, 3, 4, 4]
    assert full.break_even == 2
    assert full.rank(0.9, whitened=True) is None
    part = Spectrum("w", "MatMul", (40, 90), 1, 144, kept * 0.98)
    assert (part.rank(0.9), part.rank(0.99)) == (3, None)
    rounded = Spectrum("w", "MatMul", (4, 9), 1, 144, kept * (1 - 1e-15))
    assert rounded.rank(1.0) == 4


def test_a_spectrum_as_plain_values():
    table = Spectrum("w", "MatMul", (300, 200), 1, 240_000, np.linspace(0, 1, 201)).to_dict()
    assert len(table["ranks"]) == len(table["plain"]) <= 64
    assert table["whitened"] == []
    assert table["break_even"] == 119
    assert 119 in table["ranks"]
    assert (table["rank90"], table["whitened_rank90"]) == (180, None)
    broken = Spectrum("w", "MatMul", (300, 200), 1, 240_000, None, note="the weight has NaN")
    assert broken.to_dict()["plain"] == []


@given(st.integers(0, 5000), st.integers(8, 128), st.lists(st.integers(-3, 6000), max_size=3))
@settings(max_examples=200, deadline=None)
def test_ranks_to_show_are_few_and_hold_what_they_must(known, most, also):
    ranks = ranks_to_show(known, tuple(also), most)
    assert ranks == sorted(set(ranks))
    assert len(ranks) <= most
    assert {0, known} <= set(ranks)
    assert all(rank in ranks for rank in also if 0 <= rank <= known)
    assert max(ranks) == known
