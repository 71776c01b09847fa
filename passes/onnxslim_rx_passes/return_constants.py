"""Let subgraphs return constants without a node in between."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Rule, Scene

__all__ = ["ReturnConstants"]

_LARGEST = 1024
_FIRST_FREE_INITIALIZERS = 4


@dataclasses.dataclass(frozen=True)
class ReturnConstants(Rule):
    """Replace `Identity(c)` that a branch or a loop's body returns by a constant of its own.

    Exporters write the condition of a loop that never ends early so. Results of subgraphs are told
    by their order, so names do not matter; those of the model itself stay. Up to 1 KiB.
    """

    name: ClassVar[str] = "return-constants"
    roots: ClassVar[tuple[str, ...]] = ("Identity",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        (value,), graph = node.outputs, node.graph
        if graph is None or graph is scene.model.graph or not value.is_graph_output():
            return False
        source = node.inputs[0]
        array = scene.facts.array(source)
        tops = {function.graph for function in scene.model.functions.values()}
        if source is None or array is None or graph in tops:
            return False
        if array.nbytes > _LARGEST:
            return Skip("the constant is large")
        if scene.model.ir_version < _FIRST_FREE_INITIALIZERS:
            return Skip("this version of the format has no constants but nodes in subgraphs")
        tensor = ir.Tensor(array.copy(), name=value.name)
        new = ir.Value(
            type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
        new.name, value.name = value.name, None
        graph.register_initializer(new)
        value.replace_all_uses_with(new, replace_graph_outputs=True)
        remove(node)
        scene.editor.remove_unused([source])
        return True
