"""Calibration data in three parts."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.calibration import split
from onnxslim_rx.errors import InputError


@pytest.mark.parametrize("count", [8, 9, 10, 11, 101])
def test_split_parts_are_disjoint_and_seeded(count):
    data = [{"x": np.array([number])} for number in range(count)]
    parts = split(data, seed=3)
    numbers = [
        [int(sample["x"][0]) for sample in part]
        for part in (parts.calibrate, parts.select, parts.confirm)
    ]
    assert sorted(number for part in numbers for number in part) == list(range(count))
    assert [len(part) for part in numbers[1:]] == [count // 4] * 2
    assert all(part == sorted(part) for part in numbers)
    assert not parts.weak
    assert parts.reason == ""
    again, other = split(data, seed=3), split(data, seed=4)
    assert [int(sample["x"][0]) for sample in again.confirm] == numbers[2]
    assert [int(sample["x"][0]) for sample in other.calibrate] != numbers[0]


@pytest.mark.parametrize("count", [8, 15, 16, 512])
def test_without_a_promise_to_prove_less_is_held_back(count):
    parts = split([{"x": np.array([n])} for n in range(count)], seed=1, proves=False)
    held = max(min(count // 8, 32), 1)
    assert [len(p) for p in (parts.calibrate, parts.select, parts.confirm)] == [
        count - 2 * held, held, held,
    ]  # fmt: skip


@pytest.mark.parametrize("count", range(1, 8))
def test_few_samples_are_shared_and_said_to_be_weak(count):
    data = [{"x": np.array([number])} for number in range(count)]
    parts = split(data, seed=0)
    assert parts.calibrate == parts.select == parts.confirm == data
    assert parts.weak
    assert f"with {count} calibration sample" in parts.reason


def test_nothing_cannot_be_split():
    with pytest.raises(InputError, match="no samples to split"):
        split([], seed=0)
