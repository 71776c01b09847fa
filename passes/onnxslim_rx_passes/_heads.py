"""Units whose treatment makes attention heads narrower: what changes, as numbers, and the change.

A unit says by positions among its own nodes and constants what depends on the width of the heads,
so that it can be carried out on a copy of its nodes as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Array, Candidate, Factors, Layer, Stage

__all__ = [
    "Dropped",
    "Heads",
    "Piece",
    "Size",
    "as_heads",
    "candidate",
    "constants_of",
    "offered_widths",
    "restore",
    "take",
    "tensor_of",
    "times",
    "width_of",
    "with_heads",
]

_STEP = 4  # finer steps gain nothing on vector units
_MOST = 8  # of steps up to the width that there is


class Size(NamedTuple):
    """`base + times * width`."""

    base: int
    times: int

    def at(self, width: int) -> int:
        """The size for heads of that width."""
        return self.base + self.times * width


class Piece(NamedTuple):
    """Where a constant holds heads side by side.

    Args:
        constant: which of the unit's constants.
        axis: along which the heads lie; the same for all pieces of a constant.
        start: of the first head.
        side: queries and values are 0, keys and rows of an output projection 1.
    """

    constant: int
    axis: int
    start: int
    side: int


class Dropped(NamedTuple):
    """An Add that a treatment leaves out, its constant, and which input goes on instead."""

    node: int
    constant: int
    activation: int


@dataclasses.dataclass(frozen=True)
class Heads(Layer):
    """A layer whose region computes with heads.

    Args:
        heads: how many there are, H.
        width: of each, d.
        pieces: where the constants hold them; of each side the weight first, then the bias.
        gains: by side: by what the weight and the bias are multiplied on the way.
        reshapes: by position of a Reshape in the region: the last size of its target.
        splits: by position of a Split in the region: all its sizes.
        by_attribute: whether a Split holds its sizes in an attribute (before opset 13).
        free: whether what is constant over all keys has no effect.
        dropped: what goes then.
    """

    heads: int = 1
    width: int = 1
    pieces: tuple[Piece, ...] = ()
    gains: tuple[tuple[float, float], ...] = ()
    reshapes: Mapping[int, Size] = dataclasses.field(default_factory=dict)
    splits: Mapping[int, tuple[Size, ...]] = dataclasses.field(default_factory=dict)
    by_attribute: bool = False
    free: bool = False
    dropped: tuple[Dropped, ...] = ()

    def pieces_in(self, constant: int) -> list[Piece]:
        """The pieces of a constant, in the order in which they lie."""
        return sorted((p for p in self.pieces if p.constant == constant), key=lambda p: p.start)


def as_heads(layer: Layer) -> Heads:
    """The layer as the passes that make heads narrower gave it out.

    Raises:
        InputError: it is another pass's layer.
    """
    if not isinstance(layer, Heads):
        raise InputError(f"{layer.name} is no attention", expected="a layer that this pass found")
    return layer


def offered_widths(width: int) -> list[int]:
    """Narrower heads to offer, widest first: multiples of 4, for wide heads of 8, 16, ..."""
    step = _STEP
    while width > _MOST * step:
        step *= 2
    return list(range((width - 1) // step * step, 0, -step))


def width_of(unit: Heads, stage: Stage) -> int:
    """The width that a stage asks for.

    Raises:
        InputError: it is less than 1 or more than there is.
    """
    width = int(stage.options["width"])
    if not 1 <= width <= unit.width:
        raise InputError(
            f"the plan has width = {width} for {unit.name}", expected=f"1 to {unit.width}"
        )
    return width


def constants_of(unit: Heads) -> Factors:
    """The unit's constants in float64."""
    return tuple(tensor_of(value).numpy().astype(np.float64) for value in unit.weights)


def take(unit: Heads, arrays: Factors, side: int) -> list[Array]:
    """The heads of one side in each constant that holds some: (..., H d)."""
    size = unit.heads * unit.width
    return [
        np.moveaxis(arrays[piece.constant], piece.axis, -1)[..., piece.start : piece.start + size]
        for piece in unit.pieces
        if piece.side == side
    ]


