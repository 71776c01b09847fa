"""Rules: rewrites of one node and its neighbours, driven together over a model.

A rule names the operators that it starts from; the driver looks at every node once, tries the
rules of its operator, and looks again at what a rewrite touched. So the work grows with the number
of nodes and rewrites, and not with their product with the number of rules.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import nodes_in
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skip, Skipped
from onnxslim_rx.rewriter import Editor, Emitted, remove
from onnxslim_rx.targets import Target

__all__ = ["ANY", "Driven", "Rule", "RuleError", "Scene", "drive"]

ANY = "*"
"""Among the roots of a rule: every node."""

_MOST_REWRITES = 8
"""For each node that there is at the start; more mean that rules undo one another."""

_MOST_NEIGHBOURS = 16
"""Readers of an input of a rewritten node that are looked at again."""


@dataclasses.dataclass(frozen=True)
class Rule(RewritePass):
    """A rewrite of one node and its neighbours.

    Subclasses set `name` and `roots` and implement `rewrite`. Neighbouring rules of one phase
    share a drive over the model.
    """

    roots: ClassVar[tuple[str, ...]] = ()
    """Operators to start from: `"Add"`, `"domain::Type"`, or `ANY`."""
    phase: ClassVar[int] = 0
    """0 tidies up, 1 recognises what nodes stand for, 2 moves arithmetic into weights, which
    hides the patterns of 1."""

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """Rewrite at `node`, whose operator is one of `roots`.

        Changes go through `scene`; nodes are replaced, never changed in place.

        Args:
            node: belongs to a graph; none of its attributes is a reference to one of a function.
            scene: what is known, and the means to change it.

        Returns:
            Whether something was rewritten; or why not, where the pattern was there and a guard
            forbids it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement rewrite")

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place, everywhere."""
        try:
            return drive(model, [self], ctx).result(0, model)
        except RuleError as error:
            raise error.__cause__ or error from None


class Scene:
    """What a rule sees and uses: facts about values, and edits that keep the model valid.

    Args:
        model: changed in place.
        facts: about `model`.
        target: which operators may be emitted.
    """

    def __init__(self, model: ir.Model, facts: Facts, target: Target) -> None:
        self.model = model
        self.facts = facts
        self.target = target
        self.opset = model.opset_imports.get("", 1)
        """Version of the standard operators where the node lies."""
        self.by = ""
        """Name of the rule at work."""
        self.touched: list[ir.Node] = []
        """Nodes to look at again."""
        self._editor = Editor(model)

    def scalar(self, value: ir.Value | None) -> float | None:
        """The number in a constant of one element, of whatever rank; None for anything else."""
        array = self.facts.array(value)
        if array is None or array.size != 1 or array.dtype.kind not in "fiub":
            return None
        return float(array.item())

    def is_filled(self, value: ir.Value | None, number: float) -> bool:
        """Whether `value` is a constant, not empty, whose elements all are exactly `number`."""
        array = self.facts.array(value)
        return array is not None and array.size > 0 and bool((array == number).all())

    def sole(self, value: ir.Value | None, *op_types: str) -> ir.Node | None:
        """The standard node of one of these types that made `value`, if nobody else reads it.

        None also where a graph returns `value`, or its reader lies in a subgraph.
        """
        node = self.maker(value, *op_types)
        if node is None or value is None or value.is_graph_output():
            return None
        uses = value.uses()
        if len(uses) != 1:
            return None
        (use,) = uses
        return node if use.node.graph is node.graph else None

    def maker(self, value: ir.Value | None, *op_types: str) -> ir.Node | None:
        """The standard node of one of these types that made `value`, or None."""
        node = None if value is None else value.producer()
        if node is None or node.domain != "" or node.op_type not in op_types:
            return None
        return node

    def is_private(self, value: ir.Value) -> bool:
        """Whether one node alone reads `value`, and no graph returns it."""
        return len(value.uses()) == 1 and not value.is_graph_output()

    def can_forward(self, old: ir.Value, new: ir.Value) -> bool:
        """See `Editor.can_forward`."""
        return self._editor.can_forward(old, new)

    def forward(self, node: ir.Node, old: ir.Value, new: ir.Value) -> bool | Skip:
        """Let readers of `old`, which `node` makes, read `new`, which holds the same.

        The node goes where nobody reads it any more. Refused where the graph returns `old` and
        cannot return `new` in its place.
        """
        if not self.can_forward(old, new):
            return Skip("the graph returns it under a name of its own")
        self._look_around([node])
        self._editor.forward(old, new)
        self._discard([node])
        return True

    def replace(
        self,
        old: Sequence[ir.Node],
        tape: Emitted,
        outputs: Mapping[ir.Value, ir.Value],
        *,
        keep: bool = False,
    ) -> bool:
        """Put what is on `tape` in the place of `old`, and drop constants that were theirs alone.

        Args:
            old: nodes of one graph, the last is where the new ones go.
            tape: new nodes and initializers.
            outputs: as for `Editor.replace`: each output of `old` that is read by others, and
                what takes its place.
            keep: the nodes of `old` but the last stay where they have other readers.

        Returns:
            True.
        """
        if keep:
            old = [*_dying(old), old[-1]]
        self._look_around(old)
        unused = [value for node in old for value in node.inputs]
        self.touched.extend(tape.nodes)
        self._editor.replace(old, tape, outputs, by=self.by)
        for new in outputs.values():
            self.touched.extend(reader.node for reader in new.uses())
        self._editor.remove_unused(unused)
        return True

    def insert(self, tape: Emitted, before: ir.Node) -> None:
        """Put what is on `tape` in front of `before`, which stays."""
        self.touched.extend(tape.nodes)
        self._editor.insert(tape, before, by=self.by)

    def constant(self, node: ir.Node, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new constant that `node` and its neighbours can read."""
        assert node.graph is not None  # a rule sees nodes of graphs
        return self._editor.constant(node.graph, tensor, name)

    @property
    def editor(self) -> Editor:
        """For edits that the methods above do not offer; touched nodes are the caller's to note."""
        return self._editor

    def _discard(self, old: Sequence[ir.Node]) -> None:
        for node in old:
            if any(value.uses() or value.is_graph_output() for value in node.outputs):
                continue
            inputs = list(node.inputs)
            remove(node)
            self._editor.remove_unused(inputs)

    def _look_around(self, old: Iterable[ir.Node]) -> None:
        """Note the neighbours of nodes that are about to change."""
        for node in old:
            for value in node.inputs:
                if value is None:
                    continue
                producer = value.producer()
                if producer is not None:
                    self.touched.append(producer)
                uses = value.uses()
                if len(uses) <= _MOST_NEIGHBOURS:
                    self.touched.extend(use.node for use in uses)
            for value in node.outputs:
                self.touched.extend(use.node for use in value.uses())


