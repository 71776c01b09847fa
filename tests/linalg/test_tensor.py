"""Unfoldings and products along modes against numpy's index notation and tensorly."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import fold, mode_product, mode_products, unfold
from onnxslim_rx.linalg.tensor import check_tensor


@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple), data=st.data())
def test_a_fold_undoes_an_unfold(shape, data):
    mode = data.draw(st.integers(0, len(shape) - 1))
    t = np.random.default_rng(0).standard_normal(shape)
    unfolded = unfold(t, mode)
    np.testing.assert_array_equal(unfolded, tensorly.unfold(t, mode))
    np.testing.assert_array_equal(fold(unfolded, mode, shape), t)


def test_products_along_modes(rng):
    t = rng.standard_normal((3, 5, 4, 2))
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((1, 2))
    np.testing.assert_allclose(mode_product(t, a, 1), np.einsum("icjk,mc->imjk", t, a))
    both = mode_products(t, {1: a, 3: b})
    np.testing.assert_allclose(both, np.einsum("icjk,mc,nk->imjn", t, a, b))
    np.testing.assert_allclose(mode_products(t, {1: a.T, 3: b.T}, transposed=True), both)


def test_bad_tensors_and_modes_are_named(rng):
    t = rng.standard_normal((3, 4))
    with pytest.raises(ValueError, match="found mode 2; expected 0 to 1"):
        unfold(t, 2)
    with pytest.raises(ValueError, match="found mode -1"):
        mode_product(t, t, -1)
    with pytest.raises(ValueError, match=r"found a matrix of \(3, 4\) for mode 0"):
        mode_product(t, t, 0)
    with pytest.raises(ValueError, match=r"found a matrix of \(3, 4\) for mode 1"):
        fold(t, 1, (3, 4))
    with pytest.raises(ValueError, match="expected a tensor"):
        check_tensor(np.ones(3))
    with pytest.raises(ValueError, match="expected a tensor"):
        check_tensor(np.ones((3, 0)))
    with pytest.raises(ValueError, match="NaN"):
        check_tensor(np.array([[1.0, np.nan]]))
