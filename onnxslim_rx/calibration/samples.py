"""Samples: complete inputs of a model, one dict each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy.typing as npt

__all__ = ["Dataset", "Sample", "Samples"]

Sample = Mapping[str, npt.NDArray[Any]]
Dataset = Sequence[Sample]


class Samples(Sequence[Sample]):
    """A sequence that makes its samples when they are asked for.

    Args:
        get: makes the sample of a number.
        numbers: the numbers of the samples, in order.
        groups: for each of `numbers`, what it belongs to (the steps of one sequence, say), so
            that it says little about the others; None: all stand alone.
    """

    def __init__(
        self,
        get: Callable[[int], Sample],
        numbers: Sequence[int],
        groups: Sequence[int] | None = None,
    ) -> None:
        self._get = get
        self._numbers = numbers
        self.groups = groups

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            groups = None if self.groups is None else self.groups[index]
            return Samples(self._get, self._numbers[index], groups)
        return self._get(self._numbers[index])
