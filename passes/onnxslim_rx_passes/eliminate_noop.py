"""Remove nodes that return their input as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant, nodes
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._graph import Proofs, has_reference, label

__all__ = ["EliminateNoop"]

_END = 2**31 - 1
"""Slices that end here or later end with the tensor."""


@dataclasses.dataclass(frozen=True)
class EliminateNoop(RewritePass):
    """Remove nodes that return their input as it is.

    `Identity`; `Cast` to the same type; `Transpose`, `Reshape`, `Expand`, `Tile` and the like to
    the same shape; `Slice` of everything; `Pad` by nothing; `Dropout` at inference; `x + 0`,
    `x - 0`, `x * 1`, `x / 1`, `x ** 1`; `Concat`, `Split`, `Sum`, `Max`, `Min`, `Mean` of one. In
    all graphs and functions. Shapes count where they follow from the model's inputs and weights.
    A graph keeps the node where it returns an input, a constant, or the same tensor twice.
    """

    name: ClassVar[str] = "eliminate-noop"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        candidates = [node for node in nodes(model) if node.domain == "" and node.op_type in _RULES]
        if not candidates:
            return PassResult(model, modified=False)
        proofs, editor = Proofs(model), Editor(model)
        rewritten, skipped = 0, []
        for node in candidates:
            kept = _kept(node, proofs)
            if kept is None:
                continue
            if not editor.can_forward(node.outputs[0], kept):
                skipped.append(Skipped(label(node), "the graph returns it under a name of its own"))
                continue
            inputs = list(node.inputs)
            editor.forward(node.outputs[0], kept)
            remove(node)
            editor.remove_unused(inputs)
            rewritten += 1
        return PassResult(model, rewritten > 0, rewritten, tuple(skipped))


def _kept(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    """The input that `node` returns, or None where it may do something."""
    if has_reference(node) or any(value.uses() for value in node.outputs[1:]):
        return None
    if any(value.is_graph_output() for value in node.outputs[1:]):
        return None
    return _RULES[node.op_type](node, proofs)


def _first(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    return node.inputs[0]


def _only(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == len(node.outputs) == 1 else None


def _cast(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    if node.op_type == "Cast":
        to: int | None = node.attributes.get_int("to", 0)
    else:
        to = proofs.dtype(node.inputs[1])
    return node.inputs[0] if to is not None and proofs.dtype(node.inputs[0]) == to else None


def _transpose(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    perm = node.attributes.get_ints("perm", None)
    if perm is None:
        rank = proofs.rank(node.inputs[0])
        return node.inputs[0] if rank is not None and rank < 2 else None
    return node.inputs[0] if list(perm) == list(range(len(perm))) else None


def _same_shape(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    before, after = proofs.shape(node.inputs[0]), proofs.shape(node.outputs[0])
    return node.inputs[0] if _equal(before, after) else None


def _reshape(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    """Elements are neither lost nor moved, so one size may follow from all others."""
    before, after = proofs.shape(node.inputs[0]), proofs.shape(node.outputs[0])
    if _equal(before, after):
        return node.inputs[0]
    if before is None or after is None or len(before) != len(after):
        return None
    open_pairs = [(a, b) for a, b in zip(before, after, strict=True) if not _equal_dims(a, b)]
    sizes = [a for a, b in zip(before, after, strict=True) if _equal_dims(a, b)]
    if len(open_pairs) == 1 and all(isinstance(size, int) and size > 0 for size in sizes):
        return node.inputs[0]
    return None


def _equal(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    return all(_equal_dims(x, y) for x, y in zip(a, b, strict=True))


def _equal_dims(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    if isinstance(a, ir.SymbolicDim) and a.value is None:
        return False
    return a == b


def _tile(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    repeats = _array(node.inputs[1]) if len(node.inputs) == 2 else None
    return node.inputs[0] if repeats is not None and (repeats == 1).all() else None


def _dropout(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    """Up to opset 6 the attribute is_test tells, up to 11 it is inference, then training_mode."""
    if "is_test" in node.attributes:
        return node.inputs[0] if node.attributes.get_int("is_test", 0) else None
    training = _array(node.inputs[2]) if len(node.inputs) > 2 else None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    return node.inputs[0] if not given or (training is not None and not training.any()) else None


def _neutral(number: int, sides: tuple[int, ...]) -> Callable[[ir.Node, Proofs], ir.Value | None]:
    """A rule for `op(x, number)`, where the constant is one of the inputs `sides`."""

    def rule(node: ir.Node, proofs: Proofs) -> ir.Value | None:
        for side in sides:
            other = node.inputs[1 - side]
            array = _array(node.inputs[side])
            if array is None or not array.size or not (array == number).all():
                continue
            rank = proofs.rank(other)
            small = array.size == 1 and (array.ndim == 0 or (rank or 0) >= array.ndim)
            if small or _equal(proofs.shape(other), proofs.shape(node.outputs[0])):
                return other
        return None

    return rule


def _pad(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    name = "pads" if "pads" in node.attributes else "paddings"  # as opset 1 called it
    if name in node.attributes:
        pads = np.asarray(node.attributes.get_ints(name, ()))
    else:
        found = _array(node.inputs[1]) if len(node.inputs) > 1 else None
        if found is None:
            return None
        pads = found
    return node.inputs[0] if not pads.any() else None


def _slice(node: ir.Node, proofs: Proofs) -> ir.Value | None:
    if "starts" in node.attributes:  # up to opset 9
        starts = np.asarray(node.attributes.get_ints("starts", ()))
        ends = np.asarray(node.attributes.get_ints("ends", ()))
        axes = np.asarray(node.attributes.get_ints("axes", tuple(range(len(starts)))))
    else:
        known = [_array(value) for value in node.inputs[1:3]]
        if len(known) < 2 or known[0] is None or known[1] is None:
            return None
        starts, ends = known[0], known[1]
        axes = np.arange(len(starts))
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            found = _array(node.inputs[3])
            if found is None:
                return None
            axes = found
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            steps = _array(node.inputs[4])
            if steps is None or (steps != 1).any():
                return None
    if starts.any():
        return None
    shape = proofs.shape(node.inputs[0])
    for axis, end in zip(axes.tolist(), ends.tolist(), strict=True):
        size = None if shape is None else shape[axis]
        if end < _END and not (isinstance(size, int) and end >= size):
            return None
    return node.inputs[0]


def _array(value: ir.Value | None) -> np.ndarray | None:
    tensor = constant(value)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()


_RULES: Mapping[str, Callable[[ir.Node, Proofs], ir.Value | None]] = {
    "Identity": _first,
    "Cast": _cast,
    "CastLike": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _same_shape,
    "Tile": _tile,
    "Dropout": _dropout,
    "Add": _neutral(0, (0, 1)),
    "Sub": _neutral(0, (1,)),
    "Mul": _neutral(1, (0, 1)),
    "Div": _neutral(1, (1,)),
    "Pow": _neutral(1, (1,)),
    "Concat": _only,
    "Split": _only,
    "Sum": _only,
    "Max": _only,
    "Min": _only,
    "Mean": _only,
    "Pad": _pad,
    "Slice": _slice,
}
