"""Operators that rearrange, repeat or join elements."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim_rx.analysis.facts.dims import Dim, product
from onnxslim_rx.analysis.facts.division import ceil_div, divide, floor_div
from onnxslim_rx.analysis.facts.known import LONGEST, Known, Rule, Site, unknown_shape
from onnxslim_rx.analysis.facts.rules.elementwise import broadcast_shapes

__all__ = ["RULES", "axis_within"]


def axis_within(axis: int, rank: int) -> int:
    """The axis counted from the front.

    Raises:
        ValueError: a tensor of this rank has no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of rank {rank}")
    return axis + rank if axis < 0 else axis


def _transpose(site: Site) -> Sequence[Known]:
    first = site.get(0)
    order = site.attribute("perm")
    if first.shape is None:
        return (Known(first.dtype, None if order is None else unknown_shape(len(order))),)
    if order is None:
        shape = first.shape[::-1]
    else:
        if len(order) != len(first.shape):
            raise ValueError("the permutation does not fit")
        shape = tuple(first.shape[axis] for axis in order)
    return (Known(first.dtype, shape, first.contents),)


def _squeeze(site: Site) -> Sequence[Known]:
    first = site.get(0)
    shape = first.shape
    if shape is None:
        return (Known(first.dtype),)
    axes = site.listed("axes", 1)
    if axes is None:
        if site.has(1) or not all(isinstance(size, int) for size in shape):
            return (Known(first.dtype),)
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    gone = {axis_within(axis, len(shape)) for axis in axes}
    left = tuple(size for axis, size in enumerate(shape) if axis not in gone)
    return (Known(first.dtype, left, first.contents),)


def _unsqueeze(site: Site) -> Sequence[Known]:
    first = site.get(0)
    axes = site.listed("axes", 1)
    if first.shape is None:
        return (Known(first.dtype),)
    if axes is None:
        count = site.get(1).shape
        if count is None or len(count) != 1 or not isinstance(count[0], int):
            return (Known(first.dtype),)
        return (Known(first.dtype, unknown_shape(len(first.shape) + count[0])),)
    rank = len(first.shape) + len(axes)
    new = {axis_within(axis, rank) for axis in axes}
    sizes = iter(first.shape)
    shape = tuple(1 if axis in new else next(sizes) for axis in range(rank))
    return (Known(first.dtype, shape, first.contents if rank < 2 else None),)


def _flatten(site: Site) -> Sequence[Known]:
    first = site.get(0)
    if first.shape is None:
        return (Known(first.dtype, unknown_shape(2)),)
    axis = site.attribute("axis", 1)
    axis = axis + len(first.shape) if axis < 0 else axis
    return (Known(first.dtype, (product(first.shape[:axis]), product(first.shape[axis:]))),)


def _concat(site: Site) -> Sequence[Known]:
    dtype = next((known.dtype for known in site.inputs if known.dtype), None)
    ranks = [len(known.shape) for known in site.inputs if known.shape is not None]
    if not ranks:
        return (Known(dtype),)
    rank = ranks[0]
    axis = axis_within(site.attribute("axis", 1), rank)
    shapes = [unknown_shape(rank) if known.shape is None else known.shape for known in site.inputs]
    total: Dim = 0
    shape = list(shapes[0])
    for other in shapes:
        if len(other) != rank:
            raise ValueError("ranks differ")
        total = total + other[axis]
        # all agree: a number says most, and then the first
        shape = [b if isinstance(b, int) else a for a, b in zip(shape, other, strict=True)]
    shape[axis] = total
    contents = None
    if rank == 1 and any(known.contents is not None for known in site.inputs):
        parts = [site.contents(index) for index in range(len(site.inputs))]
        if all(part is not None for part in parts):
            contents = tuple(dim for part in parts if part is not None for dim in part)
            contents = contents if len(contents) <= LONGEST else None
    return (Known(dtype, tuple(shape), contents),)


