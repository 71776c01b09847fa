"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim
from onnxslim_rx.analysis.facts.division import broadcast
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site, unknown_shape
from onnxslim_rx.analysis.facts.rules.elementwise import broadcast_shapes

__all__ = ["RULES", "product_shape"]


def product_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of a product as numpy's `matmul` makes it."""
    if a is None or b is None or not a or not b:
        return None
    batch = broadcast_shapes(a[:-2], b[:-2])
    assert batch is not None  # both are known
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return (*batch, *rows, *columns)


def _product(place: tuple[int, int], result: ir.DataType | None = None) -> Rule:
    def rule(site: Site) -> Sequence[Known]:
        a, b = site.get(place[0]), site.get(place[1])
        shape = product_shape(a.shape, b.shape)
        return (Known(result or a.dtype or b.dtype, shape),)

    return rule


def _quantized(site: Site) -> Sequence[Known]:
    shape = product_shape(site.get(0).shape, site.get(3).shape)
    return (Known(site.get(7).dtype, shape),)


def _gemm(site: Site) -> Sequence[Known]:
    a, b = site.get(0), site.get(1)
    rows, columns = unknown_shape(2)
    if a.shape is not None:
        first, second = a.shape
        rows = second if site.attribute("transA", 0) else first
    if b.shape is not None:
        first, second = b.shape
        columns = first if site.attribute("transB", 0) else second
    return (Known(a.dtype or b.dtype, (rows, columns)),)


def _einsum(site: Site) -> Sequence[Known] | None:
    equation = site.attribute("equation").replace(" ", "")
    dtype = site.get(0).dtype
    if "..." in equation:
        return None
    terms, arrow, result = equation.partition("->")
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(terms.split(",")):
        shape = site.get(index).shape
        if shape is None:
            continue
        if len(term) != len(shape):
            raise ValueError("the equation does not fit")
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = broadcast(sizes[letter], size) if letter in sizes else size
    if not arrow:
        letters = terms.replace(",", "")
        result = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    shape = tuple(sizes[x] if x in sizes else unknown_shape(1)[0] for x in result)
    return (Known(dtype, shape),)


RULES: dict[str, Rule] = {
    "MatMul": _product((0, 1)),
    "MatMulInteger": _product((0, 1), ir.DataType.INT32),
    "QLinearMatMul": _quantized,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
