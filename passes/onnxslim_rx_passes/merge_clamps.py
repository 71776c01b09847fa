"""Merge neighbouring Relu, Clip, Min and Max into one."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx_passes._graph import Proofs, label, opset

__all__ = ["MergeClamps"]

_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


class _Clamp(NamedTuple):
    """`min(max(x, low), high)`."""

    x: ir.Value
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class MergeClamps(RewritePass):
    """Merge two of `Relu`, `Clip`, `Min(x, c)`, `Max(x, c)` in a row into one `Relu` or `Clip`.

    `clamp(clamp(x, l1, h1), l2, h2) = clamp(x, g(min(l1, h1)), g(h1))` with `g` the second clamp.
    Bounds must be constant scalars; floating-point types; opset 11, whose Clip takes bounds as
    inputs. Functions are left alone.
    """

    name: ClassVar[str] = "merge-clamps"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = [
            node
            for node in model.graph.all_nodes()
            if node.domain == "" and node.op_type in _READERS
        ]
        if opset(model) < 11 or not any(_follows_another(node) for node in found):
            return PassResult(model, modified=False)
        proofs, editor = Proofs(model), Editor(model)
        merged, skipped = 0, []
        for node in found:
            if not _follows_another(node):
                continue
            why_not = _merge(node, proofs, editor, self.name)
            if why_not is None:
                merged += 1
            else:
                skipped.append(Skipped(label(node), why_not))
        return PassResult(model, merged > 0, merged, tuple(skipped))


def _follows_another(node: ir.Node) -> bool:
    first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return first is not None and first.domain == "" and first.op_type in _READERS


def _merge(second: ir.Node, proofs: Proofs, editor: Editor, by: str) -> str | None:
    """Merge a node with the one in front of it, or say why not."""
    between = second.inputs[0]
    first = between.producer() if between is not None else None
    assert between is not None  # the caller looked
    assert first is not None
    if len(between.uses()) > 1 or between.is_graph_output() or first.graph is not second.graph:
        return f"the result of {first.op_type} is read elsewhere too"
    inner, outer = (_READERS[node.op_type](node, proofs) for node in (first, second))
    dtype = proofs.dtype(between)
    if inner is None or outer is None:
        return "the bounds are no constant scalars"
    if dtype not in _TYPES or dtype is None:
        return "the type is not a floating-point one, or not known"
    low = min(max(min(inner.low, inner.high), outer.low), outer.high)
    high = min(max(inner.high, outer.low), outer.high)
    tape = ir.tape.Tape()
    if (low, high) == (0.0, math.inf):
        result = tape.op("Relu", [inner.x], name=second.name)
    else:
        stem = label(second)
        bounds = [
            None if math.isinf(bound) else _scalar(tape, bound, dtype, f"{stem}.{kind}")
            for bound, kind in ((low, "min"), (high, "max"))
        ]
        while bounds and bounds[-1] is None:
            bounds.pop()
        result = tape.op("Clip", [inner.x, *bounds], name=second.name)
    unused = [*first.inputs[1:], *second.inputs[1:]]
    proofs.replaced(second.outputs[0], result)
    editor.replace([first, second], tape, {second.outputs[0]: result}, by=by)
    editor.remove_unused(unused)
    return None


def _scalar(tape: ir.tape.Tape, number: float, dtype: ir.DataType, name: str) -> ir.Value:
    return tape.initializer(ir.tensor(np.asarray(number, dtype=dtype.numpy())), name=name)


def _relu(node: ir.Node, proofs: Proofs) -> _Clamp | None:
    return None if node.inputs[0] is None else _Clamp(node.inputs[0], 0.0, math.inf)


def _clip(node: ir.Node, proofs: Proofs) -> _Clamp | None:
    bounds = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None:
            number = _number(value)
            if number is None:
                return None
            bounds[index] = number
    return None if node.inputs[0] is None else _Clamp(node.inputs[0], bounds[0], bounds[1])


def _extremum(node: ir.Node, proofs: Proofs) -> _Clamp | None:
    """Min or Max of a tensor and scalars that do not give it more dimensions."""
    x = node.inputs[0]
    rank = proofs.rank(x)
    numbers = [_number(value) for value in node.inputs[1:]]
    known = [number for number in numbers if number is not None]
    ranks = [proofs.rank(value) for value in node.inputs[1:]]
    if x is None or not known or len(known) < len(numbers):
        return None
    if any(r is None or (r > 0 and (rank is None or r > rank)) for r in ranks):
        return None
    if node.op_type == "Min":
        return _Clamp(x, -math.inf, min(known))
    return _Clamp(x, max(known), math.inf)


def _number(value: ir.Value | None) -> float | None:
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or tensor.dtype not in _TYPES:
        return None
    number = float(tensor.numpy().item())
    return None if math.isnan(number) else number


_READERS = {"Clip": _clip, "Max": _extremum, "Min": _extremum, "Relu": _relu}
