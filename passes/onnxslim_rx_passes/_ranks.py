"""Which ranks a pass offers: the options that low-rank passes share, and what they mean.

Every unit that such a pass treats acts as a matrix of K x N that becomes a product of K x R and
R x N: one weight, several side by side, or experts stacked. (Of a batch, each matrix is one.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.linalg import (
    evbmf_rank,
    mdl_rank,
    rank_for_error,
    rank_for_quality,
    rank_for_ratio,
    round_rank,
)
from onnxslim_rx.passbase import CompressionPass
from onnxslim_rx.targets import Target

__all__ = ["SHARES", "LowRankPass"]

Matrix = npt.NDArray[np.float64]

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.34, 0.27, 0.2, 0.15, 0.1)
"""Shares of the parameters kept that the ladder offers."""

# From this side on a ladder only has ranks below this share of it, which a randomized method finds
# in seconds (4,096 x 4,096: 3 s); the others take half a minute each.
_LARGE, _FEW = 2048, 1 / 6

_RULES = {"evbmf": evbmf_rank, "mdl": mdl_rank}
_CHOOSE = ("rank", "ratio", "energy", "max_rel_error", "min_quality", "rule")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankPass(CompressionPass):
    """A pass that replaces weights by products of low rank.

    Args:
        rank: as it stands, at least 1.
        ratio: share of the parameters kept at most, in (0, 1).
        energy: share of the energy kept at least, in (0, 1].
        max_rel_error: relative error at most, in [0, 1).
        min_quality: cosine of the outputs at least, in (0, 1].
        rule: "evbmf" or "mdl".
        method: "auto", "svd", "scaled-svd" or "whitened-svd".
        min_saving: least share of parameters removed, in [0, 1).
        min_elements: smaller weights are left alone.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.
    """

    methods: ClassVar[tuple[str, ...]] = ("auto", "svd", "scaled-svd", "whitened-svd")
    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    max_rel_error: float | None = None
    min_quality: float | None = None
    rule: str | None = None
    method: str = "auto"
    min_saving: float = 0.1
    min_elements: int = 4096

    def __post_init__(self) -> None:
        given = [name for name in _CHOOSE if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{self.name} got {' and '.join(given)}", expected="one of them")
        if self.rank is not None and self.rank < 1:
            raise InputError(f"{self.name} has rank = {self.rank}", expected="at least 1")
        ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
            "ratio": ("in (0, 1)", lambda x: 0.0 < x < 1.0),
            "energy": ("in (0, 1]", lambda x: 0.0 < x <= 1.0),
            "max_rel_error": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
            "min_quality": ("in (0, 1]", lambda x: 0.0 < x <= 1.0),
            "min_saving": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
            "min_elements": ("at least 1", lambda x: x >= 1),
        }
        for name, (expected, holds) in ranges.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise InputError(f"{self.name} has {name} = {value}", expected=expected)
        for name, known in (("rule", tuple(_RULES)), ("method", self.methods)):
            value = getattr(self, name)
            if value is not None and not self._names(value) <= set(known):
                raise InputError(f"{self.name} has {name} = {value!r}", expected=" or ".join(known))

    def _names(self, value: str) -> set[str]:
        """What the value of an option names."""
        return {value}

    def largest(self, k: int, n: int) -> int:
        """The largest rank whose two factors save enough of K x N; 0: none does.

        Of a ladder for a large matrix: the largest that does not take long to find.
        """
        allowed = math.floor((1.0 - self.min_saving) * k * n / (k + n) + 1e-9)
        allowed = min(allowed, (k * n - 1) // (k + n))
        side = min(k, n)
        ladder = all(getattr(self, name) is None for name in _CHOOSE)
        return min(allowed, int(_FEW * side)) if ladder and side > _LARGE else allowed

    def ranks(
        self,
        k: int,
        n: int,
        target: Target,
        curve: Matrix,
        spectra: Callable[[], Iterator[Matrix]],
    ) -> list[int]:
        """The ranks to offer, descending, so that the first is the mildest; maybe none.

        Bounds of error and counts of signals are rounded up to what the target runs fast, shares
        of the parameters down.

        Args:
            k: rows of the matrix.
            n: columns.
            target: says which ranks run fast.
            curve: (R + 1,), R at least `largest(k, n)`: relative error by rank, not increasing.
            spectra: all singular values of the matrix (of each, where it is a batch); only asked
                for by the rules that estimate noise.
        """
        top, multiple = self.largest(k, n), target.rank_multiple
        if top < 1:
            return []
        if self.rank is not None:
            return [self.rank] if self.rank <= top else []
        if self.ratio is not None:
            rank = min(rank_for_ratio(k, n, self.ratio), top)
            return [rank // multiple * multiple or rank]
        least = self._least(k, n, curve, top, spectra)
        if least is not None:
            fast = -(-least // multiple) * multiple
            return [rank for rank in (fast, least) if rank <= top][:1]
        if any(getattr(self, name) is not None for name in _CHOOSE) or top < target.min_rank:
            return []
        wanted = (share * k * n / (k + n) for share in SHARES)
        offered = {
            round_rank(rank, k, n, multiple=multiple, least=target.min_rank, most=top)
            for rank in wanted
        }
        return sorted(offered, reverse=True)

    def _least(
        self,
        k: int,
        n: int,
        curve: Matrix,
        top: int,
        spectra: Callable[[], Iterator[Matrix]],
    ) -> int | None:
        """The least rank that the rule asks for; None: no rule, or no rank that pays keeps it."""
        if self.rule is not None:
            estimate = _RULES[self.rule]
            found = max(1, *(estimate(values, (k, n)) for values in spectra()))
            return found if found <= top else None
        paying = curve[: top + 1]
        if self.energy is not None:
            bound = math.sqrt(1.0 - self.energy)
            found = rank_for_error(paying, bound)
        elif self.max_rel_error is not None:
            bound = self.max_rel_error
            found = rank_for_error(paying, bound)
        elif self.min_quality is not None:
            bound = math.sqrt(1.0 - self.min_quality**2)
            found = rank_for_quality(paying, self.min_quality)
        else:
            return None
        # the last rank that pays is the answer also where it breaks the bound
        return found if paying[found] <= bound * (1.0 + 1e-12) else None
