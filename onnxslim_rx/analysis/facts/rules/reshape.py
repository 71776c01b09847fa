"""Reshape, with sizes that are copied or left to be found."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim_rx.analysis.facts.bounds import is_natural
from onnxslim_rx.analysis.facts.dims import Dim, fresh, product
from onnxslim_rx.analysis.facts.division import floor_div, vanishes_with
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site, unknown_shape

__all__ = ["RULES", "reshaped"]


def _reshape(site: Site) -> Sequence[Known]:
    first = site.get(0)
    target: Sequence[Dim] | None = site.attribute("shape") if site.version < 5 else None
    if target is None:
        target = site.contents(1)
    if target is None:
        length = site.get(1).shape
        if length is not None and len(length) == 1 and isinstance(length[0], int):
            return (Known(first.dtype, unknown_shape(length[0])),)
        return (Known(first.dtype),)
    literal = bool(site.attribute("allowzero", 0))
    shape = reshaped(first.shape, target, zeros_are_copies=not literal)
    contents = None
    if first.contents is not None and len(shape) <= 1:
        contents = first.contents
        shape = (len(contents),) if shape else ()
    return (Known(first.dtype, shape, contents),)


def reshaped(shape: Shape | None, target: Sequence[Dim], *, zeros_are_copies: bool) -> Shape:
    """The shape that Reshape makes of `shape`.

    A size of 0 may mean "as in the input"; so a formula in the target is taken for the size only
    where it is not 0, or where its being 0 makes the tensor empty.

    Raises:
        ValueError: two sizes are left to be found, or there is none to copy.
    """
    total = None if shape is None else product(shape)
    sizes: list[Dim | None] = []
    for axis, size in enumerate(target):
        if isinstance(size, int):
            if size == 0 and zeros_are_copies:
                sizes.append(_copied(shape, axis))
            else:
                sizes.append(None if size == -1 else size)
        elif not is_natural(size):  # may be -1 as well
            sizes.append(None)
        elif not zeros_are_copies or _is_plain(size, shape, axis, total):
            sizes.append(size)
        else:
            sizes.append(fresh())
    if sizes.count(None) == 1 and total is not None and target[sizes.index(None)] == -1:
        others = product(size for size in sizes if size is not None)
        if others != 0:
            return tuple(floor_div(total, others) if size is None else size for size in sizes)
    if list(target).count(-1) > 1:
        raise ValueError("two sizes are left to be found")
    return tuple(fresh() if size is None else size for size in sizes)


def _copied(shape: Shape | None, axis: int) -> Dim:
    if shape is None:
        return fresh()
    if axis >= len(shape):
        raise ValueError("there is no size to copy")
    return shape[axis]


def _is_plain(size: Dim, shape: Shape | None, axis: int, total: Dim | None) -> bool:
    """Whether a formula in the target is the size, also where it is 0."""
    if shape is not None and axis < len(shape) and shape[axis] == size:
        return True
    if shape is not None and axis >= len(shape):
        return True  # there is nothing to copy: 0 is an error
    return vanishes_with(1 if total is None else total, size)


RULES: dict[str, Rule] = {"Reshape": _reshape}
