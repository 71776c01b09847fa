"""How to put a vector of sizes together from shapes and from what is there."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

if TYPE_CHECKING:
    from typing import TypeAlias

    from onnxslim_rx.analysis.facts import Dim

__all__ = ["Key", "Known", "Numbers", "Part", "Picked", "Plan", "Scope", "Sized", "plans"]

Key: TypeAlias = "tuple[ir.DataType, int, tuple[Dim, ...]]"
"""Type, rank and content of an integer tensor."""

_INT64 = ir.DataType.INT64

_MOST_TENSORS = 32

_SLICED_FROM = 15
"""Opset whose Shape has a start and an end."""

_SQUEEZE_FROM = 13
"""Opset whose Squeeze and Unsqueeze take axes as an input."""


class Known(NamedTuple):
    """A value whose content is known.

    Args:
        value: an integer scalar or vector.
        place: of its node, counted over all graphs.
        depth: nodes in the longest chain that computes it from shapes.
    """

    value: ir.Value
    place: float
    depth: int


@dataclasses.dataclass
class Sized:
    """A tensor whose shape can be taken without keeping it any longer.

    Args:
        value: the tensor.
        shape: its sizes.
        order: the less, the better.
        place: where its shape can be taken, counted over all graphs.
        anchor: the node to take it in front of; None: the head of the main graph.
    """

    value: ir.Value
    shape: tuple[Dim, ...]
    order: int
    place: float
    anchor: ir.Node | None


@dataclasses.dataclass
class Scope:
    """What nodes of a graph may read, if it lies before them.

    Args:
        known: integer scalars and vectors.
        seen: tensors whose shapes can be taken.
        sized: the same by each formula among their sizes, the preferred ones first.
    """

    known: ChainMap[Key, Known] = dataclasses.field(default_factory=ChainMap)
    seen: ChainMap[ir.Value, Sized] = dataclasses.field(default_factory=ChainMap)
    sized: ChainMap[Dim, list[Sized]] = dataclasses.field(default_factory=ChainMap)

    def inner(self) -> Scope:
        """That of a subgraph: what is noted there is not seen outside."""
        return Scope(self.known.new_child(), self.seen.new_child(), self.sized.new_child())

    def note(self, tensor: Sized) -> None:
        """Note a tensor."""
        self.seen[tensor.value] = tensor
        for dim in dict.fromkeys(tensor.shape):
            if not isinstance(dim, int):
                self.sized.maps[0].setdefault(dim, []).append(tensor)

    def count(self, dim: Dim) -> int:
        """How many tensors have this size somewhere."""
        return sum(len(level.get(dim, ())) for level in self.sized.maps)

    def with_size(self, dim: Dim, place: float) -> Iterator[Sized]:
        """Tensors that have this size somewhere and lie before a place; only the first few."""
        count = 0
        for level in reversed(self.sized.maps):
            for tensor in level.get(dim, ()):
                if tensor.place >= place or count >= _MOST_TENSORS:
                    break
                if tensor.anchor is None or tensor.anchor.graph is not None:
                    count += 1
                    yield tensor


class Numbers(NamedTuple):
    """Constant elements."""

    numbers: tuple[int, ...]


class Picked(NamedTuple):
    """Sizes of a tensor: `Shape<start, end>(x)`, or `Gather(shape, indices)`.

    Args:
        tensor: whose sizes.
        indices: which.
        whole: its whole shape, where that is there already; None: it has to be taken.
        gathers: with a Gather, not with a Shape alone.
    """

    tensor: Sized
    indices: tuple[int, ...]
    whole: Known | None
    gathers: bool


class Part(NamedTuple):
    """A value that is there, as a vector.

    Args:
        known: the value.
        lifts: it is a scalar, and needs an Unsqueeze; or, for a scalar, a vector.
    """

    known: Known
    lifts: bool


class Plan(NamedTuple):
    """Pieces one after another.

    Args:
        pieces: at least one.
        cost: nodes that it adds.
        depth: nodes in the longest chain.
        order: see `Sized`; of the worst tensor.
    """

    pieces: tuple[Numbers | Picked | Part, ...]
    cost: int
    depth: int
    order: int


def plans(
    contents: Sequence[Dim], rank: int, place: float, *, opset: int, scope: Scope
) -> Iterator[Plan]:
    """Ways to make a tensor of 64-bit integers, each with few nodes.

    Args:
        contents: its elements, not all of them numbers.
        rank: 0 or 1.
        place: where it is needed.
        opset: version of the standard operators.
        scope: what can be read.
    """
    found = _Finder(place, opset, scope)
    if rank == 0:
        yield from found.scalars(contents[0])
        return
    whole = tuple(contents)
    for tensor in found.tensors(whole):
        piece = found.slice_of(tensor, whole) or found.picks_of(tensor, whole)
        if piece is not None:
            yield _plan([piece])
    pieces = found.pieces(whole)
    if pieces is not None:
        yield _plan(pieces)


class _Finder:
    def __init__(self, place: float, opset: int, scope: Scope) -> None:
        self.place = place
        self.opset = opset
        self.scope = scope

    def tensors(self, contents: Sequence[Dim]) -> Iterator[Sized]:
        """Those that may have these sizes."""
        dims = [dim for dim in contents if not isinstance(dim, int)]
        rarest = min(dims, key=self.scope.count, default=None)
        return iter(()) if rarest is None else self.scope.with_size(rarest, self.place)

    def existing(self, rank: int, contents: tuple[Dim, ...]) -> Known | None:
        """What is there with this content."""
        one = self.scope.known.get((_INT64, rank, contents))
        if one is None or one.place >= self.place:
            return None
        node = one.value.producer()
        return None if node is None or node.graph is None else one

    def slice_of(self, tensor: Sized, contents: tuple[Dim, ...]) -> Picked | None:
        """A Shape of neighbouring sizes."""
        count = len(contents)
        for start in range(len(tensor.shape) - count + 1):
            if tensor.shape[start : start + count] == contents:
                if count < len(tensor.shape) and self.opset < _SLICED_FROM:
                    return None
                return Picked(tensor, tuple(range(start, start + count)), None, gathers=False)
        return None

    def picks_of(self, tensor: Sized, contents: tuple[Dim, ...]) -> Picked | None:
        """Sizes in any order."""
        if not all(size in tensor.shape for size in contents):
            return None
        indices = tuple(tensor.shape.index(size) for size in contents)
        return Picked(tensor, indices, self.existing(1, tensor.shape), gathers=True)

    def scalars(self, size: Dim) -> Iterator[Plan]:
        """Ways to make one number."""
        vector = self.existing(1, (size,))
        if vector is not None and self.opset >= _SQUEEZE_FROM:
            yield _plan([Part(vector, lifts=True)])
        for tensor in self.tensors((size,)):
            picked = self.picks_of(tensor, (size,))
            if picked is not None:
                yield _plan([picked])

    def pieces(self, contents: tuple[Dim, ...]) -> list[Numbers | Picked | Part] | None:
        """The content in pieces, the longest first at each place; None where one is missing."""
        found: list[Numbers | Picked | Part] = []
        start = 0
        while start < len(contents):
            end = start
            while end < len(contents) and isinstance(contents[end], int):
                end += 1
            piece: Numbers | Picked | Part | None
            if end > start:
                piece = Numbers(tuple(dim for dim in contents[start:end] if isinstance(dim, int)))
            else:
                piece, end = self.longest(contents, start)
            if piece is None:
                return None
            found.append(piece)
            start = end
        return found if len(found) > 1 else None

    def longest(self, contents: tuple[Dim, ...], start: int) -> tuple[Picked | Part | None, int]:
        """The longest piece from here that does not end in a number, and where it ends."""
        for end in range(len(contents), start, -1):
            run = contents[start:end]
            if isinstance(run[-1], int) or run == contents:
                continue
            vector = self.existing(1, run)
            if vector is not None:
                return Part(vector, lifts=False), end
            for tensor in self.tensors(run):
                piece = self.slice_of(tensor, run)
                if piece is not None:
                    return piece, end
        scalar = self.existing(0, (contents[start],))
        if scalar is not None and self.opset >= _SQUEEZE_FROM:
            return Part(scalar, lifts=True), start + 1
        for tensor in self.tensors(contents[start : start + 1]):
            piece = self.picks_of(tensor, contents[start : start + 1])
            if piece is not None:
                return piece, start + 1
        return None, start


def _plan(pieces: Sequence[Numbers | Picked | Part]) -> Plan:
    joins = int(len(pieces) > 1)
    costs = [_cost(piece) for piece in pieces]
    orders = [piece.tensor.order for piece in pieces if isinstance(piece, Picked)]
    return Plan(
        tuple(pieces),
        joins + sum(cost for cost, _ in costs),
        joins + max(depth for _, depth in costs),
        max(orders, default=-1),
    )


def _cost(piece: Numbers | Picked | Part) -> tuple[int, int]:
    """Nodes that a piece adds, and its depth."""
    if isinstance(piece, Numbers):
        return 0, 0
    if isinstance(piece, Part):
        return int(piece.lifts), piece.known.depth + piece.lifts
    if not piece.gathers:
        return 1, 1
    return (1, piece.whole.depth + 1) if piece.whole is not None else (2, 2)
