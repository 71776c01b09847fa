"""What a graph tells about the values and sizes that its inputs may have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxslim_rx.ir import clone, constant, nodes

__all__ = ["Facts", "Size", "find_facts"]

Size = int | str | None
"""Of an axis: a number, a symbolic dimension, or not known."""

# these outputs hold values of input 0, perhaps at other places
_MOVES = {
    "Cast", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
    "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
# these outputs have the axes of any input
_KEEPS_AXES = {
    "Add", "BatchNormalization", "Cast", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu",
    "Identity", "LayerNormalization", "LeakyRelu", "Log", "Mul", "Pow", "Relu", "Sigmoid",
    "Softmax", "Sqrt", "Sub", "Tanh",
}  # fmt: skip
# which input is an index, and into which axis (by default) of which other input
_INDEXES = {
    ("Gather", 1): (0, 0),
    ("GatherElements", 1): (0, 0),
    ("GatherND", 1): (0, 0),
    ("GatherBlockQuantized", 1): (0, 0),
    ("ScatterElements", 1): (0, 0),
    ("EmbedLayerNormalization", 0): (2, 0),
    ("EmbedLayerNormalization", 1): (4, 0),
}


@dataclasses.dataclass
class Facts:
    """What the graph tells about one input.

    Args:
        indexes: `(size, shift)`: the values plus `shift` index an axis of that size.
        compared: constants that the values are compared with for equality.
        is_length: the values say how many steps of a sequence count.
        sizes: size of an axis (from the front) where a weight fixes it.
        scale, shift: the graph turns an input x into `scale * x + shift` before anything else.
        waveform: the last axis enters a one-dimensional convolution or Fourier transform with a
            long kernel, as sound does.
    """

    indexes: list[tuple[Size, int]] = dataclasses.field(default_factory=list)
    compared: set[float] = dataclasses.field(default_factory=set)
    is_length: bool = False
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    scale: float = 1.0
    shift: float = 0.0
    waveform: bool = False


@dataclasses.dataclass(frozen=True)
class _Trace:
    """A value that holds `input + shift`, perhaps at other places."""

    value: ir.Value
    shift: float = 0.0


def find_facts(model: ir.Model) -> dict[str, Facts]:
    """Follow every input of the main graph through whatever moves or shifts its values."""
    if model.functions:
        model = clone(model)
        common.InlinePass()(model)
    branches = _branch_outputs(model)
    return {str(value.name): _follow(value, branches) for value in model.graph.inputs}


def _branch_outputs(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """What an If gives for each output of its branches."""
    return {
        inner: outer
        for node in nodes(model)
        if node.op_type == "If"
        for branch in ("then_branch", "else_branch")
        for inner, outer in zip(
            node.attributes[branch].as_graph().outputs, node.outputs, strict=True
        )
    }


def _follow(start: ir.Value, branches: Mapping[ir.Value, ir.Value]) -> Facts:
    facts = Facts()
    facts.scale, facts.shift = _normalisation(start)
    facts.sizes = _fixed_sizes(start)
    seen: set[_Trace] = set()
    stack = [_Trace(start)]
    while stack:
        trace = stack.pop()
        if trace in seen:
            continue
        seen.add(trace)
        if trace.value in branches:
            stack.append(dataclasses.replace(trace, value=branches[trace.value]))
        for node, index in trace.value.uses():
            _note(facts, trace, node, index)
            stack.extend(_onward(trace, node, index))
    return facts


def _onward(trace: _Trace, node: ir.Node, index: int) -> Iterator[_Trace]:
    """Outputs of `node` that still hold the input's values, perhaps shifted."""
    shift = trace.shift
    if node.op_type in ("Add", "Sub") and not (node.op_type == "Sub" and index == 1):
        other = _number(node.inputs[1 - index])
        if other is None:
            return
        shift += other if node.op_type == "Add" else -other
    elif not (
        (node.op_type in _MOVES and index == 0)
        or node.op_type == "Concat"
        or (node.op_type == "Where" and index > 0)
    ):
        return
    for output in node.outputs:
        yield _Trace(output, shift)


