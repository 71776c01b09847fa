"""Turn Constant nodes into initializers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx
import onnx_ir as ir

from onnxslim_rx.ir import constant, nodes_in
from onnxslim_rx.ir.walk import MARK
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import remove
from onnxslim_rx_passes._graph import label

__all__ = ["LiftConstants"]


@dataclasses.dataclass(frozen=True)
class LiftConstants(RewritePass):
    """Turn Constant nodes into initializers of the same name, in the graph that holds the node.

    Not in functions, which have no initializers, and not before version 4 of the format, where
    each initializer would have to be an input.
    """

    name: ClassVar[str] = "lift-constants"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        if model.ir_version < 4:
            why = f"version {model.ir_version} of the format has no initializers beside inputs"
            return PassResult(model, modified=False, skipped=(Skipped("the model", why),))
        lifted, skipped = 0, []
        for node in list(nodes_in(model.graph)):
            if node.op_type != "Constant" or node.domain != "":
                continue
            why_not = _lift(node)
            if why_not is None:
                lifted += 1
            else:
                skipped.append(Skipped(label(node), why_not))
        return PassResult(model, lifted > 0, lifted, tuple(skipped))


def _lift(node: ir.Node) -> str | None:
    """Lift one node, or say why not."""
    value, graph = node.outputs[0], node.graph
    tensor = constant(value)
    if tensor is None:
        return "its value is not a dense tensor"
    if value.is_graph_output():
        return "the graph returns it"
    assert graph is not None  # it was found by walking its graph
    # a copy: the initializer's name goes to the tensor, and other models may share the attribute
    proto = onnx.TensorProto()
    proto.CopyFrom(ir.serde.serialize_tensor(tensor))
    tensor = ir.serde.deserialize_tensor(proto)
    initializer = ir.Value(
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
        doc_string=value.doc_string or node.doc_string,
        metadata_props={
            key: text
            for key, text in (*node.metadata_props.items(), *value.metadata_props.items())
            if key != MARK  # the pass made a node, which is gone
        },
    )
    value.replace_all_uses_with(initializer)
    remove(node)
    initializer.name, value.name = value.name, None
    graph.register_initializer(initializer)
    return None
