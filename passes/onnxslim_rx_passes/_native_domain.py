"""What the rules of `use-native` share: nodes of our own domain, and constants for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Array
from onnxslim_rx.rules import Rule

__all__ = [
    "DOMAIN",
    "TYPES",
    "NativeRule",
    "as_vector",
    "folds",
    "is_native",
    "native_maker",
    "pads_of",
]

DOMAIN = "ai.onnxslim.rx"
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""What the operators compute with."""

_FOLDING = {"Cast", "Identity", "Reshape", "Transpose", "Mul", "Constant"}
_MOST_FOLDED = 4


@dataclasses.dataclass(frozen=True)
class NativeRule(Rule):
    """A rule of `use-native`: what it makes is marked with the name of the pass.

    Args:
        folded: take also weights that ONNX Runtime would fold into floating point at load.
    """

    name: ClassVar[str] = "use-native"
    folded: bool = True


def is_native(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of our own, of one of these types where there are any."""
    return node is not None and node.domain == DOMAIN and (not op_types or node.op_type in op_types)


def native_maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of our own that made `value`, or None."""
    node = None if value is None else value.producer()
    return node if is_native(node, *op_types) else None


def folds(value: ir.Value | None) -> bool:
    """Whether `value` is constant, or is when the model has been loaded.

    ONNX Runtime folds what wraps constants before it makes operators, which then see a constant.
    """
    todo = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        if constant(one) is not None:
            continue
        node = None if one is None else one.producer()
        if node is None or node.domain != "" or node.op_type not in _FOLDING:
            return False
        if depth >= _MOST_FOLDED:
            return False
        todo.extend((inner, depth + 1) for inner in node.inputs)
    return True


def as_vector(
    value: ir.Value | None, length: int, *, behind: int, rank: int | None
) -> Array | None:
    """A constant that broadcasts along one axis of a result, as a vector of that length.

    Args:
        value: the constant.
        length: size of the axis.
        behind: axes of the result after it.
        rank: of the result; None: not known.

    Returns:
        None where it is no such constant, or would give the result more axes.
    """
    array = numbers(value)
    if array is None or (array.ndim and (rank is None or array.ndim > rank)):
        return None
    if array.size == 1:
        return np.full(length, array.reshape(-1)[0], array.dtype)
    shape = (1,) * (array.ndim - behind - 1) + (length,) + (1,) * behind
    return array.reshape(-1) if array.ndim > behind and array.shape == shape else None


def pads_of(node: ir.Node, rank: int) -> Sequence[int] | None:
    """The pads of a Conv over `rank` axes, all begins before all ends; None: sizes decide."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return node.attributes.get_ints("pads", [0] * (2 * rank))
    return [0] * (2 * rank) if auto == "VALID" else None
