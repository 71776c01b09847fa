"""Read sizes where they are first known, with the fewest nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import bodies
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._patterns import is_read, shape_constant
from onnxslim_rx_passes._size_plans import (
    Key,
    Known,
    Numbers,
    Part,
    Picked,
    Plan,
    Scope,
    Sized,
    plans,
)

__all__ = ["SimplifyShapes"]

_MOST_ROUNDS = 8
_MOST_DYING = 64
"""Nodes that one new shape may be counted to save."""

_INT64 = ir.DataType.INT64


@dataclasses.dataclass(frozen=True)
class SimplifyShapes(RewritePass):
    """Read sizes where they are first known, with the fewest nodes.

    An integer scalar or vector with the same content, by formula, as one that was computed before
    is replaced by that. What can be put together from shapes is put together anew where that
    takes fewer nodes, or as many in a shorter chain: `[x.shape[0], x.shape[1], 64]` becomes
    `Concat(Shape<start=0, end=2>(x), [64])`, or `Shape(x)` if that is all of it. Shapes are taken
    of the main graph's inputs where possible, and else of tensors whose shape is taken already, at
    the same place, so that no tensor has to be kept longer. `Shape` has `start` and `end` from
    opset 15; before, `Gather(Shape(x), [i, j])` does.
    """

    name: ClassVar[str] = "simplify-shapes"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place; functions are left alone, whose inputs are not known."""
        work = _Work(model, ctx.facts or Facts(model), self.name)
        for _ in range(_MOST_ROUNDS):
            before = work.changes
            work.graph(model.graph, work.inputs())
            if work.changes == before:
                break
        return PassResult(model, work.changes > 0, work.changes)


