"""Regions of elementwise operators, which do not care where in a tensor an element lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxslim_rx.rules import Scene

__all__ = [
    "BROADCASTING",
    "MOST_NODES",
    "UNARY",
    "in_order",
    "is_pointwise",
    "is_read_by",
    "operands",
]

UNARY = {
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "DequantizeLinear", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
}  # fmt: skip
BROADCASTING = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean",
    "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
}  # fmt: skip

MOST_NODES = 64
"""Larger regions are left alone."""


def is_read_by(node: ir.Node, readers: Collection[ir.Node]) -> bool:
    """Whether nothing but these nodes reads the result of `node`."""
    value = node.outputs[0]
    return not value.is_graph_output() and all(use.node in readers for use in value.uses())


def in_order(last: ir.Node, found: Collection[ir.Node]) -> list[ir.Node]:
    """The nodes of a region, each after those that it reads."""
    done: dict[ir.Node, None] = {}
    todo = [last]
    while todo:
        before = [node for node in todo[-1].predecessors() if node in found and node not in done]
        if before:
            todo.extend(before)
        else:
            done[todo.pop()] = None
    return list(done)


def operands(node: ir.Node) -> Sequence[ir.Value | None]:
    """The inputs that are tensors of the region, or constants that fit to them."""
    return node.inputs[:1] if node.op_type in UNARY else node.inputs


def is_pointwise(node: ir.Node, scene: Scene) -> bool:
    """Whether the parameters of `node` are numbers, not one for each position along an axis."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return all(value is None or scene.facts.sizes(value) == () for value in node.inputs[1:])
    return "broadcast" not in node.attributes  # as opsets up to 6 aligned operands
