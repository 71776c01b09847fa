"""Constants that hold real and imaginary parts along a last axis of size 2, whoever reads them.

Exporters of complex-valued layers leave such constants to Einsum, Mul (with a sum behind it), and
Gather or Slice that pick a part. To other passes they are no weights of a layer; they can be stored
differently all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim_rx.analysis import WeightUse, constant_root, weight_uses
from onnxslim_rx.ir import constant, graphs_in
from onnxslim_rx.passbase import Layer, Skipped
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["PARTS", "part_axes", "part_layers"]

PARTS = "parts"
"""The kind of these layers."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
_PRODUCTS, _PICKS = ("Einsum", "Mul"), ("Gather", "Slice")


def part_layers(model: ir.Model, min_elements: int) -> Iterator[Layer | Skipped]:
    """Constants (..., 2) of rank 3 and more that Einsum, Mul, Gather or Slice read.

    Those of rank 2 are left alone: they are vectors, such as the poles of a recurrence, which
    hardly take up space and must be exact.

    Args:
        model: not changed.
        min_elements: smaller ones are refused.

    Yields:
        Layers of the kind `PARTS`, one for each constant, with the first node that reads it; its
        activation may be a constant (what a Gather picks).
    """
    outside_functions = set(graphs_in(model.graph))
    seen: set[ir.Value] = set()
    for use in weight_uses(model, min_elements=min_elements):
        if use.through or use.weight in seen or not _holds_parts(use):
            continue
        seen.add(use.weight)
        why = _why_not(use, min_elements)
        if not why and use.graph not in outside_functions:
            why = "lies in a function"
        name, op = str(use.weight.name), use.node.op_type
        if why:
            yield Skipped(name, f"{op}: {why}")
        else:
            yield Layer(name, op, PARTS, use.node, use.index, _activation(use.node, use.index))


def part_axes(layer: Layer) -> tuple[int, ...]:
    """The axes of the constant that are told apart: that of the parts, and those of channels.

    Of an Einsum, channels are what it does not sum over; else, what the first axis counts.
    """
    last = len(tensor_of(layer.weight).shape) - 1
    if layer.op != "Einsum":
        return (0, last)
    equation = layer.node.attributes.get_string("equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    letters = terms.split(",")[layer.weight_index]
    kept = [axis for axis, letter in enumerate(letters[:last]) if letter in result]
    return (*kept, last)


def _holds_parts(use: WeightUse) -> bool:
    shape = use.tensor.shape.numpy()
    if len(shape) < 3 or shape[-1] != 2 or use.tensor.dtype not in _FLOATS:
        return False
    # elsewhere, two entries along the last axis are two taps of a kernel, or two outputs
    return use.kind == "other" or use.node.op_type in _PICKS


def _why_not(use: WeightUse, min_elements: int) -> str:
    if constant(use.weight) is None or use.weight.is_graph_output():
        return "is also an input or output of the graph"
    if use.tensor.size < min_elements:
        return f"has {use.tensor.size} elements, below {min_elements}"
    for reader, index in use.weight.uses():
        if why := _why_not_read(reader, index, use.weight):
            return why
    return ""


def _why_not_read(node: ir.Node, index: int, weight: ir.Value) -> str:
    if node.domain != "" or node.op_type not in (*_PRODUCTS, *_PICKS):
        return f"is read by {node.op_type}, real and imaginary parts"
    if node.op_type in _PICKS:
        return "" if index == 0 else "says what is picked"
    others = [value for value in node.inputs if value is not None and value is not weight]
    if not others or any(constant_root(value)[0] is not None for value in others):
        return "all inputs are constants: folds away"
    equation = node.attributes.get_string("equation", "") if node.op_type == "Einsum" else ""
    if "..." in equation or (equation and "->" not in equation):
        return "its equation has an ellipsis, or no result"
    return ""


def _activation(node: ir.Node, index: int) -> int:
    return 1 if index == 0 else 0
