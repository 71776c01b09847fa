"""One or two products that stand for one matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Moments
from onnxslim_rx.linalg import reduced_rank_regression, ridge_regression
from onnxslim_rx.passbase import Layer
from onnxslim_rx.planner.fit.products import Product

__all__ = ["Pair"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer to fit that is one matrix or two factors.

    Args:
        first: the first factor; None: one matrix.
        last: the last factor, or the matrix.
        weight: what the factors stand for, (K, N), as the original applies it; None: not known.
        bias: added to the result, or None where there is none that can be changed.
    """

    first: Product | None
    last: Product
    weight: Product | None
    bias: ir.Value | None

    patches = None

    @property
    def layer(self) -> Layer:
        """What rows enter."""
        return (self.first or self.last).layer

    @property
    def makes_transposed(self) -> bool:
        """Whether the rows of the result lie along its last axis."""
        return self.last.makes_transposed

    @property
    def names(self) -> tuple[str, ...]:
        """Of the weights that are fitted."""
        return tuple(str(p.layer.weight.name) for p in (self.first, self.last) if p is not None)

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return (self.first or self.last).shape[0], self.last.shape[1]

    def now(self) -> Matrix:
        """(K, N), what the weights stand for."""
        last = self.last.matrix()
        return last if self.first is None else self.first.matrix() @ last

    def solve(self, now: Matrix, moments: Moments) -> dict[str, Array]:
        """Weights of the same sizes that come closest to what is wanted.

        Args:
            now: what the weights stand for.
            moments: of what enters, and of what is missing.
        """
        cross = moments.cross + moments.gram @ now
        if self.first is None:
            v = ridge_regression(moments.gram, cross, now, rows=moments.rows)
            return {self.names[0]: self.last.stored(v)}
        near = now if self.weight is None else self.weight.matrix()
        rank = self.first.shape[1]
        factors = reduced_rank_regression(moments.gram, cross, near, rank, rows=moments.rows)
        both = zip(self.names, (self.first, self.last), factors, strict=True)
        return {name: product.stored(factor) for name, product, factor in both}

    def product(self, arrays: Mapping[str, Array]) -> Matrix:
        """What the stored arrays stand for, rounding included."""
        products = [self.last] if self.first is None else [self.first, self.last]
        factors = [one.read(arrays[name]) for one, name in zip(products, self.names, strict=True)]
        return factors[0] if len(factors) == 1 else factors[0] @ factors[1]
