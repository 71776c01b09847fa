"""Formats of blocks, sizes and rounding on a given grid, against loops over entries."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant import (
    BlockFormat,
    Blocks,
    pack,
    pack_zeros,
    restore,
    round_nearest,
    round_to,
    stored_bytes,
)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"bits": 1}, "1 bits"),
        ({"bits": 9}, "9 bits"),
        ({"group": 8}, "groups of 8"),
        ({"group": 48}, "groups of 48"),
        ({"group": 512}, "groups of 512"),
        ({"scale_type": np.float64}, "float64"),
    ],
)
def test_formats_out_of_range_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        BlockFormat(**wrong)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("k", "group"), [(40, 16), (16, 16), (7, 0), (33, 32)])
def test_rounding_and_restoring_by_entry(bits, symmetric, k, group, rng):
    form = BlockFormat(bits, group, symmetric)
    w = rng.standard_normal((3, k))
    scales = form.stored(rng.uniform(0.05, 0.5, (3, form.count(k))))
    zeros = None if symmetric else rng.integers(0, 2**bits, scales.shape, dtype=np.uint8)
    blocks = round_to(w, scales, zeros, form)
    back = restore(blocks)
    for (row, column), entry in np.ndenumerate(w):
        block = column // (group or k)
        scale = scales[row, block]
        zero = 2 ** (bits - 1) if zeros is None else int(zeros[row, block])
        grid = (np.arange(2**bits) - zero) * scale
        assert back[row, column] == grid[blocks.values[row, column]]
        assert abs(back[row, column] - entry) <= np.abs(grid - entry).min() + 1e-12
    np.testing.assert_array_equal(restore(blocks, np.float32), back.astype(np.float32))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("k", "group"), [(40, 16), (16, 16), (7, 0), (100, 32)])
def test_sizes_are_those_of_the_packed_arrays(bits, symmetric, k, group, rng):
    form = BlockFormat(bits, group, symmetric)
    blocks = round_nearest(rng.standard_normal((3, k)), form)
    size = pack(blocks.values, form, blocks.zeros).nbytes + blocks.scales.astype(np.float16).nbytes
    if blocks.zeros is not None:
        size += pack_zeros(blocks.zeros, bits).nbytes
    assert stored_bytes(3, k, form) == size


def test_scales_as_they_are_stored():
    form = BlockFormat()
    least = 2.0**-24
    given = np.array([0.0, 1e-30, -1e-30, 0.1, 65504.0])
    wanted = [1.0, least, -least, float(np.float16(0.1)), 65504.0]
    assert form.stored(given).tolist() == wanted
    assert BlockFormat(scale_type=np.float32).stored(np.array([70000.0])).tolist() == [70000.0]


@pytest.mark.parametrize("bad", [65536.0, np.inf, np.nan])
def test_scales_that_overflow_are_refused(bad):
    with pytest.raises(ValueError, match="overflow float16; float32 holds"):
        BlockFormat().stored(np.array([bad]))


def test_parts_change_nothing(monkeypatch, rng):
    blocks = round_nearest(rng.standard_normal((7, 40)), BlockFormat(4, 16, symmetric=False))
    whole = restore(blocks)
    monkeypatch.setattr("onnxslim_rx.quant.blocks._PART", 50)
    np.testing.assert_array_equal(restore(blocks), whole)
    assert isinstance(blocks, Blocks)
