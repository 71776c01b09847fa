"""INT8 with one scale for each row, against rounding to nearest and weights made on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import Quantized, dequantize, quantize_symmetric, round_channels

Array = npt.NDArray[Any]


def activations(rng: np.random.Generator, rows: int, k: int) -> Array:
    return rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) * rng.uniform(0.1, 2, k))


def row_errors(weight: Array, found: Quantized, x: Array | None) -> Array:
    """Squared errors of the outputs of each row, by the outputs themselves."""
    lost = weight.astype(np.float64) - found.values.astype(np.float64) * found.scales
    return np.asarray(np.square(lost if x is None else lost @ x.T).sum(axis=1))


@given(
    bits=st.integers(2, 8),
    measured=st.booleans(),
    scale_type=st.sampled_from([np.float16, np.float32]),
    rows=st.integers(1, 5),
    k=st.integers(1, 150),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_row_is_worse_than_to_nearest_and_integers_fit(
    bits: int, measured: bool, scale_type: type[np.floating[Any]], rows: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, k)) * rng.choice([0, 1e-3, 1, 100], (rows, 1))
    x = activations(rng, k + 3, k) * rng.choice([0, 1], k) if measured else None
    gram = None if x is None else x.T @ x
    found = round_channels(w, gram, bits=bits, scale_type=scale_type, rows=k + 3)
    assert found.values.dtype == np.int8
    assert found.values.min() >= -(2 ** (bits - 1))
    assert found.values.max() < 2 ** (bits - 1)
    assert found.scales.shape == (rows, 1)
    assert (found.scales > 0).all()
    assert (found.scales == found.scales.astype(scale_type)).all()
    nearest = row_errors(w, quantize_symmetric(w, (0,), bits, scale_type), x)
    noise = 1e-9 * np.square(w if x is None else w @ x.T).sum(axis=1)
    assert (row_errors(w, found, x) <= nearest * (1 + 1e-9) + noise).all()
    assert not dequantize(found)[~w.any(axis=1)].any()


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("k", [9, 128, 129, 700])
def test_what_lies_on_a_grid_comes_back_exactly(
    measured: bool, k: int, rng: np.random.Generator
) -> None:
    """Weights of a model that was quantized before: with one scale for all rows, say."""
    peaks = rng.integers(64, 128, (11, 1))
    integers = np.clip(np.rint(rng.standard_normal((11, k)) * 30), -peaks, peaks)
    integers[:, k // 2] = peaks[:, 0]
    w = (integers * 0.0123).astype(np.float32)
    x = activations(rng, k, k)
    found = round_channels(w, x.T @ x if measured else None, rows=k)
    np.testing.assert_array_equal(found.values, integers)
    np.testing.assert_allclose(dequantize(found), w, rtol=1e-5)
    lost = np.linalg.norm(dequantize(quantize_symmetric(w, (0,))) - w)
    assert np.linalg.norm(dequantize(found) - w) < 1e-3 * lost


def test_short_rows_have_grids_that_their_entries_fall_on(rng: np.random.Generator) -> None:
    w = rng.standard_normal((300, 9))
    lost = np.sqrt(row_errors(w, round_channels(w), None).sum())
    nearest = np.sqrt(row_errors(w, quantize_symmetric(w, (0,)), None).sum())
    assert lost < 0.75 * nearest


@pytest.mark.parametrize("bits", [5, 7, 8])
def test_outputs_on_other_inputs_change_less(bits: int, rng: np.random.Generator) -> None:
    k = 96
    mixed = rng.standard_normal((k, k)) * rng.uniform(0.1, 2, k)
    x, other = rng.standard_normal((2, 600, k)) @ mixed
    w = rng.standard_normal((40, k))
    found = round_channels(w, x.T @ x, bits=bits, rows=len(x))
    plain = quantize_symmetric(w, (0,), bits)
    assert row_errors(w, found, other).sum() < 0.65 * row_errors(w, plain, other).sum()


def test_zeros_stay_zeros(rng: np.random.Generator) -> None:
    found = round_channels(np.zeros((3, 5), np.float32), np.eye(5))
    assert not found.values.any()
    assert (found.scales == 1).all()


@pytest.mark.parametrize(
    ("weight", "options", "why"),
    [
        (np.zeros((0, 4)), {}, "empty"),
        (np.full((2, 4), np.nan), {}, "NaN"),
        (np.ones((2, 4)), {"bits": 9}, "9 bits"),
        (np.ones((2, 4)), {"gram": np.eye(5)}, "Gram"),
        (np.ones((2, 4)), {"gram": np.eye(4), "rows": 0}, "0 rows"),
        (np.ones(4), {}, "matrix"),
    ],
)
def test_refused(weight: Array, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        round_channels(weight, **options)
