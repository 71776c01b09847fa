"""Sizes for the axes that a model leaves open."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from onnxslim_rx.runtime import TensorSpec
from onnxslim_rx.verify.facts import Facts

__all__ = ["Axis", "axis_key", "concrete_shape", "image_axes", "open_axes", "total_sizes"]

Kind = Literal["batch", "sequence", "past", "image", "wave", "total", "fixed"]

# from the likeliest to the least likely; sound is cut into windows of at most so many samples
_OPTIONS: dict[str, tuple[int, ...]] = {
    "batch": (1, 2),
    "sequence": (16, 8, 32, 64, 128, 1, 2, 4, 3, 10, 100, 256, 512, 1000, 3000),
    "past": (0, 16, 1),
    "image": (224, 256, 320, 640, 128, 64, 32, 512),
    "wave": (16000, 8000, 4096, 2048, 1600, 1536, 1024, 800, 640, 576, 512, 480, 400, 320, 256,
             160, 128),
}  # fmt: skip

_BATCH = re.compile(r"batch|^(b|n|bs|bsz|n_?samples)$")
_PAST = re.compile(r"past|cache|memory|prefix")
_TOTAL = re.compile(r"total|\+")
_SEQUENCE = re.compile(r"seq|len|time|frame|token|^(s|t|l)$")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One open size, shared by all axes of the same name.

    Args:
        key: the symbolic dimension, or a name made from the input's.
        kind: what it seems to be; "total" is a sum of others.
        options: sizes to try.
    """

    key: str
    kind: Kind
    options: tuple[int, ...]


def axis_key(spec: TensorSpec, axis: int) -> str:
    """Name of an open size; an unnamed first axis is the batch."""
    dim = spec.shape[axis]
    if isinstance(dim, str):
        return dim
    return "batch" if axis == 0 and len(spec.shape) > 1 else f"{spec.name}.{axis}"


def open_axes(
    inputs: Mapping[str, TensorSpec], facts: Mapping[str, Facts], state: Collection[str] = ()
) -> list[Axis]:
    """Every open size of `inputs`, once; a size that a weight fixes has one option.

    Args:
        inputs: what the model takes.
        facts: what the graph tells, by input.
        state: names of the inputs that are state; their open sizes are steps already done.
    """
    found: dict[str, Axis] = {}
    for axis in _all_axes(inputs, facts, state):
        if axis.key not in found or axis.kind == "fixed":
            found[axis.key] = axis
    return list(found.values())


def concrete_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of one array for `spec`."""
    return tuple(
        dim if isinstance(dim, int) else sizes[axis_key(spec, axis)]
        for axis, dim in enumerate(spec.shape)
    )


def total_sizes(axes: list[Axis], sizes: Mapping[str, int]) -> dict[str, int]:
    """`sizes` with the sums filled in: `past + sequence`, or any `total` of these two."""
    complete = dict(sizes)
    for axis in axes:
        if axis.kind == "total":
            parts = [part.strip() for part in axis.key.split("+")]
            if len(parts) == 1:
                parts = [other.key for other in axes if other.kind == "past"][:1]
                parts += [other.key for other in axes if other.kind == "sequence"][:1]
            complete[axis.key] = sum(
                int(part) if part.isdigit() else sizes.get(part, 0) for part in parts
            )
    return complete


def image_axes(spec: TensorSpec) -> tuple[int, ...]:
    """The axes of height and width where `spec` looks like images, else ()."""
    rank = len(spec.shape)
    channels_last = rank in (3, 4) and spec.shape[-1] in (1, 3, 4)
    channels_first = rank in (3, 4) and spec.shape[-3] in (1, 3, 4)
    first = rank - 2 if channels_first else rank - 3
    axes = (first, first + 1)
    if not (channels_first or channels_last):
        return ()
    spatial = [spec.shape[axis] for axis in axes]
    return axes if all(not isinstance(size, int) or size >= 16 for size in spatial) else ()


def _all_axes(
    inputs: Mapping[str, TensorSpec], facts: Mapping[str, Facts], state: Collection[str]
) -> Iterator[Axis]:
    for name, spec in inputs.items():
        rank = len(spec.shape)
        fixed = {
            axis % rank: size for axis, size in facts[name].sizes.items() if -rank <= axis < rank
        }
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                continue
            key = axis_key(spec, axis)
            if axis in fixed and not _BATCH.search(key.lower()):
                yield Axis(key, "fixed", (fixed[axis],))
            else:
                kind = _kind(key.lower(), spec, axis, facts[name])
                kind = "past" if name in state and kind == "sequence" else kind
                yield Axis(key, kind, _OPTIONS.get(kind, ()))


def _kind(key: str, spec: TensorSpec, axis: int, facts: Facts) -> Kind:
    rank = len(spec.shape)
    if _TOTAL.search(key):
        return "total"
    if _PAST.search(key):
        return "past"
    if _BATCH.search(key):
        return "batch"
    if facts.waveform and axis == rank - 1:
        return "wave"
    if axis in image_axes(spec):
        return "image"
    first_of_many = axis == 0 and (rank > 1 or not facts.indexes)
    return "batch" if first_of_many and not _SEQUENCE.search(key) else "sequence"
