"""The user's samples in three parts: to calibrate, to select, to confirm."""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxslim_rx.calibration.data import Dataset, Samples
from onnxslim_rx.errors import InputError

__all__ = ["Split", "split"]

_LEAST = 8  # with fewer samples each part would be one or two, which say nothing


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples in parts.

    Args:
        calibrate: statistics and fitting see these, half of all.
        select: the planner's measurements see these, a quarter.
        confirm: seen once, at the end, a quarter.
        weak: the parts are the same samples, so that the confirmation proves little.
        reason: why it is weak, in one sentence; empty if it is not.
    """

    calibrate: Dataset
    select: Dataset
    confirm: Dataset
    weak: bool = False
    reason: str = ""


def split(data: Dataset, seed: int) -> Split:
    """Split `data` by a seeded permutation: 50%, 25%, 25%; each part keeps the data's order.

    With fewer than 8 samples all parts are all samples and the split is marked as weak.

    Raises:
        InputError: there are no samples.
    """
    count = len(data)
    if not count:
        raise InputError("there are no samples to split", expected="at least one")
    if count < _LEAST:
        reason = (
            f"with {count} calibration sample{'s' if count > 1 else ''} nothing can be held "
            f"back: the same data calibrates and confirms; {_LEAST} or more would be split"
        )
        return Split(data, data, data, weak=True, reason=reason)
    order = np.random.default_rng(seed).permutation(count)
    quarter = count // 4
    parts = np.split(order, [count - 2 * quarter, count - quarter])
    calibrate, select, confirm = (
        Samples(data.__getitem__, [int(number) for number in np.sort(part)]) for part in parts
    )
    return Split(calibrate, select, confirm)
