"""Layers that ONNX Runtime computes on integers where QuantizeLinear pairs stand around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim_rx.analysis import activated
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, Skipped, weight_layers
from onnxslim_rx_passes._complex_parts import why_not_one_scale
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._qdq_grids import CLAMPS, bounds_of

__all__ = ["bias_value", "made_by_conv", "static_layers"]

_KINDS = {
    "linear": "linear",
    "linear-left": "linear",
    "linear-batched": "linear",
    "conv": "conv",
    "conv-transpose": "conv",
    "recurrent": "recurrent",
}
# versions of the standard operators: a scale for each channel, 16 bits
_FIRST_PER_AXIS, _FIRST_WIDE = 13, 21


def static_layers(
    model: ir.Model, min_elements: int, activations: ir.DataType
) -> Iterator[Layer | Skipped]:
    """Conv, Gemm and MatMul of the main graph, and what is refused of their kind.

    The unit of a Conv includes the Relu or Clip behind it, that of a MatMul the Add of its bias.

    Args:
        model: not changed.
        min_elements: smaller weights are refused.
        activations: type of their integers.
    """
    first = _FIRST_WIDE if activations.bitwidth > 8 else _FIRST_PER_AXIS
    for layer in weight_layers(model, _KINDS, min_elements=min_elements, depthwise=True):
        if isinstance(layer, Skipped):
            yield layer
        elif why := _why_not(layer, model, first):
            yield Skipped(layer.name, f"{layer.op}: {why}")
        else:
            yield _with_rest(layer)


def _with_rest(layer: Layer) -> Layer:
    behind = _bias_node(layer) if layer.op == "MatMul" else None
    if layer.op == "Conv":
        behind = activated(layer.output).producer()
    if behind is None or behind is layer.node:
        return layer
    return Layer(
        name=layer.name,
        op=layer.op,
        kind=layer.kind,
        node=layer.node,
        weight_index=layer.weight_index,
        activation_index=layer.activation_index,
        region=(layer.node, behind),
    )


def _bias_node(layer: Layer) -> ir.Node | None:
    """The Add of one number for each column behind a MatMul that nobody else reads."""
    uses = layer.output.uses()
    if len(uses) != 1 or layer.output.is_graph_output():
        return None
    ((node, index),) = uses
    if (node.op_type, node.domain) != ("Add", "") or node.graph is not layer.node.graph:
        return None
    tensor = constant(node.inputs[1 - index])
    width = tensor_of(layer.weight).shape[-1]
    return node if tensor is not None and tuple(tensor.shape.numpy()) == (width,) else None


def bias_value(layer: Layer) -> ir.Value | None:
    """What is added to the product, if anything."""
    if layer.op != "MatMul":
        return layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    if len(layer.nodes) == 1:
        return None
    left, right = layer.nodes[1].inputs
    return right if left is layer.output else left


def _why_not(layer: Layer, model: ir.Model, first: int) -> str | None:
    tensor = tensor_of(layer.weight)
    if (opset := model.opset_imports.get("", 1)) < first:
        what = "16 bits" if first == _FIRST_WIDE else "scales for single channels"
        return f"opset {opset} has no {what} in DequantizeLinear; {first} is the first that does"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"integers stand for float32 here, not for {tensor.dtype.name.lower()}"
    if layer.node.graph is not model.graph:
        return "it lies in a subgraph, where what enters is not observed"
    if len(layer.weight.uses()) > 1:
        return f"{len(layer.weight.uses())} nodes share it"
    if layer.op == "Conv":  # channels of images differ as much as parts: measurements will tell
        return _why_not_conv(layer)
    if layer.op not in ("Gemm", "MatMul"):
        return "ONNX Runtime has no kernel on integers for it"
    if layer.weight_index != 1 or len(tensor.shape) != 2:
        return "kernels on integers want a constant matrix on the right"
    if layer.node.attributes.get_int("transA", 0):
        return "its activation is transposed"
    return why_not_one_scale(layer)


def _why_not_conv(layer: Layer) -> str | None:
    bias = bias_value(layer)
    if bias is not None and constant(bias) is None:
        return "its bias is computed"
    behind = activated(layer.output).producer()
    if behind is not None and behind is not layer.node:
        low, high = bounds_of(behind)
        if not low <= 0 <= high:  # NaN as well
            return "the bounds of its Clip are computed, or do not include 0"
    return None


def made_by_conv(value: ir.Value) -> bool:
    """Whether a Conv makes it, also through the Relu or Clip behind it."""
    node = value.producer()
    if node is not None and node.domain == "" and node.op_type in CLAMPS:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node is not None and (node.op_type, node.domain) == ("Conv", "")
