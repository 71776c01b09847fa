"""The user's samples in three parts: to calibrate, to select, to confirm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.samples import Dataset, Samples
from onnxslim_rx.errors import InputError

__all__ = ["Split", "split"]

_LEAST = 8  # with fewer samples each part would be one or two, which say nothing
_LEAST_SEQUENCES = 4  # they have many steps each
_ENOUGH = 32  # sensitivities are measured on no more


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples in parts.

    Args:
        calibrate: statistics and fitting see these.
        select: the planner's measurements see these.
        confirm: seen once, at the end.
        weak: the parts are the same samples, so that the confirmation proves little.
        reason: why it is weak, in one sentence; empty if it is not.
    """

    calibrate: Dataset
    select: Dataset
    confirm: Dataset
    weak: bool = False
    reason: str = ""


def split(data: Dataset, seed: int, *, proves: bool = True) -> Split:
    """Split `data` by a seeded permutation; each part keeps the data's order.

    A quarter each selects and confirms, the rest calibrates; an eighth each, and no more than 32,
    where no promise about quality has to be proved: more data for the fits is worth more then.

    The steps of a sequence stay together. With fewer than 8 samples, or 4 sequences, all parts
    are all samples and the split is marked as weak.

    Args:
        data: the samples.
        seed: of the permutation.
        proves: whether a promise about quality is to be proved.

    Raises:
        InputError: there are no samples.
    """
    if not len(data):
        raise InputError("there are no samples to split", expected="at least one")
    groups = data.groups if isinstance(data, Samples) else None
    word, least = ("sample", _LEAST) if groups is None else ("sequence", _LEAST_SEQUENCES)
    owner = np.unique(np.arange(len(data)) if groups is None else groups, return_inverse=True)[1]
    count = int(owner.max()) + 1
    if count < least:
        reason = (
            f"with {count} calibration {word}{'s' if count > 1 else ''} nothing can be held "
            f"back: the same data calibrates and confirms; {least} or more would be split"
        )
        return Split(data, data, data, weak=True, reason=reason)
    order = np.random.default_rng(seed).permutation(count)
    held = count // 4 if proves else max(min(count // 8, _ENOUGH), 1)
    parts = np.split(order, [count - 2 * held, count - held])
    calibrate, select, confirm = (
        _part(data, np.flatnonzero(np.isin(owner, part)), groups) for part in parts
    )
    return Split(calibrate, select, confirm)


def _part(data: Dataset, numbers: npt.NDArray[np.intp], groups: Sequence[int] | None) -> Samples:
    plain = [int(number) for number in numbers]
    owners = None if groups is None else [groups[number] for number in plain]
    steps = data.steps if isinstance(data, Samples) else None
    return Samples(data.__getitem__, plain, owners, steps)
