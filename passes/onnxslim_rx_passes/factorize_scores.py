"""Queries and keys with narrower heads.

The scores of a head are `(x Wq + bq) (y Wk + bk)^T`: of the weights only their product counts, and
its rank may be less than the width of the head.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.linalg.heads import augmented_gram, head_roots, score_bases, score_error_curve
from onnxslim_rx.linalg.matrix import Matrix
from onnxslim_rx.linalg.moments import centred_gram, ridge
from onnxslim_rx.passbase import Factors
from onnxslim_rx_passes._attention import find_scores
from onnxslim_rx_passes._head_pass import HeadPass, Members
from onnxslim_rx_passes._heads import Heads, take, times, with_heads
from onnxslim_rx_passes._projections import Projections
from onnxslim_rx_passes._softmax import softmax_of

__all__ = ["FactorizeScores"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeScores(HeadPass):
    """Give queries and keys narrower heads, with the least change of the scores.

    Shapes: of H heads of width d, Wq (K, H d) and Wk (K', H d) become (K, H r) and (K', H r), with
    one r for all heads. They may be columns of one weight. No node is added, and the scale of the
    scores stays what it was.

    For each head `[x 1] [Wq; bq] [Wk; bk]^T [y 1]^T` is replaced by the best product of rank r
    under the second moments of x and y. Where the scores go into a softmax over keys, what is
    constant over keys has no effect: then bk drops, and only how keys differ from their mean
    counts.

    Args:
        width: r; None: several for the planner to choose from.
        max_side: units with wider inputs are left alone: each probe multiplies a square matrix of
            that side.

    Raises:
        InputError: an option outside its range.

    Source: A3, Wong et al., arXiv 2505.12942, 2025 (attention); Eckart & Young, Psychometrika 1(3),
    1936 (the best product).
    """

    name: ClassVar[str] = "factorize-scores"
    method: ClassVar[str] = "scores"

    def find(self, product: ir.Node, known: Projections) -> Heads:
        """See `HeadPass.find`."""
        return find_scores(product, known)

    def is_expected(self, product: ir.Node, known: Projections) -> bool:
        """See `HeadPass.is_expected`."""
        return softmax_of(product.outputs[0], known) is not None

    def error_curve(self, unit: Heads, arrays: Factors, members: Members) -> Matrix:
        """See `HeadPass.error_curve`; of the scores, all heads together."""
        return score_error_curve(*_roots(unit, arrays, members))

    def narrow(self, unit: Heads, arrays: Factors, width: int, members: Members) -> Factors:
        """See `HeadPass.narrow`."""
        query, key = score_bases(*_roots(unit, arrays, members), width)
        queries = [times(part, query) for part in take(unit, arrays, 0)]
        weight, *bias = [times(part, key) for part in take(unit, arrays, 1)]
        if unit.free:
            bias = [np.zeros_like(part) for part in bias]
        return with_heads(unit, arrays, [queries, [weight, *bias]])


def _roots(unit: Heads, arrays: Factors, members: Members) -> tuple[Matrix, Matrix]:
    """Roots of the moments of queries and keys."""
    found = []
    for side in (0, 1):
        weight, *bias = take(unit, arrays, side)
        weight = weight * unit.gains[side][0]
        gram, mean, rows = np.eye(len(weight)), np.zeros(len(weight)), 1
        if members:  # queries and keys of the same input have one between them
            one = members[-side]
            assert one.gram is not None  # or it would not be there
            gram, rows = one.gram, max(one.rows, 1)
            mean = mean if one.mean is None else one.mean
        if side == 1 and unit.free:
            gram = centred_gram(gram, mean, rows)
        gram = gram + np.eye(len(gram)) * ridge(gram, rows if members else None)
        if side == 0 or not unit.free:
            row = bias[0].reshape(1, -1) if bias else np.zeros((1, weight.shape[1]))
            weight = np.vstack([weight, row * unit.gains[side][1]])
            gram = augmented_gram(gram, mean, rows)
        found.append(head_roots(weight, gram, unit.heads))
    return found[0], found[1]
