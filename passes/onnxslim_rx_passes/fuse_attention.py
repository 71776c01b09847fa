"""Recognise scaled dot-product attention."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, FLOAT16, SHARED, closed, commuted, lacks_kernel, number

__all__ = ["FuseAttention"]

_OPSET = 23
_OPEN = -100.0
"""A row of a mask whose largest element is below this might be one that is masked wholly."""


@dataclasses.dataclass(frozen=True)
class FuseAttention(Rule):
    """Replace `softmax(scale * q k^T + mask) v` (Vaswani et al., 2017) by `Attention` (opset 23).

    `q` is (B, H, L, E), `k` (B, H, S, E) and `v` (B, H, S, F), without broadcasting; the scale may
    stand before or behind the product. A Transpose of `k` that does more than to swap the last
    axes stays, swapped.

    Refused: masks that are no constants of (..., L, S) with an open element in each row, for ONNX
    Runtime (version 1.31) gives zeros where a row is masked wholly, and not what the softmax of
    equal numbers gives; scales that are not positive; sizes that are not proven; intermediate
    results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-attention"
    roots: ClassVar[tuple[str, ...]] = ("MatMul",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        softmax = scene.maker(node.inputs[0], "Softmax")
        if softmax is None or scene.opset < _OPSET:
            return False
        found = _scores(softmax, scene)
        v = node.inputs[1]
        if found is None or v is None:
            return False
        refused = lacks_kernel(scene, found.q, "Attention", (FLOAT, FLOAT16))
        refused = refused or _misfit(found, softmax, v, scene)
        if refused is not None:
            return refused
        old = closed(node, [*found.nodes, softmax])
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        k = found.transposed.inputs[0]
        perm = found.perm
        if perm != (0, 1, 2, 3):
            k = tape.op("Transpose", [k], {"perm": perm}, name=found.transposed.name)
        inputs = [found.q, k, v, *([] if found.mask is None else [found.mask])]
        result = tape.op("Attention", inputs, {"scale": found.scale})
        return scene.replace(old, tape, {node.outputs[0]: result})


class _Scores(NamedTuple):
    """`scale * q k^T + mask`."""

    q: ir.Value
    transposed: ir.Node
    mask: ir.Value | None
    scale: float
    nodes: tuple[ir.Node, ...]

    @property
    def perm(self) -> tuple[int, ...]:
        """The order of axes that brings what is transposed to that of `k`."""
        *front, third, last = self.transposed.attributes.get_ints("perm", (3, 2, 1, 0))
        return (*front, last, third)


class _Scaled(NamedTuple):
    value: ir.Value
    factor: float
    nodes: tuple[ir.Node, ...]


def _peeled(value: ir.Value | None, scene: Scene) -> _Scaled | None:
    """`value` without a factor that is a number."""
    if value is None:
        return None
    node = scene.sole(value, "Mul", "Div")
    pairs = [] if node is None else list(commuted(node))
    for x, other in pairs[:1] if node is not None and node.op_type == "Div" else pairs:
        factor = number(scene, other, x)
        if node is not None and factor is not None and factor != 0:
            return _Scaled(x, factor if node.op_type == "Mul" else 1 / factor, (node,))
    return _Scaled(value, 1.0, ())


def _scores(softmax: ir.Node, scene: Scene) -> _Scores | None:
    value, mask, nodes = softmax.inputs[0], None, list[ir.Node]()
    add = scene.maker(value, "Add")
    if add is not None:
        nodes.append(add)
        for one, other in commuted(add):
            if scene.maker(one, "MatMul", "Mul", "Div") is not None:
                value, mask = one, other
                break
    whole = _peeled(value, scene)
    matmul = None if whole is None else scene.maker(whole.value, "MatMul")
    if whole is None or matmul is None:
        return None
    q, key = (_peeled(one, scene) for one in matmul.inputs)
    transposed = None if key is None else scene.maker(key.value, "Transpose")
    if q is None or key is None or transposed is None:
        return None
    nodes += [*whole.nodes, matmul, *q.nodes, *key.nodes, transposed]
    return _Scores(q.value, transposed, mask, whole.factor * q.factor * key.factor, tuple(nodes))


def _misfit(found: _Scores, softmax: ir.Node, v: ir.Value, scene: Scene) -> Skip | None:
    """Why the operator does not do what the nodes do, or None."""
    if not (math.isfinite(found.scale) and found.scale > 0):
        return Skip("the scale is not a positive number")
    facts = scene.facts
    q, values, scores = (facts.shape(one) for one in (found.q, v, softmax.inputs[0]))
    key = facts.shape(found.transposed.outputs[0])
    if q is None or values is None or key is None or scores is None:
        return Skip("the sizes are not known")
    if not len(q) == len(values) == len(key) == len(scores) == 4:
        return Skip("there are not four axes: batch, heads, sequence and features")
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return Skip("the softmax is not along the last axis")
    rows, columns = q[2], key[3]
    if not q[:2] == key[:2] == values[:2] or q[3] != key[2] or columns != values[2]:
        return Skip("the sizes are not proven to be the same")
    if found.mask is None:
        return None
    mask = facts.array(found.mask)
    sizes = facts.shape(found.mask)
    if mask is None or sizes is None:
        return Skip("the mask might mask whole rows, which ONNX Runtime treats another way")
    if not 2 <= len(sizes) <= 4 or sizes[-2:] != (rows, columns):
        return Skip("the mask is broadcast along the sequence")
    if any(size not in (1, of) for size, of in zip(sizes[-3::-1], q[1::-1], strict=False)):
        return Skip("the mask has more heads than the query")
    if not _is_open(mask):
        return Skip("the mask masks whole rows, which ONNX Runtime treats another way")
    return None


def _is_open(mask: np.ndarray) -> bool:
    """Whether each row has an element that lets the score through, and none is NaN or too large."""
    wide = mask.astype(np.float64)
    return bool(wide.size and (wide.max(axis=-1) >= _OPEN).all() and (wide < -2 * _OPEN).all())
