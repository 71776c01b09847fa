"""Which ranks of a weight as a tensor are offered.

What counts is the share of the parameters or of the multiply-adds that is kept, whichever is
larger. Of pairs of ranks at one share, that of least error is offered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim_rx.targets import Target
from onnxslim_rx_passes._rank_pairs import RankPairsPass
from onnxslim_rx_passes._ranks import SHARES
from onnxslim_rx_passes._tensor_fits import Fits
from onnxslim_rx_passes._tensor_forms import AUTO, METHODS, Form

__all__ = ["Cut", "TensorRanksPass"]

Ranks = npt.NDArray[np.int64]

_EPS = 1e-12
# "auto" offers what has at most this share of the error of two factors of as many parameters.
_MARGIN = 0.95
# Entries of what is fitted times terms, up to which "auto" offers CP: one fit takes 3 s in one
# thread.
_MOST_WORK = 1 << 26


@dataclasses.dataclass(frozen=True)
class Cut:
    """Ranks of one form.

    Args:
        ranks: of it.
        share: of parameters or multiply-adds kept.
        error: relative, of the output where the inputs are known.
    """

    ranks: tuple[int, ...]
    share: float
    error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorRanksPass(RankPairsPass):
    """A pass that writes weights as tensors; see `TensorizeGemm` for its options."""

    methods: ClassVar[tuple[str, ...]] = ("auto", *METHODS)
    known: ClassVar[tuple[str, ...]] = METHODS
    tried: ClassVar[tuple[str, ...]] = AUTO

    def cuts(self, form: Form, fits: Fits, target: Target) -> list[Cut]:
        """The cuts to offer, mildest first; maybe none.

        Bounds of error and counts of signals are rounded up to what the target runs fast, shares
        down.

        Args:
            form: of the weight.
            fits: of the weight.
            target: says which ranks run fast.
        """
        multiple = target.rank_multiple
        if self.states_ranks:
            ranks = self.stated(len(form.rank_names))
            return [] if ranks is None else self._cuts(form, fits, np.array([ranks]))
        if self.rule is not None:
            return self._signals(form, fits, multiple)
        for step in (multiple, 1):
            if self.ratio is not None:
                found = self._best(form, fits, step, [min(self.ratio, self.most)])
            elif self.bound is not None:
                found = self._within(form, fits, step)
            else:
                return self._ladder(form, fits, multiple, target.min_rank)
            if found:
                return found
        return []

    def _ladder(self, form: Form, fits: Fits, multiple: int, least: int) -> list[Cut]:
        shares = [share for share in SHARES if share <= self.most + _EPS]
        if "auto" not in self._names(self.method):  # who asks for a method waits, and gets it
            return self._best(form, fits, multiple, shares, least)
        ranks = self._grid(form, multiple)
        ranks = ranks[(ranks[:, 0] >= least) & (form.shares(ranks) <= self.most + _EPS)]
        if form.method == "cp":
            ranks = ranks[ranks[:, 0] ** 2 * form.n <= _MOST_WORK]
            few = ranks[:1]  # where few terms do not pay, more are not tried
            worth = [_pays(form, fits, row[None], [fits.error(form, row)])[0] for row in few]
        else:
            worth = list(_pays(form, fits, ranks, fits.floors(form, ranks)))
        if not any(worth):
            return []
        found = self._chosen(form, fits, ranks, shares)
        return [cut for cut in found if _pays(form, fits, np.array([cut.ranks]), [cut.error])[0]]

    def _best(
        self, form: Form, fits: Fits, step: int, shares: Sequence[float], least: int = 1
    ) -> list[Cut]:
        """For each share the cut of least error within it."""
        ranks = self._grid(form, step)
        return self._chosen(form, fits, ranks[ranks[:, 0] >= least], shares)

    def _chosen(self, form: Form, fits: Fits, ranks: Ranks, shares: Sequence[float]) -> list[Cut]:
        kept = form.shares(ranks)
        # more terms are better: which of several is not asked
        errors = -1.0 * ranks[:, 0] if form.method == "cp" else fits.errors(form, ranks)
        picks = []
        for share in shares:
            inside = np.flatnonzero(kept <= share + _EPS)
            if len(inside):
                picks.append(inside[np.lexsort((kept[inside], errors[inside]))[0]])
        return self._cuts(form, fits, ranks[list(dict.fromkeys(picks))])

    def _within(self, form: Form, fits: Fits, step: int) -> list[Cut]:
        """The cut of least share whose error is within the bound."""
        assert self.bound is not None  # the caller looked
        limit = self.bound * (1.0 + _EPS)
        inside = [
            cut for cut in self._cuts(form, fits, self._grid(form, step)) if cut.error <= limit
        ]
        for cut in sorted(inside, key=lambda cut: (cut.share, cut.error)):
            # of terms in between, errors are estimates
            if form.method != "cp" or fits.error(form, cut.ranks) <= limit:
                return [cut]
        return []

    def _signals(self, form: Form, fits: Fits, multiple: int) -> list[Cut]:
        """What stands out of noise."""
        assert self.rule is not None  # the caller looked
        exact = fits.signals(form, self.rule)
        steps = _steps(form, multiple)
        fast = [-(-rank // step) * step for rank, step in zip(exact, steps, strict=True)]
        for ranks in (fast, exact):
            if found := self._cuts(form, fits, np.array([ranks])):
                return found
        return []

    def _cuts(self, form: Form, fits: Fits, ranks: Ranks) -> list[Cut]:
        """Those that fit and save enough, mildest first."""
        ranks = ranks[form.fits(ranks)]
        shares = form.shares(ranks)
        ranks, shares = ranks[shares <= self.most + _EPS], shares[shares <= self.most + _EPS]
        if not len(ranks):
            return []
        errors = fits.errors(form, ranks)
        found = [
            Cut(tuple(int(rank) for rank in row), float(share), float(error))
            for row, share, error in zip(ranks, shares, errors, strict=True)
        ]
        return sorted(found, key=lambda cut: (-cut.share, cut.error))

    def _grid(self, form: Form, multiple: int) -> Ranks:
        """All ranks that fit and run fast, fewest first."""
        least = min(form.k, form.n)
        steps = _steps(form, multiple)
        first = np.arange(steps[0], least + 1, steps[0])
        if form.method == "tt":
            # with the last axis whole, two factors are the same with fewer parameters
            last = np.arange(steps[1], form.rest, steps[1])
            pairs = np.stack(np.meshgrid(first, last, indexing="ij"), axis=-1).reshape(-1, 2)
            return pairs[form.fits(pairs)]
        # of two ranks of a matrix, the larger is for nothing
        return np.stack([first] * len(form.rank_names), axis=1)


def _steps(form: Form, multiple: int) -> tuple[int, ...]:
    """What ranks are multiples of, so that products have sides that run fast."""
    if form.method == "cp":
        return (multiple,)
    if form.method == "tucker":
        return multiple, multiple
    # the middle of a train is n1 times as wide as its last rank
    return multiple, multiple // math.gcd(multiple, form.split)


def _pays(
    form: Form, fits: Fits, ranks: Ranks, errors: Sequence[float] | npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Whether two factors with as many parameters are worse."""
    rank = form.parameters(ranks) // (form.k + form.n)
    beaten: npt.NDArray[np.bool_] = (
        np.asarray(errors) <= _MARGIN * fits.curve[np.minimum(rank, len(fits.curve) - 1)]
    )
    return beaten
