"""Let a Reshape infer what a graph computes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Dim
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["SimplifyReshape"]


@dataclasses.dataclass(frozen=True)
class SimplifyReshape(Rule):
    """Give a `Reshape` a constant shape instead of one that is computed.

    A size that the input has at the same place becomes 0 (copied), and one more may become -1
    (inferred): `Reshape(x, [batch, 12, 64])` of x (batch, 768) becomes
    `Reshape(x, [0, 12, 64])`. Refused where more than one size would have to be inferred.
    """

    name: ClassVar[str] = "simplify-reshape"
    roots: ClassVar[tuple[str, ...]] = ("Reshape",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if len(node.inputs) < 2 or scene.facts.array(node.inputs[1]) is not None:
            return False  # before opset 5 the shape is an attribute
        contents = scene.facts.contents(node.inputs[1])
        if contents is None:
            return Skip("its shape is computed from data")
        target = _constant_target(contents, scene.facts.shape(node.inputs[0]) or ())
        if target is None:
            return Skip("more than one size would have to be inferred")
        if node.attributes.get_int("allowzero", 0) and 0 in target:
            return Skip("a size of 0 does not mean a copy here")
        tape = ir.tape.Tape()
        shape = tape.initializer(
            ir.tensor(np.asarray(target, dtype=np.int64)), name=f"{node.outputs[0].name}.shape"
        )
        result = tape.op("Reshape", [node.inputs[0], shape])
        return scene.replace([node], tape, {node.outputs[0]: result})


def _constant_target(contents: Sequence[Dim], before: Sequence[Dim]) -> list[int] | None:
    """The second input of a Reshape to `contents`, with 0 for a copy; None if there is none."""
    target = [
        dim if isinstance(dim, int) else 0 if i < len(before) and before[i] == dim else -1
        for i, dim in enumerate(contents)
    ]
    return target if target.count(-1) <= 1 else None
