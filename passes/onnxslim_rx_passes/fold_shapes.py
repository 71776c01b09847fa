"""Replace what asks for a shape that is known."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._graph import Proofs, label

__all__ = ["FoldShapes"]


@dataclasses.dataclass(frozen=True)
class FoldShapes(RewritePass):
    """Replace `Shape`, `Size`, and `Gather` from a `Shape`, by constants where the sizes are known.

    Known is what follows from the inputs and weights of the model; sizes that the model leaves
    open stay open. Functions are left alone: their shapes differ from call to call.
    """

    name: ClassVar[str] = "fold-shapes"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        candidates = [
            node
            for node in model.graph.all_nodes()
            if node.domain == "" and node.op_type in ("Shape", "Size", "Gather")
        ]
        if not candidates:
            return PassResult(model, modified=False)
        proofs, editor = Proofs(model), Editor(model)
        folded, skipped = 0, []
        for node in candidates:
            array = _value(node, proofs)
            value = node.outputs[0]
            if array is None:
                if node.op_type != "Gather":
                    skipped.append(Skipped(label(node), "the size is open"))
                continue
            if value.is_graph_output():
                skipped.append(Skipped(label(node), "the graph returns it"))
                continue
            assert node.graph is not None  # it was found by walking its graph
            inputs = list(node.inputs)
            new = editor.constant(node.graph, ir.tensor(array), str(value.name))
            value.replace_all_uses_with(new)
            remove(node)
            editor.remove_unused(inputs)
            folded += 1
        return PassResult(model, folded > 0, folded, tuple(skipped))


def _value(node: ir.Node, proofs: Proofs) -> np.ndarray | None:
    """What the node gives, int64, if that is known."""
    if node.op_type == "Shape":
        return _numbers(_asked(node, proofs))
    if node.op_type == "Size":
        sizes = proofs.sizes(node.inputs[0])
        return None if sizes is None else np.asarray(math.prod(sizes), dtype=np.int64)
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    indices = constant(node.inputs[1])
    if source is None or source.op_type != "Shape" or source.domain != "" or indices is None:
        return None
    dims, wanted = _asked(source, proofs), indices.numpy()
    if dims is None or not ((-len(dims) <= wanted) & (wanted < len(dims))).all():
        return None
    numbers = _numbers([dims[i] for i in wanted.ravel()])
    return None if numbers is None else numbers.reshape(wanted.shape)


def _asked(shape: ir.Node, proofs: Proofs) -> list[int | ir.SymbolicDim] | None:
    """The dimensions that a Shape node gives, as far as they are known."""
    known = proofs.shape(shape.inputs[0])
    if known is None:
        return None
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", None)
    return list(known)[start:end]


def _numbers(dims: list[int | ir.SymbolicDim] | None) -> np.ndarray | None:
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return np.asarray(dims, dtype=np.int64)
