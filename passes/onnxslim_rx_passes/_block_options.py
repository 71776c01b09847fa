"""Weights in blocks of a few bits: the options of a stage, and which of them are offered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Stage
from onnxslim_rx.quant import BlockFormat, stored_bytes

__all__ = ["DEQUANTIZE", "FORMS", "METHODS", "NBITS", "SCALES", "BlockOptions", "Wanted"]

NBITS, DEQUANTIZE = "nbits", "dequantize-linear"
FORMS = (NBITS, DEQUANTIZE)
METHODS = ("nearest", "clip", "hqq", "gptq", "awq")
SCALES = {"float16": np.float16, "float32": np.float32}

# What is offered unless an option asks for something else: groups by bits, from the mildest on.
_GROUPS = {4: (16, 32, 64, 128), 2: (16,)}
# At 8 bits what is lost by rounding activations, which no probe sees, is more than that of weights.
_GROUPS_ON_DEMAND = {8: (32, 128)}
# Components of a low-rank correction that are offered beside none, by bits and group.
_RANKS = {(4, 32): (16,), (4, 128): (16,)}
_LEAST_GROUP = 16
_PACKED = (2, 4, 8)


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """How a weight is rounded and stored: the options of a stage, all spelt out.

    Args:
        bits: 2, 4 or 8.
        group: neighbours that share a scale, a power of two, 16 to 256.
        symmetric: no zero points are stored.
        method: how it is rounded, one of `METHODS`.
        rank: components of a low-rank correction, or 0.
        form: "nbits" (operators of com.microsoft) or "dequantize-linear" (standard operators).
        scales: the type that scales are stored in, "float16" or "float32".

    Raises:
        InputError: an option outside its range.
    """

    bits: int
    group: int
    symmetric: bool = True
    method: str = "clip"
    rank: int = 0
    form: str = NBITS
    scales: str = "float16"

    def __post_init__(self) -> None:
        _check("method", self.method, METHODS)
        _check("form", self.form, FORMS)
        _check("scales", self.scales, tuple(SCALES))
        if self.bits not in _PACKED:
            raise InputError(f"a stage in blocks has bits = {self.bits}", expected="2, 4 or 8")
        if self.rank < 0:
            raise InputError(f"a stage in blocks has rank = {self.rank}", expected="at least 0")
        if self.group < _LEAST_GROUP:
            raise InputError(
                f"a stage in blocks has group = {self.group}", expected="a power of two, 16 to 256"
            )
        try:
            self.block_format  # noqa: B018  # checks bits and group
        except ValueError as error:
            raise InputError(f"a stage in blocks: {error}") from error

    @classmethod
    def of(cls, stage: Stage) -> BlockOptions | None:
        """The options of a stage; None of one that stores weights per channel."""
        if "group" not in stage.options:
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {k: v for k, v in stage.options.items() if k in names}
        return cls(**known)

    def stage(self, name: str) -> Stage:
        """The stage of the pass `name`."""
        return Stage(name, dataclasses.asdict(self))

    @property
    def block_format(self) -> BlockFormat:
        """The grid."""
        return BlockFormat(self.bits, self.group, self.symmetric, SCALES[self.scales])

    @property
    def uses_statistics(self) -> bool:
        """Whether rounding follows the second moments of what enters the layer."""
        return self.method in ("gptq", "awq") or self.rank > 0

    def bytes(self, rows: int, k: int, itemsize: int) -> int:
        """What a weight of (rows, k) takes, in a network of numbers of `itemsize` bytes."""
        factors = self.rank * (rows + k + 2 * itemsize)
        scaled = k * itemsize if self.method == "awq" else 0
        return stored_bytes(rows, k, self.block_format) + factors + scaled


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the options of the pass narrow the offer to; None: everything that is offered.

    Args:
        bits, group, symmetric, rank, form, scales: as in `BlockOptions`.
        method: the same, or "auto".
    """

    bits: int | None
    group: int | None
    symmetric: bool | None
    method: str
    rank: int | None
    form: str | None
    scales: str | None

    def offers(
        self, method: str, form: str, scales: Callable[[int], str]
    ) -> Iterator[BlockOptions]:
        """Ways to store one weight.

        Args:
            method: what "auto" means for it.
            form: what is emitted where that is left open.
            scales: the type of scales that holds those of its size, by bits.
        """
        every = {**_GROUPS, **_GROUPS_ON_DEMAND}
        for bits in _GROUPS if self.bits is None else (self.bits,):
            for group in every.get(bits, ()) if self.group is None else (self.group,):
                ranks = (0, *_RANKS.get((bits, group), ()))
                for rank in ranks if self.rank is None else (self.rank,):
                    yield BlockOptions(
                        bits,
                        group,
                        symmetric=self.symmetric is not False,
                        method=method if self.method == "auto" else self.method,
                        rank=rank,
                        form=self.form or form,
                        scales=self.scales or scales(bits),
                    )


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"a stage in blocks has {name} = {value!r}", expected=", ".join(allowed))
