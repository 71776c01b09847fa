"""The weight of a linear layer as a tensor: forms of three factors, their sizes and products.

W is (K, N) with N = n1 n2, W[k, (i, j)]. A row x becomes

- "tucker": `((x P) C) Q`, P (K, R), C (R, S), Q (S, N).
- "tt": `x P` (R), times C (R, n1 S), which is n1 rows of S, each times Q (S, n2).
- "cp": `x P` (R), n1 copies of it, scaled by the rows of C (n1, R), each times Q (R, n2).

The train and the Tucker decomposition of (K, n1, n2) along K and n2 are the same set of weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array

__all__ = ["AUTO", "METHODS", "Form", "compose", "form_of"]

Matrix = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

METHODS = ("tucker", "tt", "cp")
AUTO = ("tt", "cp")


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to write a weight (K, N).

    Args:
        method: one of `METHODS`.
        k: K.
        n: N.
        split: n1; 1 for "tucker".
    """

    method: str
    k: int
    n: int
    split: int

    @property
    def rest(self) -> int:
        """n2."""
        return self.n // self.split

    @property
    def rank_names(self) -> tuple[str, ...]:
        """Options that state the ranks."""
        return ("rank",) if self.method == "cp" else ("rank_in", "rank_out")

    def parameters(self, ranks: Ranks) -> Ranks:
        """(N,): entries of the factors, of ranks (N, number of ranks)."""
        first, last = ranks[:, 0], ranks[:, -1]
        if self.method == "cp":
            return first * (self.k + self.split + self.rest)
        return first * self.k + first * self.split * last + last * self.rest

    def macs(self, ranks: Ranks) -> Ranks:
        """(N,): multiply-adds for one row."""
        first, last = ranks[:, 0], ranks[:, -1]
        if self.method == "cp":
            return first * (self.k + self.split + self.n)
        return first * self.k + first * self.split * last + last * self.n

    def shares(self, ranks: Ranks) -> Matrix:
        """(N,): the larger of the shares of parameters and of multiply-adds that are kept."""
        kept: Matrix = np.maximum(self.parameters(ranks), self.macs(ranks)) / (self.k * self.n)
        return kept

    def fits(self, ranks: Ranks) -> npt.NDArray[np.bool_]:
        """(N,): whether no rank is larger than one that gives any weight."""
        first, last = ranks[:, 0], ranks[:, -1]
        least = min(self.k, self.n)
        inside = (ranks >= 1).all(axis=1) & (first <= least)
        if self.method == "tucker":
            return inside & (last <= least)
        if self.method == "cp":
            return inside
        possible = (first <= self.split * last) & (last <= self.split * first)
        return inside & (last <= self.rest) & possible

    def shapes(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """Of the three factors."""
        first, last = ranks[0], ranks[-1]
        middle = (self.split, first) if self.method == "cp" else (first, self.split * last)
        return [(self.k, first), middle, (last, self.rest)]

    def options(self, ranks: Sequence[int]) -> dict[str, int | float | str | bool]:
        """What a stage says of it."""
        own: dict[str, int | float | str | bool] = {"method": self.method}
        own |= zip(self.rank_names, ranks, strict=True)
        return own if self.method == "tucker" else {**own, "split": self.split}


def form_of(method: str, k: int, n: int, split: int | None) -> Form | str:
    """The form of a method, or why there is none.

    Args:
        method: one of `METHODS`.
        k: K.
        n: N.
        split: n1; None: the divisor of N next below its root.
    """
    if method == "tucker":
        return Form(method, k, n, 1)
    if split is None:
        split = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
        if split == 1:
            return f"its {n} columns are no product of two sides"
    if n % split or not 1 < split < n:
        return f"its {n} columns are no {split} times 2 or more"
    return Form(method, k, n, split)


def compose(n: int, factors: Sequence[Array]) -> Array:
    """The weight (K, n) that three factors stand for; their sizes tell the method."""
    first, middle, last = factors
    if last.shape[1] == n:
        product: Array = first @ middle @ last
        return product
    if middle.shape[1] == last.shape[0]:  # cp
        rows = middle[:, :, None] * last
        return np.asarray(first @ np.moveaxis(rows, 1, 0).reshape(first.shape[1], n))
    rows = middle.reshape(len(middle), -1, len(last)) @ last
    return np.asarray(first @ rows.reshape(len(middle), n))
