"""Normalisations spelt out, as the rules that recognise them read them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._match import SHARED, closed, commuted, number
from onnxslim_rx_passes._patterns import reduced

__all__ = ["Deviation", "Quotient", "deviation", "normalise", "quotient"]

LONGEST_SCALE = 1 << 14
"""Elements of a scale that is made where the model had none."""


class Quotient(NamedTuple):
    """`top / sqrt(mean(base^2) + epsilon)`.

    Args:
        top: what is divided.
        base: what is squared.
        axes: that the mean is taken over, from the front, sorted.
        epsilon: a number.
        nodes: that compute it, the first two operators from the end first.
        scale: a factor that is multiplied into the inverse root first, or None.
    """

    top: ir.Value
    base: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    nodes: tuple[ir.Node, ...]
    scale: ir.Value | None = None


def quotient(node: ir.Node, scene: Scene) -> Quotient | None:
    """What `node`, a Div or Mul, computes, if it is of that form."""
    if node.op_type == "Div":
        return None if node.inputs[0] is None else _under_root(scene, node, node.inputs[0])
    for top, value in commuted(node):
        if scene.maker(value, "Mul") is None:
            found = _inverted(scene, value, top)
        else:
            found = None
            for scale, inverse in commuted(scene.maker(value, "Mul")):
                found = _inverted(scene, inverse, top)
                if found is not None:
                    nodes = (*found.nodes, *_makers(value))
                    found = found._replace(scale=scale, nodes=nodes)
                    break
        if found is not None:
            return found._replace(nodes=(*found.nodes, node))
    return None


def _makers(value: ir.Value) -> tuple[ir.Node, ...]:
    node = value.producer()
    return () if node is None else (node,)


def _inverted(scene: Scene, value: ir.Value, top: ir.Value) -> Quotient | None:
    """`value` as one over a root."""
    node = scene.maker(value, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return _inside(scene, node.inputs[0], top, node, _exponent(scene, node.inputs[1]) == -0.5)
    if node.op_type == "Div" and number(scene, node.inputs[0], node.inputs[1]) != 1:
        return None
    return _under_root(scene, node, top)


def _under_root(scene: Scene, node: ir.Node, top: ir.Value) -> Quotient | None:
    """The last input of `node` as a root."""
    root = scene.maker(node.inputs[-1], "Sqrt", "Pow")
    if root is None:
        return None
    is_root = root.op_type == "Sqrt" or _exponent(scene, root.inputs[1]) == 0.5
    found = _inside(scene, root.inputs[0], top, root, is_root)
    return None if found is None else found._replace(nodes=(*found.nodes, node))


def _inside(
    scene: Scene, value: ir.Value | None, top: ir.Value, root: ir.Node, is_root: bool
) -> Quotient | None:
    """What is under a root: a mean of squares and a small number."""
    add = scene.maker(value, "Add") if is_root else None
    for mean, small in commuted(add):
        reduction = scene.maker(mean, "ReduceMean")
        epsilon = None if reduction is None else number(scene, small, mean)
        if add is None or reduction is None or epsilon is None:
            continue
        if not math.isfinite(epsilon) or epsilon < 0:
            return None
        square = scene.maker(reduction.inputs[0], "Pow", "Mul")
        axes = _reduced(reduction, scene)
        if square is None or axes is None or not _squares(square, scene):
            return None
        base = square.inputs[0]
        assert base is not None  # _squares looked at it
        return Quotient(top, base, axes, epsilon, (square, reduction, add, root))
    return None


def _squares(node: ir.Node, scene: Scene) -> bool:
    base, other = node.inputs
    if base is None:
        return False
    if node.op_type == "Mul":
        return other is base
    return _exponent(scene, other) == 2


def _exponent(scene: Scene, value: ir.Value | None) -> float | None:
    """A scalar exponent; it may be of an integer type."""
    array = scene.facts.array(value)
    if array is None or array.ndim > 1 or array.size != 1:
        return None
    return float(array.astype(np.float64).item()) if array.dtype.kind in "iufV" else None


def _reduced(node: ir.Node, scene: Scene) -> tuple[int, ...] | None:
    """Axes of a reduction that keeps the number of axes, or None."""
    return reduced(node, scene) if node.attributes.get_int("keepdims", 1) else None


class Deviation(NamedTuple):
    """`x - mean(x)`.

    Args:
        x: the tensor.
        nodes: that compute it.
    """

    x: ir.Value
    nodes: tuple[ir.Node, ...]


def deviation(value: ir.Value, axes: tuple[int, ...], scene: Scene) -> Deviation | None:
    """`value` as the difference of a tensor from its mean over `axes`, or None."""
    sub = scene.maker(value, "Sub")
    if sub is None or sub.inputs[0] is None:
        return None
    mean = scene.maker(sub.inputs[1], "ReduceMean")
    if mean is None or mean.inputs[0] is not sub.inputs[0] or _reduced(mean, scene) != axes:
        return None
    return Deviation(sub.inputs[0], (mean, sub))


def trailing(x: ir.Value, axes: Sequence[int], scene: Scene) -> tuple[int, ...] | None:
    """The sizes of `axes` of `x` if these are its last ones, known, and of two elements or more."""
    shape = scene.facts.shape(x)
    if shape is None or not axes or tuple(axes) != tuple(range(axes[0], len(shape))):
        return None
    sizes = tuple(dim for dim in shape[axes[0] :] if isinstance(dim, int))
    return sizes if len(sizes) == len(axes) and math.prod(sizes) > 1 else None


def refitted(
    tape: ir.tape.Tape, scene: Scene, value: ir.Value, shape: tuple[int, ...], rank: int
) -> ir.Value | None:
    """`value` as a tensor of `shape`, the last axes of a tensor with `rank` axes.

    Args:
        tape: gets a new constant where `value` is one that has another shape, but broadcasts.
        scene: knows constants and shapes.
        value: what is multiplied or added.
        shape: wanted.
        rank: a constant with more axes is refused.

    Returns:
        None where `value` varies along other axes, or may.
    """
    if scene.facts.sizes(value) == shape:
        return value
    array = scene.facts.array(value)
    if array is None or array.ndim > rank or array.size > math.prod(shape):
        return None
    if math.prod(shape) > LONGEST_SCALE:
        return None
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    try:
        array = np.ascontiguousarray(np.broadcast_to(array, shape))
    except ValueError:
        return None
    dtype = scene.facts.dtype(value)
    return tape.initializer(ir.tensor(array, dtype=dtype), name=f"{value.name}_row")


def constant_like(
    tape: ir.tape.Tape, number: float, shape: tuple[int, ...], dtype: ir.DataType, name: str
) -> ir.Value:
    """A new constant whose elements all are `number`."""
    return tape.initializer(
        ir.tensor(np.full(shape, number, dtype.numpy()), dtype=dtype), name=name
    )


def normalise(
    op_type: str,
    x: ir.Value,
    found: Quotient,
    pattern: Collection[ir.Node],
    node: ir.Node,
    scene: Scene,
) -> bool | Skip:
    """Put one normalisation of `x` over its last axes in the place of a pattern.

    Args:
        op_type: LayerNormalization or RMSNormalization.
        x: what is normalised.
        found: axes, epsilon and scale.
        pattern: the nodes that go, without `node`.
        node: the last of the pattern.
        scene: of the rule.
    """
    old = closed(node, pattern)
    if old is None:
        return Skip(SHARED)
    sizes, dtype, rank = trailing(x, found.axes, scene), scene.facts.dtype(x), scene.facts.rank(x)
    if sizes is None or dtype is None or rank is None:
        return Skip("the normalised axes are not the last ones, or their sizes are not known")
    tape = ir.tape.Tape()
    if found.scale is not None:
        scale = refitted(tape, scene, found.scale, sizes, rank)
        if scale is None:
            return Skip("the scale varies along other axes than the normalised ones")
    elif math.prod(sizes) > LONGEST_SCALE:
        return Skip("a scale of ones would be large")
    else:
        scale = constant_like(tape, 1.0, sizes, dtype, f"{node.outputs[0].name}.scale")
    attributes = {"axis": -len(sizes), "epsilon": found.epsilon, "stash_type": 1}
    result = tape.op(op_type, [x, scale], attributes)
    return scene.replace(old, tape, {node.outputs[0]: result})
