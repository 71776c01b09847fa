"""Let the body of a loop return a constant without a copy."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Rule, Scene

__all__ = ["ReturnConstants"]

_LARGEST = 1024
"""Elements of a constant that may be stored once more, in the body."""

_INITIALIZERS_FROM = 4
"""Version of the format from which an initializer need not be an input of its graph."""


@dataclasses.dataclass(frozen=True)
class ReturnConstants(Rule):
    """Let the body of a loop return a constant without a copy.

    `Identity(True)` as the condition for another step, which exporters write for a loop of a
    fixed number of steps, becomes an initializer of the body that the body returns.
    """

    name: ClassVar[str] = "return-constants"
    roots: ClassVar[tuple[str, ...]] = ("Loop", "Scan")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        body = node.attributes["body"].as_graph()
        found = False
        for index, value in enumerate(body.outputs):
            copy = scene.maker(value, "Identity")
            if copy is None or copy.graph is not body or value.uses():
                continue
            array, dtype = scene.facts.array(copy.inputs[0]), scene.facts.dtype(copy.inputs[0])
            if array is None or list(body.outputs).count(value) > 1:
                continue
            if array.size > _LARGEST or scene.model.ir_version < _INITIALIZERS_FROM:
                return Skip("the constant is large, or the format keeps it an input")
            constant = ir.Value(
                name=scene.editor.fresh(f"{value.name}/constant"),
                type=value.type or (None if dtype is None else ir.TensorType(dtype)),
                shape=ir.Shape(array.shape),
                const_value=ir.tensor(array.copy(), dtype=dtype),
            )
            body.register_initializer(constant)
            body.outputs[index] = constant
            unused = list(copy.inputs)
            remove(copy)
            scene.editor.remove_unused(unused)
            found = True
        return found
