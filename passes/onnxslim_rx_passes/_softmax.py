"""What scores go into, and what contexts are weighed by."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx_passes._projections import Projections, sole_reader

__all__ = ["is_probability", "softmax_of"]

_MASKED = -1e4
"""A score that is set to this or less has no share in a softmax, whatever the others are."""

_MOST_STEPS = 12


def softmax_of(scores: ir.Value, known: Projections) -> ir.Node | None:
    """The Softmax over keys that the scores go into, where nothing else depends on them.

    Then what is constant over all keys has no effect: on the way there are only factors,
    additions, and scores set to so low a number that they have no share.
    """
    value = scores
    for _ in range(_MOST_STEPS):
        node = sole_reader(value)
        if node is None:
            return None
        if node.op_type == "Softmax":
            axis = node.attributes.get_int("axis", -1 if known.opset >= 13 else 1)
            rank = known.facts.rank(value)
            return node if rank is not None and axis in (-1, rank - 1) else None
        if node.op_type == "Where":
            other = node.inputs[1] if node.inputs[2] is value else node.inputs[2]
            fill = known.facts.array(other)
            if node.inputs[0] is value or fill is None or (fill.astype(float) > _MASKED).any():
                return None
        elif node.op_type != "Add" and not known.keeps_values(node) and known.factor(node) is None:
            return None
        value = node.outputs[0]
    return None


def is_probability(value: ir.Value | None) -> bool:
    """Whether a Softmax makes `value`, but for a few nodes that patch or scale it."""
    todo = [value]
    for _ in range(_MOST_STEPS):
        if not todo:
            break
        last = todo.pop()
        node = None if last is None else last.producer()
        if node is not None and node.op_type == "Softmax":
            return True
        if node is not None and node.op_type in ("Where", "Dropout", "Mul", "Div", "Cast"):
            todo.extend(node.inputs)
    return False
