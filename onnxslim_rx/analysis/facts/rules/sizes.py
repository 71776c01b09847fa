"""Operators that read or state shapes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import is_natural
from onnxslim_rx.analysis.facts.dims import Dim, fresh, product
from onnxslim_rx.analysis.facts.division import ceil_div, largest
from onnxslim_rx.analysis.facts.known import (
    LONGEST,
    Known,
    Rule,
    Site,
    small_integers,
    unknown_shape,
)

__all__ = ["RULES"]

_INT64 = ir.DataType.INT64


def _shape(site: Site) -> Sequence[Known]:
    shape = site.get(0).shape
    if shape is None:
        return (Known(_INT64, (fresh(),)),)
    contents = shape[site.attribute("start", 0) : site.attribute("end")]
    return (Known(_INT64, (len(contents),), contents),)


def _size(site: Site) -> Sequence[Known]:
    shape = site.get(0).shape
    return (Known(_INT64, (), None if shape is None else (product(shape),)),)


def _constant_of_shape(site: Site) -> Sequence[Known]:
    value = site.attribute("value")
    dtype = ir.DataType.FLOAT if value is None else value.dtype
    sizes = site.contents(0)
    if sizes is None:
        length = site.get(0).shape
        known = length is not None and len(length) == 1 and isinstance(length[0], int)
        return (Known(dtype, unknown_shape(length[0]) if known else None),)  # type: ignore[index, arg-type]
    contents = None
    count = product(sizes)
    if len(sizes) <= 1 and isinstance(count, int) and 0 <= count <= LONGEST:
        filling = (0,) if value is None else small_integers(value.numpy().reshape(-1))
        contents = None if filling is None else filling * count
    return (Known(dtype, sizes, contents),)


def _range(site: Site) -> Sequence[Known] | None:
    dtype = site.get(0).dtype
    if dtype is None or not dtype.is_integer():
        return None
    bounds = [site.contents(index) for index in range(3)]
    if None in bounds:
        return (Known(dtype, (fresh(),)),)
    start, limit, step = (bound[0] for bound in bounds if bound)
    if not isinstance(step, int) or step == 0:
        return (Known(dtype, (fresh(),)),)
    length: Dim = ceil_div(limit - start, step)
    if not is_natural(length):
        length = largest([length, 0])
    contents = None
    if isinstance(length, int) and length <= LONGEST:
        contents = tuple(start + index * step for index in range(length))
    return (Known(dtype, (length,), contents),)


def _eye_like(site: Site) -> Sequence[Known]:
    first = site.get(0)
    dtype = site.attribute("dtype")
    return (Known(first.dtype if dtype is None else ir.DataType(dtype), first.shape),)


RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
}
