"""Replace what is computed from shapes that are known."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Dim
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["FoldShapes"]


@dataclasses.dataclass(frozen=True)
class FoldShapes(Rule):
    """Replace `Shape`, and arithmetic with sizes, by constants where the sizes are known.

    Known is what follows from the inputs and weights of the model; sizes that the model leaves
    open stay open. `(batch * 4) / 4` is `batch`, and `Shape(x)[1]` of x (batch, 3) is 3. Integer
    tensors of rank 0 and 1 with up to 64 elements.
    """

    name: ClassVar[str] = "fold-shapes"
    roots: ClassVar[tuple[str, ...]] = (
        "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape", "Div",
        "Equal", "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
        "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax",
        "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Squeeze",
        "Sub", "Tile", "Unsqueeze", "Where", "Xor",
    )  # fmt: skip

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if len(node.outputs) != 1:
            return False
        (value,) = node.outputs
        contents = scene.facts.contents(value)
        if contents is None or not _is_wanted(value, scene):
            return False
        numbers = [dim for dim in contents if isinstance(dim, int)]
        if len(numbers) < len(contents):
            return False
        if value.is_graph_output():
            return Skip("the graph returns it")
        dtype, rank = scene.facts.dtype(value), scene.facts.rank(value)
        if dtype is None or rank is None:
            return False
        array = np.asarray(numbers, dtype=dtype.numpy()).reshape((-1,) if rank else ())
        return scene.forward(node, value, scene.constant(node, ir.tensor(array), str(value.name)))


def _is_wanted(value: ir.Value, scene: Scene) -> bool:
    """Whether somebody reads `value` who will not be folded as well."""
    return any(not _is_known(use.node, scene) for use in value.uses()) or value.is_graph_output()


def _is_known(node: ir.Node, scene: Scene) -> bool:
    if node.domain != "" or node.op_type not in FoldShapes.roots or len(node.outputs) != 1:
        return False
    (value,) = node.outputs
    contents: tuple[Dim, ...] | None = scene.facts.contents(value)
    is_number = contents is not None and all(isinstance(dim, int) for dim in contents)
    return is_number and not value.is_graph_output() and constant(value) is None
