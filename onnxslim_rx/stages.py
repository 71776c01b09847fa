"""Carry out what was decided for layers: run stages, splice what they emit into the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.inherited import inherited, statistics_by_input
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Skip, Skipped, Stage
from onnxslim_rx.rewriter import Editor

__all__ = ["Made", "Treatment", "apply_stage", "apply_treatments", "finish", "splice"]

Treatment = tuple[Layer, Sequence[Stage], LayerStatistics | None]
"""A layer of the model, what is to be done to it, and what is known of its input."""


@dataclasses.dataclass(frozen=True)
class Made:
    """What a stage left behind.

    Args:
        weights: new constants, and what new nodes compute, that later stages of a chain may treat.
        moved: constants of other layers in a new place, by what they were before.
    """

    weights: Sequence[ir.Value]
    moved: Mapping[ir.Value, ir.Value]


def apply_treatments(
    model: ir.Model,
    treatments: Sequence[Treatment],
    passes: Mapping[str, CompressionPass],
    *,
    between: Callable[[], object] | None = None,
) -> list[Skipped]:
    """Treat layers of `model`, in place.

    Stages are carried out one after the other over all layers: the second stage of a chain gets
    the layers whose weights the first stage of the same chain made.

    Args:
        model: changed in place.
        treatments: layers of this very model, each with its stages.
        passes: the passes that the stages name, by name.
        between: called once, after the first stages and before the following ones.

    Returns:
        What was refused, and why. A layer whose first stage is refused is left as it was.
    """
    skipped: list[Skipped] = []
    editor = Editor(model)
    todo = [(layer, tuple(stages), stats) for layer, stages, stats in treatments if stages]
    while todo:
        following: dict[ir.Value, _Following] = {}
        for layer, stages, stats in todo:
            found = _still_there(layer, model, passes[stages[0].pass_name])
            known = statistics_by_input(layer, stats)
            made = (
                apply_stage(editor, found, stages[0], stats, passes)
                if found is not None
                else Skip("another treatment took its nodes away")
            )
            if isinstance(made, Skip):
                skipped.append(Skipped(layer.name, f"{stages[0]}: {made.why}"))
                continue
            for old in made.moved.keys() & following.keys():
                following[made.moved[old]] = following.pop(old)
            if len(stages) > 1:
                rest = _Following(stages[1:], known)
                following.update(dict.fromkeys(made.weights, rest))
        if between is not None:
            between()
            between = None
        todo = _next_layers(model, following, passes)
    return skipped


def finish(
    model: ir.Model, plans: Iterable[Sequence[Stage]], passes: Mapping[str, CompressionPass]
) -> None:
    """Let each pass tidy up what its stages left between layers, in place.

    Args:
        model: all treatments are carried out.
        plans: the stages of each.
        passes: by name; those that have a stage are asked, in the order of their names.
    """
    for name in sorted({stage.pass_name for stages in plans for stage in stages}):
        passes[name].finish(model)


def _still_there(layer: Layer, model: ir.Model, one: CompressionPass) -> Layer | None:
    """The layer; where an earlier treatment replaced its node, the one that has its name now."""
    if all(node.graph is not None for node in layer.nodes):
        return layer
    found = (new for new in one.layers(model) if isinstance(new, Layer) and new.name == layer.name)
    return next(found, None)


@dataclasses.dataclass(frozen=True, eq=False)
class _Following:
    """Stages that a weight is still to go through, and what is known of what enters around it."""

    stages: tuple[Stage, ...]
    known: Mapping[ir.Value, LayerStatistics]


def _next_layers(
    model: ir.Model, following: Mapping[ir.Value, _Following], passes: Mapping[str, CompressionPass]
) -> list[tuple[Layer, tuple[Stage, ...], LayerStatistics | None]]:
    """The layers of new weights, as the pass of each weight's next stage sees them."""
    found: list[tuple[Layer, tuple[Stage, ...], LayerStatistics | None]] = []
    for name in sorted({rest.stages[0].pass_name for rest in following.values()}):
        for layer in passes[name].layers(model):
            rest = following.get(layer.weight) if isinstance(layer, Layer) else None
            if isinstance(layer, Layer) and rest and rest.stages[0].pass_name == name:
                found.append((layer, rest.stages, inherited(rest.known, layer)))
    return found


