"""What rules that recognise patterns share: walking from a pattern's last node to its inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene

__all__ = [
    "BFLOAT16",
    "DOUBLE",
    "FLOAT",
    "FLOAT16",
    "SHARED",
    "Clamp",
    "Polynomial",
    "Product",
    "clamp",
    "close",
    "closed",
    "commuted",
    "lacks_kernel",
    "number",
    "polynomial",
    "product",
]

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
DOUBLE, BFLOAT16 = ir.DataType.DOUBLE, ir.DataType.BFLOAT16

SHARED = "an intermediate result is read elsewhere too"

_TOLERANCE = {FLOAT16: 1e-3, BFLOAT16: 6e-3}
_DEFAULT_TOLERANCE = 1e-5
"""Relative difference of a constant from the number that an operator builds in. Half precision
rounds by 5e-4 (bfloat16 4e-3), and exporters write square roots with six digits or more."""

_MOST_NODES = 8
_HIGHEST = 3


def close(found: float | None, wanted: float, dtype: ir.DataType | None) -> bool:
    """Whether a constant of type `dtype` stands for `wanted`, up to rounding."""
    if found is None:
        return False
    tolerance = _DEFAULT_TOLERANCE if dtype is None else _TOLERANCE.get(dtype, _DEFAULT_TOLERANCE)
    return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=0.0)


def number(scene: Scene, value: ir.Value | None, x: ir.Value | None = None) -> float | None:
    """The number in a floating-point constant of one element.

    Args:
        scene: knows constants.
        value: the constant.
        x: what it is combined with; the constant must not give the result more axes.

    Returns:
        None for anything else.
    """
    array = scene.facts.array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fV":
        return None
    if array.ndim:
        rank = scene.facts.rank(x)
        if rank is None or array.ndim > rank:
            return None
    try:
        return float(array.astype(np.float64).item())
    except (TypeError, ValueError):  # a type of less than a byte, or not of numbers
        return None


def commuted(node: ir.Node | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two inputs of a node, in both orders; nothing where it has not two."""
    if node is None or len(node.inputs) != 2:
        return
    first, second = node.inputs
    if first is not None and second is not None:
        yield first, second
        yield second, first


def closed(root: ir.Node, nodes: Collection[ir.Node]) -> list[ir.Node] | None:
    """The nodes of a pattern in order, inputs first and `root` last.

    None where somebody else reads an intermediate result, or the nodes lie in several graphs.
    """
    inside, order, seen = {*nodes, root}, list[ir.Node](), set[ir.Node]()
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        makers = [value.producer() for value in node.inputs if value is not None]
        stack.extend((one, False) for one in makers if one is not None and one in inside)
    for node in order[:-1]:
        if node.graph is not root.graph:
            return None
        for value in node.outputs:
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                return None
    return order


def lacks_kernel(
    scene: Scene, x: ir.Value | None, op_type: str, types: Collection[ir.DataType]
) -> Skip | None:
    """Why an operator is not emitted for the type of `x`, or None.

    Args:
        scene: knows types.
        x: input of the operator.
        op_type: the operator.
        types: those for which ONNX Runtime has a kernel on the CPU, or something as fast.
    """
    dtype = scene.facts.dtype(x)
    if dtype is None:
        return Skip("the type is not known")
    if dtype not in types:
        return Skip(f"ONNX Runtime has no {op_type} for {dtype.name.lower()} on the CPU")
    return None


class Product(NamedTuple):
    """`coefficient * factors[0] * factors[1] * ...`.

    Args:
        coefficient: product of all constants of one element.
        factors: the others; those whose value has several readers are not taken apart.
        nodes: that multiply.
    """

    coefficient: float
    factors: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


def product(scene: Scene, value: ir.Value | None) -> Product | None:
    """`value` as a product; None where no Mul or Div makes it.

    Args:
        scene: knows constants.
        value: made by the outermost Mul or Div, whoever reads it.
    """
    root = scene.maker(value, "Mul", "Div")
    if root is None or root.graph is None:
        return None
    coefficient, factors, nodes = 1.0, list[ir.Value](), list[ir.Node]()
    stack = [root]
    while stack:
        node = stack.pop()
        nodes.append(node)
        first, second = node.inputs
        if first is None or second is None or len(nodes) > _MOST_NODES:
            return None
        constant = number(scene, second, first)
        if node.op_type == "Div":
            if constant is None or constant == 0:
                if node is root:
                    return None
                nodes.pop()
                factors.append(node.outputs[0])
                continue
            coefficient, parts = coefficient / constant, [first]
        elif constant is not None:
            coefficient, parts = coefficient * constant, [first]
        elif (constant := number(scene, first, second)) is not None:
            coefficient, parts = coefficient * constant, [second]
        else:
            parts = [first, second]
        for part in parts:
            inner = scene.sole(part, "Mul", "Div")
            if inner is None:
                factors.append(part)
            else:
                stack.append(inner)
    return Product(coefficient, tuple(factors), tuple(nodes))


