"""Replace a Loop that runs once by its body."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._inline import inline
from onnxslim_rx_passes._patterns import shape_constant

__all__ = ["InlineLoop"]


@dataclasses.dataclass(frozen=True)
class InlineLoop(Rule):
    """Replace a `Loop` of one trip by the nodes of its body.

    One trip: the trip count is the constant 1, and the condition at the start is absent or the
    constant True; what the body makes of the condition does not matter then. Values that the
    Loop collects from each trip get the leading axis of size 1 that they would have.
    """

    name: ClassVar[str] = "inline-loop"
    roots: ClassVar[tuple[str, ...]] = ("Loop",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        trips = scene.facts.array(node.inputs[0])
        if trips is None or trips.size != 1:
            return Skip("the number of trips is computed")
        if trips.item() != 1:
            return Skip("it does not run once")
        condition = node.inputs[1] if len(node.inputs) > 1 else None
        if condition is not None and not scene.is_filled(condition, 1):
            return Skip("the condition is computed")
        body = node.attributes["body"].as_graph()
        starts = node.inputs[2:]
        if len(body.inputs) != 2 + len(starts) or len(body.outputs) != 1 + len(node.outputs):
            return Skip("the body does not fit to the Loop")
        if any(value is None for value in starts):
            return Skip("a value at the start is absent")
        if any(value.is_initializer() for value in body.inputs):
            return Skip("an input of the body has a default")
        return self._inline(node, body, scene)

    def _inline(self, node: ir.Node, body: ir.Graph, scene: Scene) -> bool:
        starts = [value for value in node.inputs[2:] if value is not None]
        given = [
            scene.constant(node, ir.tensor(np.asarray(0, dtype=np.int64)), "trip"),
            scene.constant(node, ir.tensor(np.asarray(True)), "condition"),
            *starts,
        ]
        before = dict(zip(body.inputs, given, strict=True))
        ends = [before.get(value, value) for value in body.outputs[1:]]
        body.outputs.clear()
        for value, start in before.items():
            value.replace_all_uses_with(start, replace_graph_outputs=True)
        scene.editor.remove_unused(given[:2])
        return inline(node, body, *self._results(node, ends, body, scene), scene)

    def _results(
        self, node: ir.Node, ends: list[ir.Value], body: ir.Graph, scene: Scene
    ) -> tuple[list[ir.Value], ir.tape.Tape]:
        """What takes the place of the outputs of `node`, and nodes that make it."""
        tape, results = ir.tape.Tape(), []
        counts = Counter(ends)
        carried = len(node.inputs) - 2
        for index, (old, new) in enumerate(zip(node.outputs, ends, strict=True)):
            computed = new.graph is body and new.producer() is not None and counts[new] == 1
            if index >= carried:
                new = _unsqueezed(tape, new, scene)
            elif old.is_graph_output() and not computed:
                new = tape.op("Identity", [new])
            results.append(new)
        return results, tape


def _unsqueezed(tape: ir.tape.Tape, value: ir.Value, scene: Scene) -> ir.Value:
    if scene.opset < 13:
        return tape.op("Unsqueeze", [value], {"axes": [0]})
    return tape.op("Unsqueeze", [value, shape_constant(tape, [0], "axes")])
