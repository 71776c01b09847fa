"""What several passes ask of a graph."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["has_reference", "is_random", "label"]

_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def label(node: ir.Node) -> str:
    """How a node is called in reports."""
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)


def has_reference(node: ir.Node) -> bool:
    """Whether an attribute is that of the function around the node, so not known here."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def is_random(node: ir.Node) -> bool:
    """Whether two runs of a standard operator may give different results."""
    training = node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    return node.domain == "" and (node.op_type in _RANDOM or training)
