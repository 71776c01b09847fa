"""Shapes and multiply-adds of operators of our own domain, `ai.onnxslim.rx`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.shapes import Shape

__all__ = ["DOMAIN", "WEIGHTS", "native_macs", "native_shape", "stage_shapes"]

DOMAIN = "ai.onnxslim.rx"

WEIGHTS = {"QuantMatMul": 1, "QuantGather": 0, "QuantConv": 1}
"""Operators on weights in blocks, and which input holds the integers."""

_FIRST_KERNEL = 2  # of ConvChain, behind X and the bias


def native_shape(node: ir.Node, inputs: Sequence[Shape | None]) -> Shape | None:
    """Shape of the output, or None where the operator or its inputs are not known."""
    shapes = (*inputs, *[None] * 3)
    x, second, third = shapes[0], shapes[1], shapes[2]
    attributes = node.attributes
    if node.op_type == "QuantGather":
        return None if second is None else (*second, attributes.get_int("columns", None))
    if x is None:
        return None
    if node.op_type == "QuantMatMul":
        return (*x[:-1], attributes.get_int("N", None))
    if node.op_type == "LowRankMatMul":
        return None if third is None else (*x[:-1], third[-1])
    if node.op_type in ("QuantConv", "ConvChain"):
        return next(reversed(list(stage_shapes(node, inputs))), None)
    return None


def stage_shapes(node: ir.Node, inputs: Sequence[Shape | None]) -> Iterator[Shape]:
    """Shape behind each convolution of a QuantConv or ConvChain; nothing where none is known."""
    x = inputs[0]
    if x is None:
        return
    batch, sizes = x[0], list(x[2:])
    rank = len(sizes)
    chain = node.op_type == "ConvChain"
    axes = 2 if chain else rank  # a chain states two, also for one
    ints = node.attributes.get_ints
    stages = node.attributes.get_int("stages", 1) if chain else 1
    kernels = ints("kernel_shapes" if chain else "kernel_shape", [1] * (axes * stages))
    strides = ints("strides", [1] * (axes * stages))
    dilations = ints("dilations", [1] * (axes * stages))
    pads = ints("pads", [0] * (2 * axes * stages))
    for stage in range(stages):
        kernel = inputs[_FIRST_KERNEL + stage if chain else 1]
        for i in range(rank):
            at = axes * stage + axes - rank + i
            before = 2 * axes * stage + axes - rank + i
            sizes[i] = _slide(
                sizes[i], kernels[at], strides[at], pads[before] + pads[before + axes],
                dilations[at],
            )  # fmt: skip
        yield (batch, None if kernel is None else kernel[0], *sizes)


def _slide(size: int | None, kernel: int, stride: int, padding: int, dilation: int) -> int | None:
    if size is None:
        return None
    return max(0, (size + padding - ((kernel - 1) * dilation + 1)) // stride + 1)


def native_macs(node: ir.Node, inputs: Sequence[Shape | None]) -> int | None:
    """Multiply-adds of a node, or None where a size is not known."""
    if node.op_type == "QuantGather":
        return 0
    if node.op_type in ("QuantConv", "ConvChain"):
        return _convolved(node, inputs)
    x = _whole(inputs[0])
    if x is None:
        return None
    if node.op_type == "QuantMatMul":
        return math.prod(x) * node.attributes.get_int("N", 0)
    first, second = _whole(inputs[1]), _whole(inputs[2])
    if first is None or second is None:
        return None
    return math.prod(x[:-1]) * (math.prod(first) + math.prod(second))


def _convolved(node: ir.Node, inputs: Sequence[Shape | None]) -> int | None:
    total = 0
    for stage, shape in enumerate(stage_shapes(node, inputs)):
        outputs = _whole(shape)
        if outputs is None:
            return None
        if node.op_type == "ConvChain":
            kernel = _whole(inputs[_FIRST_KERNEL + stage])
            if kernel is None:
                return None
            each = math.prod(kernel[1:])
        else:
            attributes = node.attributes
            channels = attributes.get_int("channels", 0) // attributes.get_int("group", 1)
            each = channels * math.prod(attributes.get_ints("kernel_shape", ()))
        total += math.prod(outputs) * each
    return total if inputs[0] is not None else None


def _whole(shape: Shape | None) -> tuple[int, ...] | None:
    if shape is None or None in shape:
        return None
    return tuple(size for size in shape if size is not None)
