"""Samples: complete inputs of a model, one dict each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

__all__ = ["Dataset", "Sample", "Samples", "Steps", "held"]

Sample = Mapping[str, npt.NDArray[Any]]
Dataset = Sequence[Sample]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Of samples that are steps of sequences: how one goes on from the other.

    Args:
        state: `{input: output}` that is fed back.
        follow: for each sample, whether its state is what the one before gave.
    """

    state: Mapping[str, str]
    follow: Sequence[bool]


class Samples(Sequence[Sample]):
    """A sequence that makes its samples when they are asked for.

    Args:
        get: makes the sample of a number.
        numbers: the numbers of the samples, in order.
        groups: for each of `numbers`, what it belongs to (the steps of one sequence, say), so
            that it says little about the others; None: all stand alone.
        steps: of models with state; of all samples that there are numbers of.
    """

    def __init__(
        self,
        get: Callable[[int], Sample],
        numbers: Sequence[int],
        groups: Sequence[int] | None = None,
        steps: Steps | None = None,
    ) -> None:
        self._get = get
        self._numbers = numbers
        self.groups = groups
        self._steps = steps

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            groups = None if self.groups is None else self.groups[index]
            return Samples(self._get, self._numbers[index], groups, self._steps)
        return self._get(self._numbers[index])

    @property
    def steps(self) -> Steps | None:
        """How these samples go on from each other, in their order."""
        if self._steps is None:
            return None
        known = self._steps.follow
        before = [None, *self._numbers][:-1] if len(self) else []
        both = zip(self._numbers, before, strict=True)
        return Steps(self._steps.state, [known[n] and n - 1 == last for n, last in both])


def held(data: Dataset, most: int) -> Dataset:
    """`data` in memory where it takes no more than `most` bytes; otherwise as it is.

    For those who go through the samples often: they may be read from files each time.
    """
    samples: list[Sample] = []
    for number in range(len(data)):
        sample: dict[str, Any] = dict(data[number])
        for name, value in sample.items():
            if isinstance(value, np.ndarray):  # not a sequence of tensors
                # a data set may use its memory again for the next sample
                sample[name] = value.copy()
                most -= value.nbytes
        if most < 0:
            return data
        samples.append(sample)
    return samples