def _split(site: Site) -> Sequence[Known]:
    first = site.get(0)
    count = len(site.node.outputs)
    if first.shape is None:
        return [Known(first.dtype)] * count
    axis = axis_within(site.attribute("axis", 0), len(first.shape))
    size = first.shape[axis]
    lengths: Sequence[Dim] | None = site.attribute("split")
    if lengths is None and site.has(1):
        lengths = site.get(1).contents
        if lengths is None:
            lengths = unknown_shape(count)
    if lengths is None:
        lengths = _even_parts(size, count, site)
    if len(lengths) != count:
        raise ValueError("parts and outputs differ in number")
    outputs = []
    start: Dim = 0
    for length in lengths:
        shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
        contents = None
        if first.contents is not None and isinstance(start, int) and isinstance(length, int):
            contents = first.contents[start : start + length]
        start = start + length
        outputs.append(Known(first.dtype, shape, contents))
    return outputs


def _even_parts(size: Dim, count: int, site: Site) -> Sequence[Dim]:
    exact = divide(size, count)
    if exact is not None:
        return [exact] * count
    if site.version < 18:  # must be divisible
        return [floor_div(size, count)] * count
    chunk = ceil_div(size, count)
    if not isinstance(size, int) or not isinstance(chunk, int) or chunk * (count - 1) > size:
        return unknown_shape(count)
    return [*[chunk] * (count - 1), size - chunk * (count - 1)]


def _expand(site: Site) -> Sequence[Known]:
    first = site.get(0)
    target = site.contents(1)
    if target is None:
        length = site.get(1).shape
        if first.shape is None or length is None or not isinstance(length[0], int):
            return (Known(first.dtype),)
        return (Known(first.dtype, unknown_shape(max(length[0], len(first.shape)))),)
    shape = broadcast_shapes(first.shape, target)
    contents = None
    if first.contents is not None and shape is not None and len(shape) <= 1:
        count = shape[0] if shape else 1
        if len(first.contents) == 1 and isinstance(count, int) and count <= LONGEST:
            contents = first.contents * count
        elif len(first.contents) == count:
            contents = first.contents
    return (Known(first.dtype, shape, contents),)


def _tile(site: Site) -> Sequence[Known] | None:
    if site.version < 6:
        return None
    first = site.get(0)
    if first.shape is None:
        return (Known(first.dtype),)
    times = site.contents(1)
    if times is None:
        return (Known(first.dtype, unknown_shape(len(first.shape))),)
    shape = tuple(size * count for size, count in zip(first.shape, times, strict=True))
    contents = None
    if first.contents is not None and len(times) == 1 and isinstance(times[0], int):
        contents = first.contents * times[0] if len(first.contents) * times[0] <= LONGEST else None
    return (Known(first.dtype, shape, contents),)


def _pad(site: Site) -> Sequence[Known]:
    first = site.get(0)
    if first.shape is None:
        return (Known(first.dtype),)
    rank = len(first.shape)
    pads: Sequence[Dim] | None = site.attribute("pads") or site.attribute("paddings")
    if pads is None:
        pads = site.contents(1)
    axes: Sequence[int] | None = range(rank)
    if site.has(3):
        axes = site.numbers(3)
    if pads is None or axes is None:
        return (Known(first.dtype, unknown_shape(rank)),)
    if len(pads) != 2 * len(axes):
        raise ValueError("pads do not fit")
    shape = list(first.shape)
    for index, axis in enumerate(axes):
        axis = axis_within(axis, rank)
        shape[axis] = shape[axis] + pads[index] + pads[index + len(axes)]
    return (Known(first.dtype, tuple(shape)),)


def _depth_to_space(site: Site) -> Sequence[Known]:
    first = site.get(0)
    block = site.attribute("blocksize")
    if first.shape is None:
        return (Known(first.dtype, unknown_shape(4)),)
    batch, depth, height, width = first.shape
    shape = (batch, floor_div(depth, block * block), height * block, width * block)
    return (Known(first.dtype, shape),)


def _space_to_depth(site: Site) -> Sequence[Known]:
    first = site.get(0)
    block = site.attribute("blocksize")
    if first.shape is None:
        return (Known(first.dtype, unknown_shape(4)),)
    batch, depth, height, width = first.shape
    shape = (batch, depth * block * block, floor_div(height, block), floor_div(width, block))
    return (Known(first.dtype, shape),)


RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Concat": _concat,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
