"""Recognise Mish."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, FLOAT16, SHARED, closed, commuted, lacks_kernel
from onnxslim_rx_passes.fuse_softplus import match_softplus

__all__ = ["FuseMish"]

_OPSET = 18


@dataclasses.dataclass(frozen=True)
class FuseMish(Rule):
    """Replace `x * tanh(softplus(x))` (Misra, 2019) by `Mish` (opset 18).

    The softplus may be spelt out: where `exp` overflows, its tanh is 1 either way.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-mish"
    roots: ClassVar[tuple[str, ...]] = ("Mul",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        for x, value in commuted(node):
            tanh = scene.maker(value, "Tanh")
            if tanh is None:
                continue
            soft = scene.maker(tanh.inputs[0], "Softplus", "Log")
            found = None if soft is None else match_softplus(soft, scene)
            if found is None or found[0] is not x:
                continue
            refused = lacks_kernel(scene, x, "Mish", (FLOAT, FLOAT16))
            if refused is not None:
                return refused
            old = closed(node, {*found[1], tanh})
            if old is None:
                return Skip(SHARED)
            tape = ir.tape.Tape()
            return scene.replace(old, tape, {node.outputs[0]: tape.op("Mish", [x])})
        return False
