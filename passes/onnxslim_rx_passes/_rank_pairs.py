"""Options of passes whose methods have one rank or a pair of them."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from onnxslim_rx.errors import InputError
from onnxslim_rx_passes._ranks import LowRankPass

__all__ = ["RankPairsPass"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankPairsPass(LowRankPass):
    """A pass with several methods at once, some of which have a rank for each side.

    Args:
        rank_in: of the side of the inputs; with
        rank_out: of the side of the outputs.

    Raises:
        InputError: an option outside its range, or more than one that settles ranks.
    """

    known: ClassVar[tuple[str, ...]] = ()
    """All methods."""
    tried: ClassVar[tuple[str, ...]] = ()
    """Those that "auto" stands for."""
    rank_in: int | None = None
    rank_out: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = {"rank_in": self.rank_in, "rank_out": self.rank_out}
        for name, value in pair.items():
            if value is not None and value < 1:
                raise InputError(f"{self.name} has {name} = {value}", expected="at least 1")
        given = [name for name, value in pair.items() if value is not None]
        if len(given) == 1:
            raise InputError(f"{self.name} got {given[0]} alone", expected="rank_in and rank_out")
        names = ("rank", "ratio", "energy", "max_rel_error", "min_quality", "rule")
        settled = next((name for name in names if getattr(self, name) is not None), "")
        if given and settled:
            raise InputError(f"{self.name} got rank_in and {settled}", expected="one of them")

    def _names(self, value: str) -> set[str]:
        return {name.strip() for name in value.split(",")}

    @property
    def wanted(self) -> tuple[str, ...]:
        """The methods that are asked for."""
        names = self._names(self.method)
        names |= set(self.tried) if "auto" in names else set()
        return tuple(name for name in self.known if name in names)

    @property
    def most(self) -> float:
        """The largest share that saves enough."""
        return min(1.0 - self.min_saving, 1.0 - 1e-9)

    @property
    def bound(self) -> float | None:
        """The error that is allowed, where an option says so."""
        if self.energy is not None:
            return math.sqrt(1.0 - self.energy)
        if self.min_quality is not None:
            return math.sqrt(1.0 - self.min_quality**2)
        return self.max_rel_error

    def stated(self, number: int) -> tuple[int, ...] | None:
        """The ranks that options state for a method of one rank, or of two."""
        if self.rank is not None:
            return (self.rank,) * number
        if self.rank_in is None or self.rank_out is None or number == 1:
            return None
        return self.rank_in, self.rank_out

    @property
    def states_ranks(self) -> bool:
        """Whether options state ranks, of whatever method."""
        return self.rank is not None or self.rank_in is not None