class _Work:
    def __init__(self, model: ir.Model, facts: Facts, by: str) -> None:
        self.model = model
        self.facts = facts
        self.by = by
        self.editor = Editor(model)
        self.opset = model.opset_imports.get("", 1)
        self.changes = 0
        self.place = 0

    def inputs(self) -> Scope:
        """The inputs of the model, whose shapes cost nothing."""
        scope = Scope()
        for value in self.model.graph.inputs:
            shape = self.facts.shape(value)
            if shape and not value.is_initializer():
                scope.note(Sized(value, shape, len(scope.seen), 0.0, None))
        return scope

    def graph(self, graph: ir.Graph, scope: Scope) -> None:
        """Merge what is the same, in order; then make anew what can be had cheaper, the last first.

        Args:
            graph: the main graph, or a subgraph.
            scope: what lies around; more is noted there.
        """
        places: dict[ir.Node, int] = {}
        for node in list(graph):
            for body in bodies(node):
                self.graph(body, scope.inner())
            self.place += 1
            places[node] = self.place
            if node.op_type == "Constant" or node.domain != "":
                continue
            self.note_shape(node, self.place, scope)
            for value in node.outputs:
                self.merge(node, value, self.place, scope)
        for node in reversed(places):
            if node.graph is not None and len(node.outputs) == 1 and node.domain == "":
                self.renew(node, places[node], scope)

    def key(self, value: ir.Value) -> Key | None:
        """Equal for values with the same content; None where it is not known, or constant."""
        contents = self.facts.contents(value)
        if contents is None or all(isinstance(dim, int) for dim in contents):
            return None
        dtype, rank = self.facts.dtype(value), self.facts.rank(value)
        return None if dtype is None or rank is None else (dtype, rank, contents)

    def note_shape(self, node: ir.Node, place: float, scope: Scope) -> None:
        """Note the tensor whose shape a node takes."""
        value = node.inputs[0] if node.op_type == "Shape" else None
        shape = self.facts.shape(value)
        if value is not None and shape and value not in scope.seen:
            scope.note(Sized(value, shape, len(scope.seen), place - 0.5, node))

    def merge(self, node: ir.Node, value: ir.Value, place: float, scope: Scope) -> None:
        """Let readers of `value` read what was computed before; else note it."""
        key = self.key(value)
        if key is None or not is_read(value):
            return
        known = scope.known.get(key)
        if known is not None and known.value is not value and _is_there(known.value):
            if self.editor.can_forward(value, known.value):
                self.forward(node, value, known.value)
            return
        depths = [self.depth(one, scope) for one in node.inputs]
        scope.known[key] = Known(value, place, 1 + max(depths, default=0))

    def depth(self, value: ir.Value | None, scope: Scope) -> int:
        """Nodes in the chain that computes a size; 0 for other tensors."""
        key = None if value is None else self.key(value)
        known = None if key is None else scope.known.get(key)
        return 0 if known is None else known.depth

    def renew(self, node: ir.Node, place: float, scope: Scope) -> None:
        """Make the output of `node` with fewer nodes, or in a shorter chain, if possible."""
        (value,) = node.outputs
        key = self.key(value)
        if key is None or key[0] != _INT64 or not is_read(value):
            return
        known = scope.known.get(key)
        if known is None or known.value is not value:
            return
        if value.is_graph_output() and node.graph is not self.model.graph:
            return  # what lies around a subgraph cannot be returned by it
        best: tuple[tuple[int, int, int], Plan] | None = None
        current = (0, known.depth, self.order(node, scope))
        for plan in plans(key[2], key[1], place, opset=self.opset, scope=scope):
            kept = {part.known.value for part in plan.pieces if isinstance(part, Part)}
            for picked in (piece for piece in plan.pieces if isinstance(piece, Picked)):
                kept.add(picked.whole.value if picked.whole else picked.tensor.value)
            if value in kept:
                continue
            worth = (plan.cost - _dying(node, kept), plan.depth, plan.order)
            if worth < current:
                best, current = (worth, plan), worth
        if best is not None:
            self.carry_out(best[1], node, place, scope)

    def order(self, node: ir.Node, scope: Scope) -> int:
        """How good the tensor is whose shape `node` takes; see `Sized`."""
        if node.op_type != "Shape" or node.inputs[0] is None:
            return -1  # another tensor alone is no reason
        found = scope.seen.get(node.inputs[0])
        return -1 if found is None else found.order

    def carry_out(self, plan: Plan, node: ir.Node, place: float, scope: Scope) -> None:
        """Put the nodes of a plan into the graph, and let them take the place of `node`."""
        (value,) = node.outputs
        tape, scalar = ir.tape.Tape(), self.facts.rank(value) == 0
        pieces = [self.piece(piece, tape, node, scope, scalar=scalar) for piece in plan.pieces]
        new = pieces[0] if len(pieces) == 1 else tape.op("Concat", pieces, {"axis": 0})
        made = new.producer() in tape.nodes
        self.editor.insert(tape, node, by=self.by)
        key = self.key(value)
        if made and key is not None:
            scope.known[key] = Known(new, place, plan.depth)
        self.forward(node, value, new)

    def piece(
        self,
        piece: Numbers | Picked | Part,
        tape: ir.tape.Tape,
        node: ir.Node,
        scope: Scope,
        *,
        scalar: bool,
    ) -> ir.Value:
        """A piece of a plan: what reads no tensor goes on the tape."""
        if isinstance(piece, Numbers):
            return shape_constant(tape, piece.numbers, f"{node.outputs[0].name}.sizes")
        if isinstance(piece, Part):
            if not piece.lifts:
                return piece.known.value
            axes = shape_constant(tape, [0], f"{node.outputs[0].name}.axes")
            return tape.op("Squeeze" if scalar else "Unsqueeze", [piece.known.value, axes])
        first, last = piece.indices[0], piece.indices[-1]
        if not piece.gathers:
            return self.shape(piece.tensor, first, last + 1, node, scope)
        whole = None if piece.whole is None else piece.whole.value
        if whole is None:
            whole = self.shape(piece.tensor, 0, len(piece.tensor.shape), node, scope)
        array = np.asarray(first if scalar else piece.indices, dtype=np.int64)
        indices = tape.initializer(ir.tensor(array), name=f"{node.outputs[0].name}.indices")
        return tape.op("Gather", [whole, indices], {"axis": 0})

    def shape(self, tensor: Sized, start: int, end: int, node: ir.Node, scope: Scope) -> ir.Value:
        """A new Shape of a tensor, where its shape is taken first."""
        key = (_INT64, 1, tensor.shape[start:end])
        tape = ir.tape.Tape()
        part = {} if end - start == len(tensor.shape) else {"start": start, "end": end}
        value = tape.op("Shape", [tensor.value], part)
        anchor = tensor.anchor or self.model.graph[0]
        self.editor.insert(tape, anchor, by=self.by, like=node)
        if tensor.anchor is not None:
            tensor.anchor = value.producer()
        scope.known[key] = Known(value, tensor.place, 1)
        return value

    def forward(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        """Let readers of `old` read `new`, and drop what nobody reads then."""
        self.changes += 1
        self.editor.forward(old, new)
        todo = [node]
        while todo:
            one = todo.pop()
            if one.graph is None or any(is_read(value) for value in one.outputs):
                continue
            inputs = [value for value in one.inputs if value is not None]
            remove(one)
            self.editor.remove_unused(inputs)
            todo.extend(maker for value in inputs if (maker := value.producer()) is not None)


def _is_there(value: ir.Value) -> bool:
    node = value.producer()
    return node is None or node.graph is not None


def _dying(root: ir.Node, kept: Collection[ir.Value]) -> int:
    """How many nodes nobody needs once nobody reads `root`, but for what makes `kept`."""
    going, todo = {root}, [root]
    while todo and len(going) < _MOST_DYING:
        for value in todo.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node in going or node.graph is not root.graph:
                continue
            if node.op_type != "Constant" and not any(
                one in kept or one.is_graph_output() or any(u.node not in going for u in one.uses())
                for one in node.outputs
            ):
                going.add(node)
                todo.append(node)
    return len(going)
