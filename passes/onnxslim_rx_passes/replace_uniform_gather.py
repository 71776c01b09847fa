"""Pick a row once that is picked everywhere."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import fill_of, normal_axis
from onnxslim_rx_passes._widths import readers_keep_shape

__all__ = ["ReplaceUniformGather"]

_MAKERS = (
    "Compress", "ConstantOfShape", "Expand", "Gather", "GatherElements", "GatherND", "Reshape",
    "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReplaceUniformGather(Rule):
    """Pick a row once that is picked everywhere.

    `Gather(table, indices)` along the first axis, with indices that are the same number k
    wherever they come from (`Expand` or `Slice` of zeros, as exporters make token types), is
    `Gather(table, k)`, if everything that reads it broadcasts that to the same results. k must be
    a row of the table.
    """

    name: ClassVar[str] = "replace-uniform-gather"
    roots: ClassVar[tuple[str, ...]] = ("Gather",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        table, indices = node.inputs
        if scene.maker(indices, *_MAKERS) is None:
            return False
        row = fill_of(indices, scene)
        if row is None:
            return False
        shape, result = scene.facts.shape(table), node.outputs[0]
        if shape is None or normal_axis(node.attributes.get_int("axis", 0), len(shape)) != 0:
            return False
        size, index = shape[0], int(row)
        if not isinstance(size, int) or not -size <= index < size:
            return Skip("the table may be too short")
        if not readers_keep_shape(result, shape[1:], scene):
            return Skip("somebody needs all rows")
        tape = ir.tape.Tape()
        place = tape.initializer(ir.tensor(np.asarray(index)), name=f"{result.name}.row")
        new = tape.op("Gather", [table, place], {"axis": 0})
        result.shape = None  # what takes its place is narrower
        return scene.replace([node], tape, {result: new})