def _note(facts: Facts, trace: _Trace, node: ir.Node, index: int) -> None:
    """Add to `facts` what this use of the value tells."""
    op, shift = node.op_type, round(trace.shift)
    if (op, index) in _INDEXES:
        table, axis = _INDEXES[op, index]
        axis = node.attributes.get_int("gather_axis", node.attributes.get_int("axis", axis))
        facts.indexes.append((_size(node.inputs[table], axis), shift))
    elif op == "OneHot" and index == 0:
        depth = _number(node.inputs[1])
        facts.indexes.append((None if depth is None else int(depth), shift))
    elif op == "Equal":
        other = constant(node.inputs[1 - index])
        if other is not None and other.size == 1:
            facts.compared.add(float(other.numpy().reshape(-1)[0]) - trace.shift)
        elif other is not None and np.array_equal(other.numpy().ravel(), np.arange(other.size)):
            facts.indexes.append((other.size, shift))  # one-hot, written out
    elif op in ("LSTM", "GRU", "RNN") and index == 4:
        facts.is_length = True
    if op in ("STFT", "Conv") and index == 0:
        facts.waveform |= _long_kernel(node)


def _fixed_sizes(start: ir.Value) -> dict[int, int]:
    """Sizes of axes of `start` that weights fix; negative axes count from the end."""
    sizes: dict[int, int] = {}
    seen = {start}
    stack = [start]
    while stack:
        for node, index in stack.pop().uses():
            if index == 0:
                sizes.update(_sizes_before(node))
            fresh = {node.outputs[0]} - seen if node.op_type in _KEEPS_AXES else set()
            seen |= fresh
            stack.extend(fresh)
    return sizes


def _sizes_before(node: ir.Node) -> dict[int, int]:
    """Sizes of axes of the node's first input that its weight fixes."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    shape = () if weight is None else tuple(int(size) for size in weight.shape.numpy())
    if node.op_type == "MatMul" and len(shape) >= 2:
        return {-1: shape[-2]}
    if node.op_type == "Gemm" and len(shape) == 2:
        inner = shape[1] if node.attributes.get_int("transB", 0) else shape[0]
        return {0 if node.attributes.get_int("transA", 0) else 1: inner}
    if node.op_type == "Conv" and len(shape) >= 3:
        return {1: shape[1] * node.attributes.get_int("group", 1)}
    if node.op_type == "BatchNormalization" and shape:
        return {1: shape[0]}
    if node.op_type in ("LSTM", "GRU", "RNN") and len(shape) == 3:
        return {2: shape[2]}
    if node.op_type in ("Add", "Sub", "Mul", "Div", "LayerNormalization") and shape:
        return {-1: shape[-1]} if shape[-1] > 1 else {}
    return {}


def _long_kernel(node: ir.Node) -> bool:
    if node.op_type == "STFT":
        return True
    weight = constant(node.inputs[1])
    return weight is not None and len(weight.shape) == 3 and int(weight.shape.numpy()[2]) >= 10


def _size(value: ir.Value | None, axis: int) -> Size:
    """Size of `axis` of a table, also where the graph computes it from a stored one."""
    for _ in range(8):  # a table is a few steps away from its weight: casts, scales
        if value is None:
            return None
        tensor = constant(value)
        shape = value.shape if tensor is None else tensor.shape
        if shape is not None and -len(shape) <= axis < len(shape):
            dim = shape[axis]
            if isinstance(dim, int):
                return dim
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                return dim.value
        producer = value.producer()
        if producer is None or producer.op_type not in (
            "Cast", "DequantizeLinear", "Identity", "Mul", "Add"
        ):  # fmt: skip
            return None
        value = producer.inputs[0]
    return None


def _number(value: ir.Value | None) -> float | None:
    """A constant with one element, as a number."""
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _normalisation(value: ir.Value) -> tuple[float, float]:
    """`(scale, shift)` of what a graph does first: subtract means, divide by deviations.

    Constants for each channel are averaged.
    """
    scale, shift = 1.0, 0.0
    while len(uses := value.uses()) == 1:
        ((node, index),) = uses
        op = node.op_type
        if op in ("Add", "Sub", "Mul", "Div"):
            tensor = constant(node.inputs[1 - index])
            if tensor is None or not 1 <= tensor.size <= 4 or (index == 1 and op in ("Sub", "Div")):
                break
            other = float(np.mean(tensor.numpy().astype(np.float64)))
            if op in ("Mul", "Div") and other != 0.0:
                factor = other if op == "Mul" else 1.0 / other
                scale, shift = scale * factor, shift * factor
            elif op in ("Add", "Sub"):
                shift += other if op == "Add" else -other
        elif op not in ("Cast", "Identity", "Transpose", "Unsqueeze"):
            break
        value = node.outputs[0]
    return (scale, shift) if scale else (1.0, 0.0)
