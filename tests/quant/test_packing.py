"""Packed integers against a loop over single bits, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import BlockFormat, pack, pack_zeros, unpack, unpack_zeros

FORMATS = [(bits, group) for bits in (2, 4, 8) for group in (0, 16, 32)]


def by_bits(values: list[int], bits: int, size: int) -> list[int]:
    """The same bytes, one bit after the other."""
    stream = [value >> bit & 1 for value in values for bit in range(bits)]
    stream += [0] * (8 * size - len(stream))
    return [sum(bit << i for i, bit in enumerate(stream[8 * n : 8 * n + 8])) for n in range(size)]


@pytest.mark.parametrize(("bits", "group"), FORMATS)
@pytest.mark.parametrize("k", [1, 5, 16, 33, 64])
@pytest.mark.parametrize("zeros", [True, False])
def test_bytes_and_back(bits, group, k, zeros, rng):
    form = BlockFormat(bits, group, symmetric=not zeros)
    width, count = form.width(k), form.count(k)
    values = rng.integers(0, 2**bits, (3, k), dtype=np.uint8)
    points = rng.integers(0, 2**bits, (3, count), dtype=np.uint8) if zeros else None
    packed = pack(values, form, points)
    size = -(-width * bits // 8)
    assert packed.shape == (3, count, size)
    for row in range(3):
        fill = 2 ** (bits - 1) if points is None else int(points[row, -1])
        filled = [*values[row].tolist(), *[fill] * (count * width - k)]
        for block in range(count):
            wanted = by_bits(filled[block * width : (block + 1) * width], bits, size)
            assert packed[row, block].tolist() == wanted
    np.testing.assert_array_equal(unpack(packed, k, form), values)


@given(
    bits=st.sampled_from([2, 4, 8]),
    rows=st.integers(1, 4),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_zero_points_and_back(bits, rows, count, seed):
    zeros = np.random.default_rng(seed).integers(0, 2**bits, (rows, count), dtype=np.uint8)
    packed = pack_zeros(zeros, bits)
    size = -(-count * bits // 8)
    assert packed.tolist() == [by_bits(row, bits, size) for row in zeros.tolist()]
    np.testing.assert_array_equal(unpack_zeros(packed, count, bits), zeros)


def test_parts_change_nothing(monkeypatch, rng):
    values = rng.integers(0, 16, (7, 40), dtype=np.uint8)
    form = BlockFormat(4, 16)
    whole = pack(values, form)
    monkeypatch.setattr("onnxslim_rx.quant.blocks._PART", 50)
    np.testing.assert_array_equal(pack(values, form), whole)
    np.testing.assert_array_equal(unpack(whole, 40, form), values)
