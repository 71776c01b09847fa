"""Ranges and grids against brute force on the values themselves."""

from __future__ import annotations

import time
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.quant import Histogram, RangeMethod, Tally, affine, expected_error, find_range

Array = npt.NDArray[Any]
METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

SHAPES = ("normal", "relu", "laplace", "outlier", "uniform", "shifted", "discrete", "negative")


def drawn(shape: str, rng: np.random.Generator, count: int = 20000) -> npt.NDArray[np.float64]:
    normal = rng.standard_normal(count)
    made = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "laplace": rng.laplace(size=count) ** 3,
        "outlier": np.append(normal, [300.0, -20.0]),
        "uniform": rng.uniform(-0.1, 3, count),
        "shifted": normal / 10 + 10,
        "discrete": rng.integers(-3, 9, count).astype(np.float64),
        "negative": -np.abs(normal),
    }[shape]
    return made.astype(np.float32).astype(np.float64)


def histogram_of(values: Array) -> Histogram:
    tally = Tally()
    tally.add(np.asarray(values))
    return tally.histogram()


def true_error(values: Array, scale: float, zero: int, bits: int, signed: bool) -> float:
    least = -(2 ** (bits - 1)) if signed else 0
    stored = np.clip(np.rint(values / scale) + zero, least, least + 2**bits - 1)
    return float(np.mean(np.square(values - (stored - zero) * scale)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_is_that_of_the_values(shape: str, bits: int, rng: np.random.Generator) -> None:
    values = drawn(shape, rng)
    found = histogram_of(values)
    for clip in (1.0, 0.5):
        scale, zero = affine(found.low * clip, found.high * clip, bits=bits, signed=True)
        error = expected_error(found, scale, zero, bits=bits, signed=True)
        true = true_error(values, scale, zero, bits, signed=True)
        # a value is not off by more than half a bin from where it is taken to be
        assert abs(np.sqrt(error) - np.sqrt(true)) <= found.width / 2
        if shape in ("normal", "uniform") and bits == 4:
            assert error == pytest.approx(true, rel=0.03)


@given(
    low=st.floats(-1e30, 1e30),
    width=st.floats(0, 1e30),
    bits=st.integers(2, 16),
    signed=st.booleans(),
    symmetric=st.booleans(),
)
def test_grids_hold_zero_and_reach_both_ends(
    low: float, width: float, bits: int, signed: bool, symmetric: bool
) -> None:
    high = low + width
    scale, zero = affine(low, high, bits=bits, signed=signed, symmetric=symmetric)
    least = -(2 ** (bits - 1)) if signed else 0
    assert least <= zero < least + 2**bits
    assert scale > 0
    assert scale == np.float32(scale)
    assert np.isfinite(scale)
    slack = scale * 0.51 + 1e-6 * max(abs(low), abs(high))
    assert (least - zero) * scale <= min(low, 0) + slack
    assert (least + 2**bits - 1 - zero) * scale >= max(high, 0) - slack
    if symmetric:
        assert zero == least + 2 ** (bits - 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ends", [(0, 0), (np.inf, -np.inf), (1e-44, 1e-44), (3.0, 3.0), (-2, -2)])
def test_ranges_of_one_value(ends: tuple[float, float], symmetric: bool) -> None:
    scale, zero = affine(*ends, symmetric=symmetric)
    assert scale >= np.finfo(np.float32).tiny
    if ends == (3.0, 3.0) or ends == (-2, -2):
        values = np.full(3, ends[0], np.float64)
        assert true_error(values, scale, zero, 8, signed=False) < 1e-10
    assert affine(0, 0, signed=True) == (1.0, -128)
    assert affine(0, 0, signed=True, symmetric=True) == (1.0, 0)


def test_known_grids() -> None:
    assert affine(0, 255) == (1.0, 0)
    assert affine(-1, 254) == (1.0, 1)
    assert affine(-127, 100, signed=True, symmetric=True) == (1.0, 0)
    assert affine(-100, 127, symmetric=True) == (1.0, 128)
    assert affine(5, 51) == (np.float32(0.2), 0)
    assert affine(-51, -5, signed=True) == (np.float32(0.2), 127)
    assert affine(0, 65535, bits=16) == (1.0, 0)


@pytest.mark.parametrize("bad", [(np.nan, 1), (0, np.inf), (-np.inf, np.inf)])
def test_ends_that_are_not_finite(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected finite ends"):
        affine(*bad)


def test_what_is_refused() -> None:
    found = histogram_of(np.ones(3))
    for bits in (1, 17):
        with pytest.raises(ValueError, match="expected 2 to 16"):
            affine(0, 1, bits=bits)
    for percentile in (0.0, 100.1, np.nan):
        with pytest.raises(ValueError, match="expected above 0, at most 100"):
            find_range(found, "percentile", percentile=percentile)
    with pytest.raises(ValueError, match="expected minmax"):
        find_range(found, "best")  # type: ignore[arg-type]


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=30),
    method=st.sampled_from(METHODS),
    symmetric=st.booleans(),
)
def test_ranges_hold_zero_and_never_more_than_all_values(
    values: list[float], method: RangeMethod, symmetric: bool
) -> None:
    found = histogram_of(np.array(values, np.float32))
    low, high = find_range(found, method, symmetric=symmetric)
    least, most = min([0.0, *values]), max([0.0, *values])
    if symmetric:
        most = max(-least, most)
        least = -most
        assert low == -high
    assert least <= low <= 0 <= high <= most
    if method == "minmax":
        assert (low, high) == (least, most)
    scale, zero = affine(low, high)
    assert scale > 0
    assert np.isfinite(expected_error(found, scale, zero))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percentile", [99.99, 99.0, 80.0])
def test_percentiles_are_those_of_numpy(
    shape: str, percentile: float, rng: np.random.Generator
) -> None:
    values = drawn(shape, rng)
    found = histogram_of(values)
    slack = found.width + 1e-9
    low, high = find_range(found, "percentile", percentile=percentile)
    tail = (100 - percentile) / 2
    below, above = (
        [np.percentile(values, at, method=how) for how in ("lower", "higher")]
        for at in (tail, 100 - tail)
    )
    assert min(below[0], 0) - slack <= low <= min(below[1], 0) + slack
    assert max(above[0], 0) - slack <= high <= max(above[1], 0) + slack
    low, high = find_range(found, "percentile", percentile=percentile, symmetric=True)
    near, far = (
        np.percentile(np.abs(values), percentile, method=how) for how in ("lower", "higher")
    )
    assert near - slack <= high <= far + slack


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("levels", [16, 256])
def test_least_squares_is_no_worse_than_the_others_and_near_the_best(
    shape: str, symmetric: bool, levels: int, rng: np.random.Generator
) -> None:
    values = drawn(shape, rng)
    found = histogram_of(values)
    bits = levels.bit_length() - 1

    def error(low: float, high: float) -> float:
        scale, zero = affine(low, high, bits=bits, symmetric=symmetric)
        return true_error(values, scale, zero, bits, signed=False)

    ranges = {
        method: find_range(found, method, levels=levels, symmetric=symmetric) for method in METHODS
    }
    best = error(*ranges["mse"])
    # the histogram does not know where in a bin a value lies
    slack = found.width**2 / 4 + found.width * np.sqrt(best)
    for method in METHODS:
        assert best <= error(*ranges[method]) + slack
    low, high = ranges["minmax"]
    ends = np.linspace(0.05, 1, 20)
    pairs = [(a, a) for a in ends] if symmetric or not low or not high else None
    tried = [
        error(low * a, high * b) for a, b in pairs or [(a, b) for a in ends[::2] for b in ends[::2]]
    ]
    assert best <= min(tried) * 1.01 + slack


def test_outliers_are_cut_where_levels_are_few(rng: np.random.Generator) -> None:
    found = histogram_of(np.append(rng.standard_normal(100_000), 30.0))
    low, high = find_range(found, "mse", levels=16)
    assert high < 5
    assert low > -5
    assert find_range(found, "minmax")[1] == 30.0


def test_16_bits_hold_all(rng: np.random.Generator) -> None:
    values = drawn("normal", rng)
    found = histogram_of(values)
    for method in ("minmax", "entropy"):
        assert find_range(found, method, levels=1 << 16) == (found.low, found.high)
    scale, zero = affine(found.low, found.high, bits=16)
    error = expected_error(found, scale, zero, bits=16)
    assert error == pytest.approx(scale**2 / 12, rel=0.05)


def test_it_takes_little_time(rng: np.random.Generator) -> None:
    found = histogram_of(rng.uniform(-1, 1, 1 << 18))  # all bins of the reach are filled
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        find_range(found, "mse")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.05  # 4 ms where nothing else runs
