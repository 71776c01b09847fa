"""What follows one of our operators moves into it: bias, residual, activation.

`y = act(x + bias + residual)`: sums come before the activation, and after it nothing does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._match import clamp, commuted
from onnxslim_rx_passes._native_domain import DOMAIN, NativeRule, as_vector, native_maker

__all__ = ["NativeActivation", "NativeSum"]

_MS = "com.microsoft"
# Where each operator has its bias, its residual (None: it takes none), and how many axes of its
# output lie behind the channels.
_PLACES: dict[str, tuple[int, int | None]] = {
    "QuantMatMul": (4, 5),
    "LowRankMatMul": (3, 4),
    "QuantConv": (4, 5),
    "ConvChain": (1, None),
}
_SHARED = "the result is read elsewhere too"


@dataclasses.dataclass(frozen=True)
class NativeSum(NativeRule):
    """A sum with a vector, or with a tensor of the same shape, becomes bias or residual."""

    roots: ClassVar[tuple[str, ...]] = ("Add",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        answer: bool | Skip = False
        for value, other in commuted(node):
            own = native_maker(value, *_PLACES)
            if own is None or "activation" in own.attributes:
                continue
            if own.graph is not node.graph or not scene.is_private(value):
                answer = Skip(_SHARED)
                continue
            tape = ir.tape.Tape()
            inputs = _with_bias(own, value, other, scene, tape) or _with_residual(
                own, value, other, scene
            )
            if inputs is None:
                answer = Skip("what is added is no vector, and not proven to be of the same shape")
                continue
            result = tape.op(own.op_type, inputs, dict(own.attributes), domain=DOMAIN)
            return scene.replace([own, node], tape, {node.outputs[0]: result})
        return answer


@dataclasses.dataclass(frozen=True)
class NativeActivation(NativeRule):
    """Relu, Clip, GELU or SiLU behind one of our operators becomes its attribute."""

    roots: ClassVar[tuple[str, ...]] = (
        "Relu", "Clip", "Min", "Max", "Gelu", "Mul", "Swish", f"{_MS}::Gelu", f"{_MS}::FastGelu",
        f"{_MS}::QuickGelu",
    )  # fmt: skip

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        for value, inner, attributes in _activations(node, scene):
            own = native_maker(value, *_PLACES)
            if own is None or "activation" in own.attributes:
                continue
            readers = {use.node for use in value.uses()}
            same = own.graph is node.graph
            if not same or value.is_graph_output() or readers - {*inner, node}:
                return Skip(_SHARED)
            tape = ir.tape.Tape()
            every = {**own.attributes, **attributes}
            result = tape.op(own.op_type, list(own.inputs), every, domain=DOMAIN)
            return scene.replace([own, *inner, node], tape, {node.outputs[0]: result})
        return False


def _activations(
    node: ir.Node, scene: Scene
) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...], dict[str, Any]]]:
    """What a node may be the activation of: its input, nodes in between, attributes."""
    x = node.inputs[0]
    if x is None:
        return
    if node.op_type in ("Relu", "Clip", "Min", "Max"):
        found = clamp(scene, node.outputs[0])
        if found is not None:
            yield (
                found.x,
                tuple(n for n in found.nodes if n is not node),
                _clip(found.low, found.high),
            )
    elif node.op_type == "Mul":
        for one, gate in commuted(node):
            sigmoid = scene.sole(gate, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] is one:
                yield one, (sigmoid,), {"activation": "Silu"}
    elif node.op_type in ("Swish", "QuickGelu"):
        default = 1.0 if node.op_type == "Swish" else 1.702
        if node.attributes.get_float("alpha", default) == 1.0:
            yield x, (), {"activation": "Silu"}
    elif not any(node.inputs[1:]):  # FastGelu may have a bias of its own
        tanh = node.attributes.get_string("approximate", "none") == "tanh"
        tanh |= node.op_type == "FastGelu"
        yield x, (), {"activation": "GeluTanh" if tanh else "Gelu"}


def _clip(low: float, high: float) -> dict[str, Any]:
    if (low, high) == (0.0, np.inf):
        return {"activation": "Relu"}
    return {"activation": "Clip", "clip_min": float(low), "clip_max": float(high)}


def _with_bias(
    own: ir.Node, value: ir.Value, other: ir.Value, scene: Scene, tape: ir.tape.Tape
) -> list[ir.Value | None] | None:
    """The inputs with `other` as the bias, or None."""
    place, residual = _PLACES[own.op_type]
    shape = scene.facts.shape(value)
    behind = len(shape) - 2 if shape and own.op_type in ("QuantConv", "ConvChain") else 0
    if shape is None or _input(own, place) is not None or _input(own, residual) is not None:
        return None
    length = shape[len(shape) - behind - 1]
    if not isinstance(length, int) or scene.facts.dtype(other) != scene.facts.dtype(value):
        return None
    vector = as_vector(other, length, behind=behind, rank=len(shape))
    if vector is None:
        return None
    if scene.facts.sizes(other) != (length,):
        row = ir.tensor(np.ascontiguousarray(vector), name=f"{other.name}.row")
        other = tape.initializer(row)
    return _put(own, place, other)


def _with_residual(
    own: ir.Node, value: ir.Value, other: ir.Value, scene: Scene
) -> list[ir.Value | None] | None:
    """The inputs with `other` as the residual, or None."""
    place = _PLACES[own.op_type][1]
    if place is None or _input(own, place) is not None:
        return None
    shape = scene.facts.shape(value)
    same = shape is not None and scene.facts.shape(other) == shape
    if not same or scene.facts.dtype(other) != scene.facts.dtype(value):
        return None
    return _put(own, place, other)


def _input(node: ir.Node, place: int | None) -> ir.Value | None:
    return None if place is None or place >= len(node.inputs) else node.inputs[place]


def _put(own: ir.Node, place: int, value: ir.Value) -> list[ir.Value | None]:
    inputs = list(own.inputs)
    inputs += [None] * (place + 1 - len(inputs))
    inputs[place] = value
    return inputs
