"""Layers whose neighbours can be treated in the same way, so that nothing is converted between.

A layer on integers rounds what enters it and gives floating point back. Where the layers around it
run on integers as well, both conversions vanish in the network; a layer on its own is timed without
them then. The same holds for half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import constant
from onnxslim_rx.planner.options import Unit
from onnxslim_rx.planner.parts import Entering, extract
from onnxslim_rx.runtime import Runner

__all__ = ["Neighbours", "core"]

Array = npt.NDArray[Any]

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Runtimes compute these on what enters them, integers or halves, and give back the same.
_CARRY = {
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "Gather", "GlobalAveragePool", "Identity"),
    *("LeakyRelu", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
}


class Neighbours:
    """Which tensors lie between layers that one pass can treat.

    Args:
        units: all layers, with all choices.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._nodes: dict[str, set[ir.Node]] = {}

    def _treated(self, by: str) -> set[ir.Node]:
        if by not in self._nodes:
            self._nodes[by] = {
                node
                for unit in self._units
                if any(c.stages and c.stages[0].pass_name == by for c in unit.choices)
                for node in unit.layer.nodes
            }
        return self._nodes[by]

    def gives(self, value: ir.Value, by: str) -> bool:
        """Whether `value` is made by layers that the pass can treat, and what carries on."""
        todo, seen, found = [value], set(), False
        while todo:
            node = todo.pop().producer()
            if node is None or (node not in self._treated(by) and not _carries(node)):
                return False
            if node in self._treated(by):
                found = True
            elif node not in seen:
                seen.add(node)
                todo += [v for v in node.inputs if v is not None and constant(v) is None]
        return found

    def takes(self, value: ir.Value, by: str) -> bool:
        """Whether a layer that the pass can treat reads `value`, directly or carried on."""
        todo, seen = [value], set()
        while todo:
            for use in todo.pop().uses():
                if use.node in self._treated(by):
                    return True
                if use.node not in seen and _carries(use.node):
                    seen.add(use.node)
                    todo += use.node.outputs
        return False


def _carries(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _CARRY


def core(
    part: ir.Model,
    feeds: Mapping[str, Array],
    gives: Sequence[int],
    takes: Sequence[int],
) -> tuple[ir.Model, Mapping[str, Array]]:
    """A layer without the conversions that its neighbours save it, and what enters that.

    Args:
        part: a layer of its own, treated.
        feeds: what enters it, by name.
        gives: numbers of inputs that neighbours give as they are wanted.
        takes: numbers of outputs that neighbours take as they are made.
    """
    graph = part.graph
    fed: dict[ir.Value, list[ir.Value]] = {}
    for number, value in enumerate(graph.inputs):
        nodes = [use.node for use in value.uses()]
        if number in gives and nodes and all(map(_rounds, nodes)):
            fed[value] = [node.outputs[0] for node in nodes]
    facts = Facts(part)
    outputs = [_before(v, facts) if n in takes else v for n, v in enumerate(graph.outputs)]
    if not fed and outputs == list(graph.outputs):
        return part, feeds
    converted: dict[ir.Value, Entering | None] = {}
    arrays = dict(feeds)
    if fed:
        made = [value for values in fed.values() for value in values]
        runner = Runner(extract(part, graph, dict.fromkeys(fed), made))
        found = runner({name: feeds[name] for name in runner.inputs})
        converted = {value: Entering.of([found[str(value.name)]]) for value in made}
        arrays |= {str(value.name): np.asarray(found[str(value.name)]) for value in made}
    entering = {value: None for value in graph.inputs if value not in fed} | converted
    # one tensor may be asked for twice
    return extract(part, graph, entering, list(dict.fromkeys(outputs))), arrays


def _rounds(node: ir.Node) -> bool:
    """Whether a node brings floating point into the form that a layer computes in."""
    if node.op_type == "Cast":
        return node.attributes.get_int("to", 0) in _HALF
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    return node.op_type == "QuantizeLinear" and scale is not None and scale.is_initializer()


def _before(value: ir.Value, facts: Facts) -> ir.Value:
    """What an output was before it was brought back to floating point."""
    node = value.producer()
    if node is None or node.op_type not in ("DequantizeLinear", "Cast"):
        return value
    source = node.inputs[0]
    if source is None or source.producer() is None:
        return value
    halves = node.op_type == "Cast" and facts.dtype(source) in _HALF
    return source if halves or node.op_type == "DequantizeLinear" else value
