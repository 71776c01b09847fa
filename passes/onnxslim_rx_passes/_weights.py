"""Constants as the rules that refold weights read and write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.rules import Scene

__all__ = [
    "FLOATS",
    "TRIFLE",
    "Array",
    "Wide",
    "blocks",
    "cast",
    "emit",
    "fill",
    "fused_name",
    "is_far",
    "lazily",
    "made_by",
    "may_refold",
    "scaled",
    "tensor_of",
    "trifling",
]

Array = npt.NDArray[Any]
Wide = npt.NDArray[np.float64]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)

TRIFLE = 1 << 12
"""Elements of a vector that a rule may store although its parts took less room, such as fills."""

_LARGE = 1 << 16  # elements of a constant that is looked at only if it has one axis
_LAZY_BYTES = 1 << 20  # larger results from files stay there until someone reads them
_BLOCK = 1 << 20  # elements that are in memory as float64 at a time
_LEAST_HALF = 2.0**-12  # four times the smallest normal number of float16
_MODERATE = 2.0**40  # a factor that brings no weight of any use out of the range of 8-bit exponents


def tensor_of(value: ir.Value | None, scene: Scene) -> ir.TensorProtocol | None:
    """The floating-point constant that `value` is, or None; large ones are not read."""
    tensor = constant(value)
    if tensor is None and value is not None and value.is_initializer():
        known = scene.facts.array(value) is not None  # an input that callers cannot override
        tensor = value.const_value if known else None
    return tensor if tensor is not None and tensor.dtype in FLOATS else None


def trifling(scene: Scene, value: ir.Value | None) -> Wide | None:
    """The content of a floating-point constant in float64; None also for what is large and no row.

    Also what ConstantOfShape, and Unsqueeze of that, make of constants, up to `TRIFLE` elements:
    old exporters write vectors that way, and constant folding leaves what is longer when stored.
    """
    if value is None:
        return None
    if tensor_of(value, scene) is not None:
        array = scene.facts.array(value)
        if array is None or (array.size > _LARGE and array.size != max(array.shape)):
            return None
        wide: Wide = array.astype(np.float64)
        return wide
    node = scene.maker(value, "ConstantOfShape", "Unsqueeze")
    if node is None:
        return None
    if node.op_type == "Unsqueeze":
        inner = trifling(scene, node.inputs[0])
        return None if inner is None else _unsqueezed(inner, node, scene)
    found = fill(scene, value)
    if found is None or math.prod(found[0]) > TRIFLE:
        return None
    return np.full(found[0], found[1])


def _unsqueezed(array: Wide, node: ir.Node, scene: Scene) -> Wide | None:
    if len(node.inputs) > 1:
        axes = scene.facts.contents(node.inputs[1])
        numbers = [axis for axis in axes or () if isinstance(axis, int)]
        if axes is None or len(numbers) != len(axes):
            return None
    else:
        numbers = list(node.attributes.get_ints("axes", ()))
    return np.expand_dims(array, tuple(numbers))


def fill(scene: Scene, value: ir.Value | None) -> tuple[tuple[int, ...], float] | None:
    """Shape and number of a floating-point tensor that ConstantOfShape makes of a constant."""
    node = scene.maker(value, "ConstantOfShape")
    shape = None if node is None else scene.facts.array(node.inputs[0])
    if node is None or shape is None:
        return None
    attribute = node.attributes.get("value")
    if attribute is None:
        return tuple(map(int, shape)), 0.0
    tensor = attribute.as_tensor()
    if tensor.dtype not in FLOATS:
        return None
    return tuple(map(int, shape)), float(tensor.numpy().astype(np.float64).item())


def cast(array: Wide, dtype: ir.DataType) -> Array | None:
    """A small result in the type that it is stored in; None where it would not be finite."""
    with np.errstate(all="ignore"):
        stored: Array = np.asarray(array).astype(dtype.numpy())
    return stored if np.isfinite(stored).all() else None


def may_refold(tensor: ir.TensorProtocol, factor: Wide) -> str | None:
    """Why `tensor * factor` cannot be stored in the type of `tensor`, or None.

    What lies in a file and is large is not read for that: there the factor must be moderate, and
    the type as wide in exponents as float32.
    """
    if not np.isfinite(factor).all():
        return "the result would not be finite"
    if is_far(tensor):
        size = np.abs(factor[factor != 0])
        moderate = bool((size < _MODERATE).all() and (size > 1 / _MODERATE).all())
        narrow = tensor.dtype == ir.DataType.FLOAT16
        return None if moderate and not narrow else "the weight is too large to be read for a check"
    largest = 0.0
    for block in blocks(tensor, factor):
        with np.errstate(all="ignore"):
            if not np.isfinite(block.astype(tensor.dtype.numpy())).all():
                return "the result would not be finite"
        largest = max(largest, float(np.abs(block).max(initial=0)))
    if tensor.dtype == ir.DataType.FLOAT16 and 0 < largest < _LEAST_HALF:
        return "the result would be too small for 16 bits"
    return None


def scaled(tensor: ir.TensorProtocol, factor: Wide, name: str) -> ir.TensorProtocol:
    """`tensor * factor`, computed in float64, in the type of `tensor`; see `may_refold`."""
    dtype = tensor.dtype

    def compute() -> ir.TensorProtocol:
        shape = tuple(tensor.shape.numpy())
        result = np.empty(shape, dtype.numpy())
        start = 0
        for block in blocks(tensor, factor):
            with np.errstate(all="ignore"):
                result[start : start + len(block)] = block
            start += len(block)
        return ir.tensor(result, dtype=dtype)

    return lazily(compute, dtype, tuple(tensor.shape.numpy()), name, far=is_far(tensor))


def lazily(
    compute: Callable[[], ir.TensorProtocol],
    dtype: ir.DataType,
    shape: tuple[int, ...],
    name: str,
    *,
    far: bool,
) -> ir.TensorProtocol:
    """What `compute` returns: at once, or where `far` whenever somebody reads it."""
    if far:
        return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=name)
    result: ir.TensorProtocol = compute()
    result.name = name
    return result


def is_far(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is large and not in memory."""
    outside = isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor))
    return outside and tensor.nbytes > _LAZY_BYTES


def blocks(tensor: ir.TensorProtocol, factor: Wide) -> Iterator[Wide]:
    """`tensor * factor` in float64, some rows at a time."""
    array = tensor.numpy()
    if array.ndim == 0:
        raise ValueError("a weight has at least one dimension")
    factor = np.broadcast_to(factor, array.shape)
    rows = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        with np.errstate(all="ignore"):
            block = array[start : start + rows].astype(np.float64)
            block *= factor[start : start + rows]
        yield block


def fused_name(value: ir.Value | None, fallback: str) -> str:
    """A name for what takes the place of `value`."""
    name = (value.name if value is not None else None) or fallback
    return f"{name.removesuffix('.fused')}.fused"


def emit(tape: ir.tape.Tape, array: Array, name: str) -> ir.Value:
    """A constant on `tape`."""
    return tape.initializer(ir.tensor(array), name=name)


def made_by(value: ir.Value) -> ir.Node:
    """The node that makes `value`, which is known to be made by one."""
    node = value.producer()
    assert node is not None
    return node
