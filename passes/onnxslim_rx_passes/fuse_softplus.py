"""Recognise softplus."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import (
    FLOAT,
    FLOAT16,
    SHARED,
    closed,
    commuted,
    lacks_kernel,
    number,
)

__all__ = ["FuseSoftplus", "match_softplus"]

_OPSET = 7


@dataclasses.dataclass(frozen=True)
class FuseSoftplus(Rule):
    """Replace `log(1 + exp(x))` by `Softplus(x)`.

    It is finite where `exp` overflows, and not 0 where `1 + exp(x)` is rounded to 1; else the same.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-softplus"
    roots: ClassVar[tuple[str, ...]] = ("Log",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        found = match_softplus(node, scene)
        if found is None:
            return False
        x, nodes = found
        refused = lacks_kernel(scene, x, "Softplus", (FLOAT, FLOAT16))
        if refused is not None:
            return refused
        old = closed(node, nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        return scene.replace(old, tape, {node.outputs[0]: tape.op("Softplus", [x])})


def match_softplus(node: ir.Node, scene: Scene) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """Input and nodes of the softplus that `node`, a Softplus or Log, ends; or None."""
    if node.op_type == "Softplus":
        return None if node.inputs[0] is None else (node.inputs[0], (node,))
    add = scene.maker(node.inputs[0], "Add")
    for value, one in commuted(add):
        exp = scene.maker(value, "Exp")
        if add is None or exp is None or exp.inputs[0] is None or number(scene, one, value) != 1:
            continue
        return exp.inputs[0], (exp, add, node)
    return None
