"""Test matrices against their definition, made dense."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg.sketch import GaussianSketch, HadamardSketch


def dense(rows, columns, seed):
    """sqrt(m / l) D H S, its rows beyond the padding left out."""
    rng = np.random.default_rng(seed)
    order = 1 << max(rows - 1, 0).bit_length()
    signs = 2.0 * rng.integers(0, 2, rows) - 1
    chosen = np.sort(rng.choice(order, min(columns, order), replace=False))
    return signs[:, None] * scipy.linalg.hadamard(order)[:rows, chosen] / np.sqrt(len(chosen))


@given(rows=st.integers(1, 700), columns=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))
def test_the_fast_transform_is_the_dense_matrix(rows, columns, seed):
    a = np.random.default_rng(seed).standard_normal((3, rows))
    sketch = HadamardSketch(rows, columns, np.random.default_rng(seed))
    expected = dense(rows, columns, seed)
    assert sketch.columns == expected.shape[1]
    np.testing.assert_allclose(sketch.apply(a), a @ expected, atol=1e-11)
    single = sketch.apply(a.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, a @ expected, atol=1e-3)


def test_chunks_of_rows_fit_together(monkeypatch, rng):
    a = rng.standard_normal((37, 300))
    sketch = HadamardSketch(300, 20, np.random.default_rng(0))
    whole = sketch.apply(a)
    monkeypatch.setattr("onnxslim_rx.linalg.sketch._CHUNK", 1 << 14)
    np.testing.assert_allclose(sketch.apply(a), whole, atol=1e-12)


def test_lengths_are_kept_on_average():
    """All columns of H: an isometry up to the scale sqrt(m / l) = 1."""
    sketch = HadamardSketch(64, 64, np.random.default_rng(0))
    np.testing.assert_allclose(sketch.apply(np.eye(64)) @ sketch.apply(np.eye(64)).T, np.eye(64))


def test_memory_is_far_below_that_of_a_dense_matrix():
    rows, columns = 11008, 522
    srht = HadamardSketch(rows, columns, np.random.default_rng(0))
    table = srht._inner(np.float64).nbytes  # made for the time of a product
    gaussian = GaussianSketch(rows, columns, np.random.default_rng(0))
    assert gaussian.nbytes == rows * columns * 8
    assert (srht.nbytes + table) * 40 <= gaussian.nbytes


@pytest.mark.parametrize("kind", [GaussianSketch, HadamardSketch])
def test_the_seed_decides(kind, rng):
    a = rng.standard_normal((4, 50))
    one, same, other = (kind(50, 8, np.random.default_rng(seed)).apply(a) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
