"""DequantizeLinear in floating point: of a constant, and of what has just been quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers, root_of
from onnxslim_rx.analysis.stored import of_dequantize, of_product
from onnxslim_rx_passes._floats import Draft, RefusedError
from onnxslim_rx_passes._quantized import Parameters, parameters
from onnxslim_rx_passes._spans import MOVES, span

__all__ = ["dequantized", "product"]

_MOST_MOVES = 16
_ENDS = ("DynamicQuantizeLinear", "QuantizeLinear", "QLinear", "QGemm")


def product(draft: Draft) -> bool:
    """`Mul(Cast(q), s)` of a constant becomes the weight it stands for."""
    found = of_product(draft.node)
    if found is None or isinstance(found, str):
        return False
    return draft.finish(_returnable(draft, draft.weight(found)))


def dequantized(draft: Draft, *, pairs: bool) -> bool:
    """A DequantizeLinear becomes a constant, or with `pairs` what was quantized before it."""
    node = draft.node
    values = draft.needed(0)
    if root_of(values) is not None:
        return draft.finish(_returnable(draft, draft.weight(of_dequantize(node))))
    maker = values.producer()
    if maker is None:
        return False
    if maker.op_type in {*MOVES, "Concat"} and maker.domain == "":
        return _moved(draft, maker, pairs=pairs)
    if not pairs:
        return False
    if maker.op_type == "DynamicQuantizeLinear" and values is maker.outputs[0]:
        if not _same(node, maker.outputs[1:]) or maker.inputs[0] is None:
            raise RefusedError("scales or zero points differ")
        return draft.finish(_returnable(draft, maker.inputs[0]))
    return _pair(draft, maker) if maker.op_type == "QuantizeLinear" else False


def _same(node: ir.Node, others: Sequence[ir.Value | None]) -> bool:
    mine = (*node.inputs[1:], None)[:2]
    return all(a is b for a, b in zip(mine, others, strict=True))


def _returnable(draft: Draft, value: ir.Value) -> ir.Value:
    """`value`, or a copy where the graph returns it under a name of its own."""
    made = value.producer() in draft.tape.nodes
    if made or draft.scene.can_forward(draft.node.outputs[0], value):
        return value
    return draft.tape.op("Identity", [value])


def _pair(draft: Draft, maker: ir.Node) -> bool:
    """`DequantizeLinear(QuantizeLinear(x))` is `x`, but for rounding and what saturates."""
    node, scene = draft.node, draft.scene
    x = maker.inputs[0]
    before, after = parameters(maker, scene), parameters(node, scene)
    if before is None or after is None or x is None:
        raise RefusedError("a scale or zero point is no constant")
    same = before.dtype == after.dtype and before.axis == after.axis
    same = same and np.array_equal(before.scale.ravel(), after.scale.ravel())
    if not (same and np.array_equal(before.zero.ravel(), after.zero.ravel())):
        raise RefusedError("scales or zero points differ")
    if not ((after.scale > 0) & np.isfinite(after.scale)).all():
        raise RefusedError("a scale is not positive")
    if root_of(x) is not None:
        return draft.finish(_returnable(draft, _rounded_constant(draft, x, before)))
    if after.scale.size != 1:
        raise RefusedError("what is computed has several scales")
    if scene.facts.dtype(x) != after.precision:
        raise RefusedError("the types before and behind differ, or are not known")
    return draft.finish(_returnable(draft, _saturated(draft, x, after)))


def _saturated(draft: Draft, x: ir.Value, known: Parameters) -> ir.Value:
    """`x` within the range of the integers; what is proven to lie there needs no Clip."""
    step, zero = float(known.scale.item()), int(known.zero.item())
    low, high = (known.lowest - zero) * step, (known.highest - zero) * step
    least, most = span(draft.scene, x)
    slack = step / 2  # what is that near rounds to the same integer
    low = -math.inf if least >= low - slack else low
    high = math.inf if most <= high + slack else high
    if (low, high) == (-math.inf, math.inf):
        return x
    if (low, high) == (0.0, math.inf):
        return draft.tape.op("Relu", [x])
    if draft.scene.opset < 11:
        limits = np.finfo(np.float32)
        bounds = {"min": max(low, float(limits.min)), "max": min(high, float(limits.max))}
        return draft.tape.op("Clip", [x], bounds)
    dtype = known.precision.numpy()
    ends = [
        None if math.isinf(bound) else draft.constant(np.asarray(bound, dtype), kind)
        for bound, kind in ((low, "min"), (high, "max"))
    ]
    return draft.tape.op("Clip", [x, *(ends if ends[1] is not None else ends[:1])])


def _rounded_constant(draft: Draft, x: ir.Value, known: Parameters) -> ir.Value:
    """A weight that is kept in floating point and rounded whenever the model runs."""
    weight = numbers(root_of(x))
    if weight is None or known.block:
        raise RefusedError("a weight is rounded in blocks")
    shape = draft.scene.facts.sizes(x) or weight.shape
    weight = weight.reshape(shape)
    sizes = [known.scale.size if axis == known.axis else 1 for axis in range(weight.ndim)]
    fit = [1] * weight.ndim if known.scale.size == 1 else sizes
    if any(size not in (1, shape[axis]) for axis, size in enumerate(fit)):
        raise RefusedError("scales do not fit the weight")
    scale, zero = known.scale.reshape(fit), known.zero.reshape(fit)
    steps = np.rint((weight / scale).astype(np.float64)) + zero
    steps = np.clip(steps, known.lowest, known.highest) - zero
    result = np.asarray(steps * scale.astype(np.float64)).astype(known.precision.numpy())
    return draft.tape.initializer(ir.tensor(result), name=f"{x.name}.rounded")


def _moved(draft: Draft, maker: ir.Node, *, pairs: bool) -> bool:
    """`DequantizeLinear(Move(q))` is `Move(DequantizeLinear(q))`, where that comes to an end."""
    node, scene = draft.node, draft.scene
    if scene.facts.sizes(node.inputs[1]) not in ((), (1,)) or maker.graph is not node.graph:
        return False
    data = maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]
    if not all(_ends(value, constant=not pairs) for value in data):
        return False
    scale, zero = draft.needed(1), draft.input(2)
    inputs = [
        draft.real(value, scale, zero) if value is not None and index < len(data) else value
        for index, value in enumerate(maker.inputs)
    ]
    results = draft.tape.op_multi_out(
        maker.op_type, inputs, maker.attributes, num_outputs=len(maker.outputs)
    )
    place = list(maker.outputs).index(draft.needed(0))
    return draft.finish(results[place])


def _ends(value: ir.Value | None, *, constant: bool) -> bool:
    """Whether integers come, moved or not, from a constant, or else from floating-point numbers."""
    values = [value]
    for seen, one in enumerate(values):
        if root_of(one) is not None:
            continue
        node = None if one is None else one.producer()
        if node is None or seen > _MOST_MOVES:
            return False
        if node.domain == "" and node.op_type in {*MOVES, "Concat"}:
            values += node.inputs if node.op_type == "Concat" else node.inputs[:1]
        elif constant or not node.op_type.startswith(_ENDS):
            return False
    return True
