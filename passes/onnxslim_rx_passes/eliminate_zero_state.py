"""Leave out initial states that are zero."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import fill_of

__all__ = ["EliminateZeroState"]

_STATES = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,)}


@dataclasses.dataclass(frozen=True)
class EliminateZeroState(Rule):
    """Leave out initial states of `LSTM`, `GRU` and `RNN` that are zero, as they are by default.

    Also where their shape is computed, as exporters do for an open batch size.
    """

    name: ClassVar[str] = "eliminate-zero-state"
    roots: ClassVar[tuple[str, ...]] = tuple(_STATES)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        inputs = list(node.inputs)
        for index in _STATES[node.op_type]:
            if index < len(inputs) and fill_of(inputs[index], scene) == 0:
                inputs[index] = None
        if inputs == list(node.inputs):
            return False
        while inputs[-1] is None:
            inputs.pop()
        tape = ir.tape.Tape()
        new = tape.op_multi_out(
            node.op_type, inputs, node.attributes, num_outputs=len(node.outputs)
        )
        return scene.replace([node], tape, dict(zip(node.outputs, new, strict=True)))