def times(part: Array, bases: Array) -> Array:
    """(..., H d) to (..., H r): each head times its own (d, r)."""
    by_head = part.reshape(*part.shape[:-1], len(bases), -1)
    narrow: Array = np.einsum("...hd,hdr->...hr", by_head, bases)
    return narrow.reshape(*part.shape[:-1], -1)


def with_heads(unit: Heads, arrays: Factors, new: Sequence[Sequence[Array]]) -> Factors:
    """The constants with other heads.

    Args:
        unit: says where they lie.
        arrays: one for each constant.
        new: by side, for each constant in the order of `take`: (..., H r), r of any size.
    """
    following = [iter(parts) for parts in new]
    placed = {piece: next(following[piece.side]) for piece in unit.pieces}
    size = unit.heads * unit.width
    return tuple(
        _exchanged(array, unit.pieces_in(index), size, placed.__getitem__)
        for index, array in enumerate(arrays)
    )


def restore(unit: Heads, factors: Factors) -> Factors:
    """Constants of narrow heads, padded with zeros to the shapes that there were.

    Raises:
        InputError: another number of constants.
    """
    if len(factors) != len(unit.weights):
        raise InputError(f"found {len(factors)} arrays for {len(unit.weights)} constants")
    padded = []
    for index, array in enumerate(factors):
        pieces = unit.pieces_in(index)
        axis = pieces[0].axis
        less = (tensor_of(unit.weights[index]).shape.numpy()[axis] - array.shape[axis]) // len(
            pieces
        )
        size = unit.heads * unit.width - less
        moved = [p._replace(start=p.start - n * less) for n, p in enumerate(pieces)]
        rows = np.moveaxis(array, axis, -1)

        def pad(piece: Piece, rows: Array = rows, size: int = size) -> Array:
            part = rows[..., piece.start : piece.start + size]
            by_head = part.reshape(*part.shape[:-1], unit.heads, -1)
            ends = [(0, 0)] * part.ndim + [(0, unit.width - by_head.shape[-1])]
            return np.pad(by_head, ends).reshape(*part.shape[:-1], -1)

        padded.append(_exchanged(array, moved, size, pad))
    return tuple(padded)


def _exchanged(
    array: Array, pieces: Sequence[Piece], size: int, new: Callable[[Piece], Array]
) -> Array:
    """`array` with other content, of any length, in the place of each piece."""
    axis, end = pieces[0].axis, 0
    old = np.moveaxis(array, axis, -1)
    parts = []
    for piece in pieces:
        parts += [old[..., end : piece.start], new(piece)]
        end = piece.start + size
    return np.moveaxis(np.concatenate([*parts, old[..., end:]], axis=-1), -1, axis)


def candidate(unit: Heads, stage: Stage, error: float) -> Candidate:
    """What a stage that makes heads narrower saves, with its error.

    Bytes and multiply-adds are those of the constants: what products of activations cost depends
    on lengths that are not known here, and only becomes less.
    """
    less = unit.heads * (unit.width - width_of(unit, stage))
    total, elements = 0, 0
    gone = {dropped.constant for dropped in unit.dropped}
    saves: dict[str, int] = {}
    for index, value in enumerate(unit.weights):
        tensor, pieces = tensor_of(value), unit.pieces_in(index)
        shape = [int(size) for size in tensor.shape.numpy()]
        shape[pieces[0].axis] -= len(pieces) * less
        kept = 0 if index in gone else math.prod(shape)
        size = int(tensor.dtype.itemsize)
        saves[str(value.name)] = (tensor.size - kept) * size
        total += kept * size
        elements += kept
    return Candidate((stage,), error=error, bytes=total, flops=2 * elements, saves=saves)


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol:
    """What a constant of a unit holds."""
    tensor = constant(value)
    assert tensor is not None  # units are only made of constants
    return tensor
