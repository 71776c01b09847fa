"""Which ranks of a chain of convolutions are offered.

What counts is the share that a chain keeps, of parameters or of multiply-adds, whichever is larger.
Of several chains or pairs of ranks at one share, that of least error is offered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim_rx.targets import Target
from onnxslim_rx_passes._conv_geometry import Convolution
from onnxslim_rx_passes._conv_structures import AUTO, METHODS, Structure, macs, parameters
from onnxslim_rx_passes._rank_pairs import RankPairsPass
from onnxslim_rx_passes._ranks import SHARES

__all__ = ["ConvRanksPass", "Cut", "Judge", "share_kept"]

Matrix = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_EPS = 1e-12

# Entries of a kernel times terms of its CP decomposition, up to which "auto" offers that: one fit
# takes 4 s in one thread.
_MOST_WORK = 1 << 27
# The largest share of a CP ladder of "auto": at 0.7 its depthwise kernels made layers of 64 to 256
# channels 1.1 to 1.3 times slower than they were, at 0.5 as fast or a little faster.
_MOST_CP = 0.6


@dataclasses.dataclass(frozen=True)
class Cut:
    """A chain at some ranks.

    Args:
        structure: the chain.
        ranks: its ranks.
        share: of parameters or multiply-adds kept.
        error: relative, of the output where the inputs are known.
    """

    structure: Structure
    ranks: tuple[int, ...]
    share: float
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """What tells ranks of one convolution apart.

    Args:
        guess: errors (N,) of ranks (N, number of ranks), at little cost: for choosing among ranks
            of one share.
        refine: errors (N,) that are true, from ranks and guesses.
        signals: ranks that stand out of noise, by a rule.
    """

    guess: Callable[[Structure, Ranks], Matrix]
    refine: Callable[[Structure, Ranks, Matrix], Matrix]
    signals: Callable[[Structure, str], tuple[int, ...]]


def share_kept(conv: Convolution, structure: Structure, ranks: Ranks) -> Matrix:
    """(N,): the larger of the shares of parameters and of multiply-adds that a chain keeps."""
    larger = np.maximum(parameters(conv, structure, ranks), macs(conv, structure, ranks))
    kept: Matrix = larger / conv.elements
    return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvRanksPass(RankPairsPass):
    """A pass that replaces convolutions by chains; see `FactorizeConv` for its options."""

    methods: ClassVar[tuple[str, ...]] = ("auto", *METHODS)
    known: ClassVar[tuple[str, ...]] = METHODS
    tried: ClassVar[tuple[str, ...]] = AUTO

    def cuts(
        self,
        conv: Convolution,
        chains: Sequence[Structure],
        target: Target,
        judge: Judge,
    ) -> list[Cut]:
        """The cuts to offer, mildest first; maybe none.

        Bounds of error and counts of signals are rounded up to what the target runs fast, shares
        down.

        Args:
            conv: the layer.
            chains: of one method.
            target: says which ranks run fast.
            judge: tells errors.
        """
        # who asks for cp by name waits, and gets what is slow
        auto = "auto" in self._names(self.method)
        work = _MOST_WORK if auto else math.inf
        pools = _Pools(conv, chains, judge, self.most, work / conv.elements)
        multiple = target.rank_multiple
        if self.states_ranks:
            return pools.best(pools.given(self._stated), [self.most])
        if self.rule is not None:
            return pools.signals(self.rule, multiple)
        if self.ratio is not None:
            share = min(self.ratio, self.most)
            found = (pools.best(pools.under([share], m), [share]) for m in (multiple, 1))
            return next(filter(None, found), [])
        if (bound := self.bound) is not None:
            return next(filter(None, (pools.within(bound, m) for m in (multiple, 1))), [])
        # the groups of a narrow one would be left with next to nothing
        if conv.groups > 1 and min(conv.channels, conv.filters) < 2 * multiple:
            return []
        most = min(self.most, _MOST_CP) if auto and chains[0].is_cp else self.most
        shares = [share for share in SHARES if share <= most + _EPS]
        return pools.best(pools.under(shares, multiple, target.min_rank), shares)

    def _stated(self, structure: Structure) -> tuple[int, ...] | None:
        """The ranks that options state for a chain."""
        return self.stated(len(structure.rank_names))


Pool = list[tuple[Structure, Ranks]]
"""Chains and ranks (N, number of ranks) of each."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Pools:
    conv: Convolution
    chains: Sequence[Structure]
    judge: Judge
    most: float
    most_terms: float

    def given(self, ranks_of: Callable[[Structure], tuple[int, ...] | None]) -> Pool:
        """Stated ranks, where they fit."""
        found = []
        for chain in self.chains:
            ranks = ranks_of(chain)
            largest = chain.largest(self.conv)
            if ranks is not None and all(r <= n for r, n in zip(ranks, largest, strict=True)):
                found.append((chain, np.array([ranks])))
        return found

    def under(self, shares: Sequence[float], multiple: int, least: int = 1) -> Pool:
        """Multiples that keep at most one of `shares`: of one rank, the largest for each."""
        return [(chain, self._under(chain, shares, multiple, least)) for chain in self.chains]

    def best(self, pool: Pool, shares: Sequence[float]) -> list[Cut]:
        """For each share the cut of least error within it, of the chain that suits them best."""
        by_chain: dict[Structure, list[Cut]] = {}
        for cut in self._cuts(pool):
            by_chain.setdefault(cut.structure, []).append(cut)
        ladders = [[_best(cuts, share) for share in shares] for cuts in by_chain.values()]
        # one chain of each method, so that its ranks lie on one curve
        ladder = min(ladders, key=_mean_error, default=[])
        return self._refined([cut for cut in dict.fromkeys(ladder) if cut is not None])

    def within(self, bound: float, multiple: int) -> list[Cut]:
        """The cut of least share whose error is within a bound."""
        every = [self._all(chain, multiple) for chain in self.chains]
        pool = list(zip(self.chains, every, strict=True))
        cuts = self._refined(list(self._cuts(pool)))
        inside = [cut for cut in cuts if cut.error <= bound * (1.0 + _EPS)]
        return [min(inside, key=lambda cut: (cut.share, cut.error))] if inside else []

    def signals(self, rule: str, multiple: int) -> list[Cut]:
        """The cut of least share that keeps what stands out of noise."""
        pool: Pool = []
        for chain in self.chains:
            least = self.judge.signals(chain, rule)
            largest = chain.largest(self.conv)
            fast = [
                min(-(-rank // multiple) * multiple, most)
                for rank, most in zip(least, largest, strict=True)
            ]
            for ranks in (np.array([fast]), np.array([least])):
                if share_kept(self.conv, chain, ranks)[0] <= self.most:
                    pool.append((chain, ranks))
                    break
        cuts = self._refined(list(self._cuts(pool)))
        return [min(cuts, key=lambda cut: (cut.share, cut.error))] if cuts else []

    def _cuts(self, pool: Pool) -> Iterator[Cut]:
        """Those of a pool that save enough, with guessed errors."""
        for chain, ranks in pool:
            shares = share_kept(self.conv, chain, ranks)
            saving = shares <= self.most + _EPS
            ranks, shares = ranks[saving], shares[saving]
            if len(ranks):
                errors = self.judge.guess(chain, ranks)
                for row, share, error in zip(ranks, shares, errors, strict=True):
                    yield Cut(chain, tuple(int(r) for r in row), float(share), float(error))

    def _refined(self, cuts: Sequence[Cut]) -> list[Cut]:
        """The same with true errors, mildest first."""
        found = []
        for chain in dict.fromkeys(cut.structure for cut in cuts):
            own = [cut for cut in cuts if cut.structure == chain]
            ranks, guesses = np.array([c.ranks for c in own]), np.array([c.error for c in own])
            errors = self.judge.refine(chain, ranks, guesses)
            found += [
                dataclasses.replace(cut, error=float(error))
                for cut, error in zip(own, errors, strict=True)
            ]
        return sorted(found, key=lambda cut: (-cut.share, cut.error))

    def _under(self, chain: Structure, shares: Sequence[float], multiple: int, least: int) -> Ranks:
        if len(chain.rank_names) > 1:
            every = self._all(chain, multiple)
            return every[(every >= least).all(axis=1)]
        one = float(share_kept(self.conv, chain, np.array([[1]]))[0])
        (largest,) = self._largest(chain)
        most = {min(math.floor((share + _EPS) / one), largest) for share in shares}
        ranks = sorted({rank // multiple * multiple for rank in most})
        return np.array([rank for rank in ranks if rank >= max(least, 1)], int).reshape(-1, 1)

    def _largest(self, chain: Structure) -> tuple[int, ...]:
        """The ranks that are worth a look at most."""
        largest = chain.largest(self.conv)
        return (int(min(*largest, self.most_terms)),) if chain.is_cp else largest

    def _all(self, chain: Structure, multiple: int) -> Ranks:
        """All multiples, as far as each rank can make a difference."""
        sides = [np.arange(multiple, n + 1, multiple) for n in self._largest(chain)]
        every = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(sides))
        if len(sides) == 2:
            window = self.conv.window
            every = every[(every.max(axis=1) <= window * every.min(axis=1))]
        return every


def _best(cuts: Sequence[Cut], share: float) -> Cut | None:
    """The cut of least error that keeps at most a share."""
    inside = [cut for cut in cuts if cut.share <= share + _EPS]
    return min(inside, key=lambda cut: (cut.error, cut.share), default=None)


def _mean_error(ladder: Sequence[Cut | None]) -> float:
    """Over all shares; where a chain is too costly, all is lost."""
    return sum(1.0 if cut is None else cut.error for cut in ladder)
