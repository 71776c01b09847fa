"""Cut a tensor into pieces at once."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import shape_constant
from onnxslim_rx_passes._slices import END, cuts_of

__all__ = ["SplitBySlices"]

_MOST_READERS = 256
"""Tensors with more readers are left alone, so that the work stays linear."""


class _Piece(NamedTuple):
    node: ir.Node
    axis: int
    start: int
    end: int
    size: int


@dataclasses.dataclass(frozen=True)
class SplitBySlices(Rule):
    """Replace the `Slice` nodes that cut an axis into neighbouring pieces by one `Split`.

    `x[:, :a]` and `x[:, a:]` are the two results of `Split<axis=1>(x, [a, n - a])`. The pieces
    must cover the whole axis, whose size n is a number, and lie in one graph.
    """

    name: ClassVar[str] = "split-by-slices"
    roots: ClassVar[tuple[str, ...]] = ("Slice",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        source = node.inputs[0]
        if source is None or not 1 < len(source.uses()) <= _MOST_READERS:
            return False
        first = _piece(node, scene)
        if first is None or first.start != 0:
            return False
        by_start: dict[int, _Piece] = {}
        for use in source.uses():
            other = use.node
            if other.op_type != "Slice" or other.domain != "" or use.idx != 0:
                continue
            piece = _piece(other, scene) if other.graph is node.graph else None
            if piece is not None and piece.axis == first.axis and other is not node:
                by_start.setdefault(piece.start, piece)
        pieces = [first]
        while pieces[-1].end < first.size and pieces[-1].end in by_start:
            pieces.append(by_start[pieces[-1].end])
        if len(pieces) < 2:
            return False
        if pieces[-1].end < first.size:
            return Skip("the slices do not cover the axis")
        return _split(source, pieces, scene)


def _piece(node: ir.Node, scene: Scene) -> _Piece | None:
    """What a Slice takes of one axis of known size, if it takes some and nothing else."""
    cuts = cuts_of(node, scene)
    if cuts is None or len(cuts) != 1:
        return None
    ((axis, start, end, step, size),) = cuts
    if step != 1 or not (isinstance(start, int) and isinstance(end, int) and isinstance(size, int)):
        return None
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    end = size if end >= END else min(end, size)
    return _Piece(node, axis, start, end, size) if 0 <= start < end else None


def _split(source: ir.Value, pieces: list[_Piece], scene: Scene) -> bool:
    """Put a Split behind what makes `source`: the first reader of a piece may come anywhere."""
    tape, root = ir.tape.Tape(), pieces[0].node
    graph, producer = root.graph, source.producer()
    assert graph is not None  # a rule sees nodes of graphs
    sizes = [piece.end - piece.start for piece in pieces]
    attributes: dict[str, int | list[int]] = {"axis": pieces[0].axis}
    if scene.opset < 13:
        inputs, attributes["split"] = [source], sizes
    else:
        inputs = [source, shape_constant(tape, sizes, f"{source.name}.split")]
    outputs = tape.op_multi_out("Split", inputs, attributes, num_outputs=len(pieces))
    (split,) = tape.nodes
    scene.insert(tape, root)
    before = producer
    if producer is None or producer.graph is not graph:
        before = inputs[-1].producer() if len(inputs) > 1 else None
    if before is None or before.graph is not graph:
        if graph[0] is not split:
            graph.remove(split)
            graph.insert_before(graph[0], split)
    else:
        graph.remove(split)
        graph.insert_after(before, split)
    for piece, output in zip(pieces, outputs, strict=True):
        scene.replace([piece.node], ir.tape.Tape(), {piece.node.outputs[0]: output})
    return True
