"""What is known of the inputs of layers that a stage made, from what was known of the layer's own.

What reads the layer's activation has its statistics. What reads the product of that with a constant
`P` has the Gram matrix `P^T G P`, and behind a table that rows are looked up in, `P^T diag(n) P`
with the counts n of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, LayerStatistics

__all__ = ["inherited", "statistics_by_input"]

Matrix = npt.NDArray[np.float64]


def statistics_by_input(
    layer: Layer, stats: LayerStatistics | None
) -> dict[ir.Value, LayerStatistics]:
    """What enters a layer, or its members, and what is known of that."""
    members = stats.members if stats is not None else ()
    pairs = [(layer, stats), *zip(layer.members, members, strict=False)]
    found: dict[ir.Value, LayerStatistics] = {}
    for one, known in reversed(pairs):
        entering = one.node.inputs[one.activation_index]
        # a node that an earlier treatment took out of the graph reads nothing any more
        if known is not None and entering is not None:
            found[entering] = known
    return found


def inherited(known: Mapping[ir.Value, LayerStatistics], layer: Layer) -> LayerStatistics | None:
    """The statistics of a layer among the nodes that a stage made, or None.

    Args:
        known: see `statistics_by_input`.
        layer: its activation is one of those, or a product of one with a constant matrix.
    """
    own = known.get(layer.activation)
    if own is not None:
        return own
    node = layer.activation.producer()
    if node is None or node.domain != "" or node.op_type not in ("Gather", "MatMul"):
        return None
    for place, source in enumerate(node.inputs[:2]):
        before = None if source is None else known.get(source)
        factor = constant(node.inputs[1 - place])
        if before is None or factor is None or len(factor.shape) != 2:
            continue
        gram = _behind(before, factor.numpy().astype(np.float64), node.op_type, place)
        if gram is not None:
            return LayerStatistics(gram, None, before.rows, None, ())
    return None


def _behind(before: LayerStatistics, factor: Matrix, op: str, place: int) -> Matrix | None:
    """Second moments of what a factor makes of what enters at input `place`."""
    if op == "Gather":
        counts = before.counts
        fits = place == 1 and counts is not None and len(counts) == len(factor)
        return (factor.T * counts) @ factor if fits and counts is not None else None
    p = factor if place == 0 else factor.T
    if before.gram is None or len(before.gram) != len(p):
        return None
    product: Matrix = p.T @ before.gram @ p
    return product
