"""Pick along one axis with Gather."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["GatherndToGather"]


@dataclasses.dataclass(frozen=True)
class GatherndToGather(Rule):
    """Replace a `GatherND` that picks along the first axis by a `Gather`.

    Indices (..., 1), constant: `GatherND(x, i)` is `Gather<axis=0>(x, i[..., 0])`.
    """

    name: ClassVar[str] = "gathernd-to-gather"
    roots: ClassVar[tuple[str, ...]] = ("GatherND",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        indices = scene.facts.array(node.inputs[1])
        if indices is None or indices.ndim < 1 or indices.shape[-1] != 1:
            return False
        if node.attributes.get_int("batch_dims", 0):
            return Skip("batch_dims is not 0")
        tape = ir.tape.Tape()
        picked = np.array(indices[..., 0])  # a copy that lies in one piece
        constant = tape.initializer(ir.tensor(picked), name=f"{node.outputs[0].name}.indices")
        result = tape.op("Gather", [node.inputs[0], constant], {"axis": 0})
        return scene.replace([node], tape, {node.outputs[0]: result})
