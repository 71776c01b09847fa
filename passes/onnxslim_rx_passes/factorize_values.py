"""Values with narrower heads, and an output projection with fewer rows.

The context of a head is `A X Wv`, and goes through its rows Wo of the output projection: of the
two weights only the product counts, and its rank may be less than the width of the head.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import scipy.linalg

from onnxslim_rx.linalg.heads import value_error_curve, value_factors
from onnxslim_rx.linalg.matrix import Matrix
from onnxslim_rx.passbase import Factors
from onnxslim_rx_passes._attention import find_values
from onnxslim_rx_passes._head_pass import HeadPass, Members
from onnxslim_rx_passes._heads import Heads, take, times, with_heads
from onnxslim_rx_passes._projections import Projections
from onnxslim_rx_passes._softmax import is_probability

__all__ = ["FactorizeValues"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeValues(HeadPass):
    """Give values narrower heads, with the least change of what each adds to the output.

    Shapes: of H heads of width d, Wv (K, H d) and Wo (H d, N) become (K, H r) and (H r, N), with
    one r for all heads; Wv may be columns of a larger weight. No node is added.

    Each head keeps the r directions of its context that count most in what it adds to the output,
    under the second moments of the contexts. They go into Wv and the bias of the values. What stays
    of Wo is then fitted to the output of all heads together.

    Args:
        width: r; None: several for the planner to choose from.
        max_side: units with wider contexts are left alone.

    Raises:
        InputError: an option outside its range.

    Source: A3, Wong et al., arXiv 2505.12942, 2025 (attention); Eckart & Young, Psychometrika 1(3),
    1936 (the best product).
    """

    name: ClassVar[str] = "factorize-values"
    method: ClassVar[str] = "values"

    def find(self, product: ir.Node, known: Projections) -> Heads:
        """See `HeadPass.find`."""
        return find_values(product, known)

    def is_expected(self, product: ir.Node, known: Projections) -> bool:
        """See `HeadPass.is_expected`."""
        return is_probability(product.inputs[0])

    def error_curve(self, unit: Heads, arrays: Factors, members: Members) -> Matrix:
        """See `HeadPass.error_curve`; of the output."""
        gram, rows = _moments(unit, arrays, members)
        return value_error_curve(take(unit, arrays, 1)[0].T, gram, unit.heads, rows=rows)

    def narrow(self, unit: Heads, arrays: Factors, width: int, members: Members) -> Factors:
        """See `HeadPass.narrow`."""
        gram, rows = _moments(unit, arrays, members)
        output = take(unit, arrays, 1)[0].T
        p, q = value_factors(output, gram, unit.heads, width, rows=rows)
        values = [times(part, p) for part in take(unit, arrays, 0)]
        return with_heads(unit, arrays, [values, [q.reshape(-1, output.shape[1]).T]])


def _moments(unit: Heads, arrays: Factors, members: Members) -> tuple[Matrix, int | None]:
    """Gram matrix of the contexts, and rows; of white inputs of the values without statistics."""
    if members:
        gram = members[0].gram
        assert gram is not None  # or it would not be there
        return gram, max(members[0].rows, 1)
    parts = zip(take(unit, arrays, 0), unit.gains[0], strict=False)  # there may be no bias
    columns = np.vstack([part.reshape(-1, part.shape[-1]) * gain for part, gain in parts])
    by_head = columns.reshape(len(columns), unit.heads, -1).transpose(1, 0, 2)
    # heads look at different places: how their contexts are correlated is not known
    return scipy.linalg.block_diag(*by_head.transpose(0, 2, 1) @ by_head), None
