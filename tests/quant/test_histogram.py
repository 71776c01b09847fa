"""Counting values: exact, whatever the order; and what cannot be counted."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxslim_rx.quant import Histogram, Tally

Array = npt.NDArray[Any]


def counted(*parts: Array) -> Histogram:
    tally = Tally()
    for part in parts:
        tally.add(part)
    return tally.histogram()


def assert_same(one: Histogram, other: Histogram) -> None:
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.reach, one.low, one.high) == (other.reach, other.low, other.high)


def finite(width: Any) -> st.SearchStrategy[Any]:
    most = 1e300 if width == 64 else None
    return st.floats(
        min_value=None if most is None else -most,
        max_value=most,
        width=width,
        allow_nan=False,
        allow_infinity=False,
    )


@given(
    data=st.data(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    count=st.integers(1, 50),
)
def test_order_and_portions_do_not_matter(data: st.DataObject, dtype: Any, count: int) -> None:
    width = np.dtype(dtype).itemsize * 8
    values = data.draw(arrays.arrays(dtype, count, elements=finite(width)))
    shuffled = values[data.draw(st.permutations(range(count)))]
    cuts = sorted(data.draw(st.sets(st.integers(0, count), max_size=4)))
    whole = counted(values)
    assert_same(whole, counted(*np.split(shuffled, cuts)))
    assert whole.low == values.min()
    assert whole.high == values.max()
    assert whole.counts.sum() == count
    assert np.frexp(whole.reach)[0] == 0.5
    assert whole.reach > np.abs(values.astype(np.float64)).max()


def test_counts_are_those_of_numpy(rng: np.random.Generator) -> None:
    values = rng.standard_normal((5, 7, 2000)).astype(np.float32) * 3
    found = counted(*values)
    edges = np.linspace(-found.reach, found.reach, len(found.counts) + 1)
    np.testing.assert_array_equal(found.counts, np.histogram(values, edges)[0])
    assert found.counts.dtype == np.int64
    assert found.reach == 16
    assert found.width == 32 / 4096


def test_zero_begins_a_bin_and_a_power_of_two_one_of_the_next_reach() -> None:
    found = counted(np.array([-0.0, 0.0, 1.0, -1.0, -1e-44], np.float32))
    assert found.reach == 2
    assert {int(i): int(found.counts[i]) for i in np.flatnonzero(found.counts)} == {
        2048: 2, 2047: 1, 2048 + 1024: 1, 2048 - 1024: 1,
    }  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-45, 1e30, -3.4e38])
def test_constants(value: float) -> None:
    found = counted(np.full((3, 4), value, np.float32))
    value = float(np.float32(value))
    assert (found.low, found.high) == (value, value)
    assert found.counts.sum() == 12
    left, right, counts = found.pieces()
    assert (left.tolist(), right.tolist(), counts.tolist()) == ([value], [value], [12.0])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.bool_])
def test_integers(dtype: Any) -> None:
    values = np.array([0, 1, 1, 0, 1], dtype)
    found = counted(values)
    assert (found.low, found.high) == (0, 1)
    assert (found.counts[2048], found.counts[2048 + 1024]) == (2, 3)


def test_the_least_integers() -> None:
    found = counted(np.array([-128, 127], np.int8))
    assert (found.low, found.high, found.reach) == (-128, 127, 256)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(dtype: Any, bad: float) -> None:
    tally = Tally()
    tally.add(np.array([1, 2], dtype))
    before = tally.histogram()
    with pytest.raises(ValueError, match="expected finite ones"):
        tally.add(np.array([100, bad], dtype))
    with pytest.raises(ValueError, match="expected finite ones"):
        tally.add(np.array([1e308, 0]))
    assert_same(tally.histogram(), before)


def test_of_a_part_the_extremes_are_those_of_all() -> None:
    tally = Tally()
    values = np.linspace(-7, 9, 1000, dtype=np.float32)
    tally.add(values, values[300:310])
    found = tally.histogram()
    assert (found.low, found.high, found.counts.sum(), found.reach) == (-7, 9, 10, 16)


def test_nothing_was_seen() -> None:
    found = counted(np.zeros((0, 4), np.float32))
    assert (found.low, found.high, found.counts.sum()) == (np.inf, -np.inf, 0)


def test_memory_does_not_grow(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1 << 21).astype(np.float32)
    tally = Tally()
    tally.add(values)
    tracemalloc.start()
    try:
        tally.add(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < values.nbytes // 2