def apply_stage(
    editor: Editor,
    layer: Layer,
    stage: Stage,
    stats: LayerStatistics | None,
    passes: Mapping[str, CompressionPass],
) -> Made | Skip:
    """Carry out one stage on one layer, in place.

    Args:
        editor: of the model that holds the layer.
        layer: what is treated.
        stage: how; its pass is looked up in `passes`.
        stats: what is known of the layer's input.
        passes: by name.

    Returns:
        What was made, or the pass's refusal.
    """
    chosen = passes[stage.pass_name]
    tape = ir.tape.Tape()
    made = chosen.apply(layer, stage, stats, tape)
    return made if isinstance(made, Skip) else splice(editor, layer, made, tape, chosen)


def splice(
    editor: Editor,
    layer: Layer,
    made: ir.Value | Mapping[ir.Value, ir.Value],
    tape: ir.tape.Tape,
    chosen: CompressionPass,
) -> Made:
    """Put what a stage emitted in the place of what it treated, in place.

    Args:
        editor: of the model that holds the layer.
        layer: what was treated.
        made: what `CompressionPass.apply` returned.
        tape: what it emitted.
        chosen: the pass.
    """
    nodes = _replaced(layer, made) if isinstance(made, Mapping) else layer.nodes
    inner = {value for node in nodes for value in node.outputs}
    own = layer.weights
    if isinstance(made, Mapping):
        _replace_region(editor, nodes, made, tape, chosen.name)
    elif chosen.replaces == "weight":
        _replace_weight(editor, layer.weights[0], made, tape, chosen.name)
    else:
        weight = layer.weight
        editor.replace([layer.node], tape, {layer.output: made}, by=chosen.name)
        editor.remove_unused([weight])
    moved = {
        old: new
        for old, new in (made.items() if isinstance(made, Mapping) else ())
        if old not in inner and old not in own
    }
    computed = [value for node in tape.nodes for value in node.outputs]
    weights = [v for v in (*tape.initializers, *computed) if v not in set(moved.values())]
    return Made(weights, moved)


def _replaced(layer: Layer, made: Mapping[ir.Value, ir.Value]) -> Sequence[ir.Node]:
    """The nodes of the layer and, where others read its weight, too, those whose outputs are made.

    In the order of their graph.
    """
    makers = {node for value in made if (node := value.producer()) and constant(value) is None}
    more = makers.difference(layer.nodes)
    home = layer.node.graph
    if not more or home is None:
        return layer.nodes
    return [node for node in home if node in more or node in layer.nodes]


def _replace_region(
    editor: Editor,
    nodes: Sequence[ir.Node],
    made: Mapping[ir.Value, ir.Value],
    tape: ir.tape.Tape,
    by: str,
) -> None:
    """New nodes take the place of `nodes`, new constants the names of old ones."""
    read = [value for node in nodes for value in node.inputs]
    inner = {value for node in nodes for value in node.outputs}
    outputs = {old: new for old, new in made.items() if old in inner}
    names = {old: str(old.name) for old in made if old not in inner}
    home = nodes[0].graph
    assert home is not None  # nodes of a layer lie in a graph
    editor.replace(nodes, tape, outputs, by=by)
    if len(nodes) > 1:
        # new nodes are where the last old one was; what others made may be read before that
        home.sort()
    editor.remove_unused(read)
    for old, name in names.items():
        if old.graph is None:  # nobody reads it any more, and its name is free
            made[old].name = name


def _replace_weight(
    editor: Editor, weight: ir.Value, value: ir.Value, tape: ir.tape.Tape, by: str
) -> None:
    """Every reader of `weight`, in whatever graph, reads `value` instead, under the same name."""
    producer = weight.producer()
    home = producer.graph if producer is not None else weight.graph
    assert home is not None  # a constant is an initializer or made by a node
    readers = [use.node for use in weight.uses()]
    # what is made at the head of the graph is there for all of them
    editor.insert(tape, home[0], by=by, like=readers[0])
    name = str(weight.name)
    weight.replace_all_uses_with(value)
    value.type, value.shape = weight.type, weight.shape
    editor.remove_unused([weight])
    value.name = name