def _dying(old: Sequence[ir.Node]) -> list[ir.Node]:
    """Those of `old`, the last left out, that only nodes read which go themselves."""
    going = {old[-1]}
    for node in reversed(old[:-1]):
        free = not any(value.is_graph_output() for value in node.outputs)
        if free and all(use.node in going for value in node.outputs for use in value.uses()):
            going.add(node)
    return [node for node in old[:-1] if node in going]


@dataclasses.dataclass
class Tally:
    """What one rule did in a drive."""

    rewritten: int = 0
    seconds: float = 0.0
    skipped: dict[ir.Node, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Driven:
    """What a drive did.

    Args:
        tallies: one for each rule.
        log: position of the rule of each rewrite, in order.
    """

    tallies: list[Tally]
    log: list[int] = dataclasses.field(default_factory=list)

    def result(self, index: int, model: ir.Model) -> PassResult:
        """What the rule at this position did, as a pass would say it."""
        tally = self.tallies[index]
        skipped = tuple(
            Skipped(_label(node), why)
            for node, why in tally.skipped.items()
            if node.graph is not None
        )
        return PassResult(model, tally.rewritten > 0, tally.rewritten, skipped)


class RuleError(Exception):
    """A rule raised; the model is in a state between two.

    Args:
        index: position of the rule.
        where: the node.
    """

    def __init__(self, index: int, where: str) -> None:
        super().__init__(where)
        self.index = index
        self.where = where


def drive(
    model: ir.Model, rules: Sequence[Rule], ctx: PassContext, *, limit: int | None = None
) -> Driven:
    """Apply rules to all nodes of a model until none applies.

    Nodes are visited from the last to the first, so that what computes a shape that turns out to be
    constant is gone before it is looked at; what a rewrite touches is visited again. Nodes that
    nobody reads are passed over.

    Args:
        model: changed in place.
        rules: tried in this order at each node.
        ctx: `ctx.facts` are used where given.
        limit: stop after so many rewrites; None: at the fixed point, or when there were so many
            rewrites that rules must be undoing one another.

    Raises:
        RuleError: a rule raised (see its cause).
    """
    return _Drive(model, rules, ctx, limit).run()


class _Drive:
    def __init__(
        self, model: ir.Model, rules: Sequence[Rule], ctx: PassContext, limit: int | None
    ) -> None:
        self.model = model
        self.rules = rules
        self.driven = Driven([Tally() for _ in rules])
        self.everywhere = [i for i, rule in enumerate(rules) if ANY in rule.roots]
        self.by_type: dict[str, list[int]] = {}
        for index, rule in enumerate(rules):
            for root in rule.roots:
                if root != ANY:
                    self.by_type.setdefault(root, []).append(index)
        for found in self.by_type.values():
            found[:] = sorted({*found, *self.everywhere})
        self.scene = Scene(model, ctx.facts or Facts(model), ctx.target)
        self.limit = limit

    def run(self) -> Driven:
        """Visit the main graph, then each function."""
        self.scene.opset = self.model.opset_imports.get("", 1)
        self.body(list(nodes_in(self.model.graph)))
        for function in self.model.functions.values():
            self.scene.opset = function.opset_imports.get("", 1)
            self.body(list(nodes_in(function.graph)))
        return self.driven

    def body(self, found: list[ir.Node]) -> None:
        """Visit nodes, and what rewrites touch, until nothing is left to look at."""
        most = max(64, _MOST_REWRITES * len(found)) + len(self.driven.log)
        most = most if self.limit is None else min(most, self.limit)
        todo, waiting = deque(reversed(found)), set(found)
        while todo and len(self.driven.log) < most:
            node = todo.popleft()
            waiting.discard(node)
            if not _is_used(node):
                continue  # dead code is left to those who remove it
            if any(attribute.is_ref() for attribute in node.attributes.values()):
                continue
            for index in self.candidates(node):
                if node.graph is None or len(self.driven.log) >= most:
                    break
                self.attempt(index, node)
                for one in self.scene.touched:
                    if one.graph is not None and one not in waiting:
                        waiting.add(one)
                        todo.append(one)
                self.scene.touched.clear()

    def candidates(self, node: ir.Node) -> Sequence[int]:
        """The rules to try at a node."""
        key = node.op_type if node.domain == "" else f"{node.domain}::{node.op_type}"
        return self.by_type.get(key, self.everywhere)

    def attempt(self, index: int, node: ir.Node) -> None:
        """Try one rule at one node."""
        rule, tally, scene = self.rules[index], self.driven.tallies[index], self.scene
        scene.by = rule.name
        start = time.perf_counter()
        try:
            answer = rule.rewrite(node, scene)
        except Exception as error:
            raise RuleError(index, _label(node)) from error
        tally.seconds += time.perf_counter() - start
        if isinstance(answer, Skip):
            tally.skipped[node] = answer.why
            return
        tally.skipped.pop(node, None)
        if answer:
            tally.rewritten += 1
            self.driven.log.append(index)


def _is_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _label(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)
