"""What leaves a layer behind the activation that runtimes compute together with it."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["activated"]

_FUSED = ("Relu", "Clip")


def activated(value: ir.Value) -> ir.Value:
    """The output of the Relu or Clip that alone reads `value`, or `value` itself.

    Integer kernels saturate: the activation is what their output's range leaves of it.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return value
    ((node, index),) = uses
    fits = node.domain == "" and node.op_type in _FUSED and index == 0
    return node.outputs[0] if fits and node.graph is value.graph else value