class Polynomial(NamedTuple):
    """`coefficients[0] + coefficients[1] * x + ...`.

    Args:
        coefficients: from the constant one up; no zeros at the end.
        nodes: that compute it.
    """

    coefficients: tuple[float, ...]
    nodes: frozenset[ir.Node]


def polynomial(scene: Scene, value: ir.Value | None, x: ir.Value) -> Polynomial | None:
    """`value` as a polynomial in `x` of degree 3 at most, or None."""
    nodes = set[ir.Node]()

    def walk(value: ir.Value | None) -> list[float] | None:
        if value is x:
            return [0.0, 1.0]
        constant = number(scene, value, x)
        if constant is not None:
            return [constant]
        node = scene.maker(value, "Mul", "Add", "Pow", "Div", "Sub", "Neg")
        if node is None or len(nodes) >= _MOST_NODES:
            return None
        nodes.add(node)
        parts = [walk(one) for one in node.inputs]
        known = [part for part in parts if part is not None]
        return _combine(node.op_type, known) if len(known) == len(parts) else None

    found = walk(value)
    while found and found[-1] == 0:
        found.pop()
    return Polynomial(tuple(found), frozenset(nodes)) if found else None


def _combine(op_type: str, parts: list[list[float]]) -> list[float] | None:
    """The polynomial that an operator makes of those of its inputs."""
    first, second = parts[0], parts[-1]
    if op_type == "Neg":
        return [-one for one in first]
    if op_type in ("Add", "Sub"):
        sign = 1.0 if op_type == "Add" else -1.0
        size = max(len(first), len(second))
        padded = [[*part, *[0.0] * (size - len(part))] for part in (first, second)]
        return [a + sign * b for a, b in zip(*padded, strict=True)]
    if op_type == "Div":
        return [a / second[0] for a in first] if len(second) == 1 and second[0] else None
    if op_type == "Pow":
        if len(second) != 1 or second[0] not in (1.0, 2.0, 3.0):
            return None
        result: list[float] | None = [1.0]
        for _ in range(int(second[0])):
            result = None if result is None else _times(result, first)
        return result
    return _times(first, second)


def _times(first: list[float], second: list[float]) -> list[float] | None:
    if len(first) + len(second) - 2 > _HIGHEST:
        return None
    result = [0.0] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + j] += a * b
    return result


class Clamp(NamedTuple):
    """`min(max(x, low), high)`.

    Args:
        x: what is clamped.
        low: may be minus infinity.
        high: may be infinity; not below `low`.
        nodes: that clamp.
    """

    x: ir.Value
    low: float
    high: float
    nodes: tuple[ir.Node, ...]


def clamp(scene: Scene, value: ir.Value | None) -> Clamp | None:
    """`value` as a Clip, or one or two of Relu, Min and Max, with constant bounds; or None."""
    node = scene.maker(value, "Clip", "Relu", "Min", "Max")
    outer = None if node is None else _bounds(scene, node)
    if outer is None:
        return None
    node = scene.sole(outer.x, "Clip", "Relu", "Min", "Max")
    inner = None if node is None else _bounds(scene, node)
    if inner is None:
        return outer
    low = min(max(inner.low, outer.low), outer.high)
    high = max(min(inner.high, outer.high), outer.low)
    return Clamp(inner.x, low, high, (*inner.nodes, *outer.nodes)) if low <= high else outer


def _bounds(scene: Scene, node: ir.Node) -> Clamp | None:
    x, low, high = node.inputs[0], -math.inf, math.inf
    if node.op_type == "Relu":
        low = 0.0
    elif node.op_type == "Clip":
        if len(node.inputs) == 1:  # an old version, whose bounds are attributes
            low = node.attributes.get_float("min", low)
            high = node.attributes.get_float("max", high)
        for index, value in enumerate(node.inputs[1:]):
            bound = low if value is None and index == 0 else high if value is None else None
            bound = number(scene, value) if bound is None else bound
            if bound is None:
                return None
            low, high = (bound, high) if index == 0 else (low, bound)
    else:
        for one, other in commuted(node):
            bound = number(scene, other, one)
            if bound is not None:
                x, low, high = (one, low, bound) if node.op_type == "Min" else (one, bound, high)
                break
        else:
            return None
    if x is None or not low <= high:
        return None
    return Clamp(x, low, high, (node,))
