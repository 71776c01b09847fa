"""Symmetric grids against their bound and against ONNX's DequantizeLinear formula."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import dequantize, quantize_symmetric, relative_error


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    bits=st.integers(2, 8),
    scale_type=st.sampled_from([np.float16, np.float32]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_no_entry_is_off_by_more_than_half_a_step(shape, bits, scale_type, seed, data):
    axes = data.draw(st.sets(st.integers(-len(shape), len(shape) - 1)))
    w = np.random.default_rng(seed).standard_normal(shape) * 10.0 ** (seed % 7 - 3)
    quantized = quantize_symmetric(w, sorted(axes), bits, scale_type)
    assert (quantized.scales == quantized.scales.astype(scale_type)).all()
    assert quantized.values.dtype == np.int8
    assert np.abs(quantized.values).max() <= 2 ** (bits - 1) - 1
    channels = {axis % len(shape) for axis in axes}
    assert quantized.scales.shape == tuple(n if i in channels else 1 for i, n in enumerate(shape))
    # a scale is off by half a unit in its last place, and that at most 127 times
    step = 0.5 * quantized.scales + 127 * np.spacing(quantized.scales.astype(scale_type)) / 2
    assert (np.abs(w - dequantize(quantized)) <= step).all()


def test_the_largest_entry_of_each_channel_uses_the_whole_range():
    w = np.array([[1.0, -2.0], [0.5, 4.0], [-0.25, 8.0]])
    quantized = quantize_symmetric(w, [1])
    np.testing.assert_array_equal(quantized.values[[0, 2], [0, 1]], [127, 127])
    np.testing.assert_allclose(quantized.scales, [[1 / 127, 8 / 127]], rtol=1e-7)


def test_zeros_and_denormals_get_a_scale_that_divides():
    quantized = quantize_symmetric(np.array([[0.0, 0.0], [1e-320, 0.0]]), [0])
    np.testing.assert_array_equal(quantized.scales, [[1.0], [1.0]])
    assert not quantized.values.any()


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="expected 2 to 8"):
        quantize_symmetric(np.ones(3), [0], bits)


@pytest.mark.parametrize("bad", [np.ones((0,)), np.array([np.inf])])
def test_empty_and_not_finite_weights_are_refused(bad):
    with pytest.raises(ValueError, match="empty or not finite"):
        quantize_symmetric(bad, [])


def test_an_axis_out_of_range_is_refused():
    with pytest.raises(ValueError, match="axes"):
        quantize_symmetric(np.ones((2, 2)), [2])


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1), (2,)])
@pytest.mark.parametrize("block", [1, 7, 40])
def test_blocks_change_nothing(axes, block, monkeypatch, rng):
    w = rng.standard_normal((5, 3, 4)).astype(np.float32)
    whole = quantize_symmetric(w, axes)
    error = relative_error(w, whole)
    monkeypatch.setattr("onnxslim_rx.quant.grid._BLOCK", block)
    parts = quantize_symmetric(w, axes)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.scales, whole.scales)
    rounded = whole.values * whole.scales
    np.testing.assert_array_equal(dequantize(parts), rounded)
    np.testing.assert_array_equal(dequantize(parts, np.float32), rounded.astype(np.float32))
    wanted = np.linalg.norm(rounded - w) / np.linalg.norm(w.astype(np.float64))
    assert relative_error(w, parts) == pytest.approx(wanted, rel=1e-12)
    assert error == pytest.approx(wanted, rel=1e-12)


def test_zeros_have_no_error():
    assert relative_error(np.zeros((2, 2)), quantize_symmetric(np.zeros((2, 2)), [0])) == 0.0


def test_a_large_weight_is_not_copied_whole(rng):
    w = np.ones((4096, 1024), np.float32)
    tracemalloc.start()
    quantized = quantize_symmetric(w, [0])
    relative_error(w, quantized)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the integers, and three arrays of 2^20 float64 at once
    assert peak <= w.size + 3 * (1 << 20) * 8 + (1 << 20)
