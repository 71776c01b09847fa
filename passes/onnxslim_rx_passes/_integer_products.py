"""MatMulInteger and ConvInteger with the products that scale them, in floating point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers, root_of
from onnxslim_rx.analysis.stored import stored
from onnxslim_rx_passes._floats import Draft, RefusedError

__all__ = ["integer_product"]

_MOST_FACTORS = 8


def integer_product(draft: Draft) -> bool:
    """`Mul(Cast(MatMulInteger(a, b)), scales)` becomes `MatMul` of what a and b stand for.

    The scale of `a` is that of the DynamicQuantizeLinear that made it; those of a constant `b` are
    the constants among the factors. So for ConvInteger.
    """
    node = draft.node
    maker = draft.needed(0).producer()
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        raise RefusedError("what it multiplies comes from no DynamicQuantizeLinear")
    if draft.input(2) is not maker.outputs[2]:
        raise RefusedError("scales or zero points differ")
    chain, factors = _chain(draft, maker.outputs[1])
    a = draft.real(draft.needed(0), maker.outputs[1], draft.input(2))
    constants = [factor for factor in factors if numbers(factor) is not None]
    b, left = _second(draft, [f for f in factors if f not in constants], constants)
    op_type = node.op_type.removesuffix("Integer")
    y = draft.tape.op(op_type, [a, b], node.attributes)
    for factor in left:
        y = draft.tape.op("Mul", [y, factor])
    return draft.finish(y, behind=chain)


def _chain(draft: Draft, scale: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Cast and Muls behind the node up to the one that brings in `scale`.

    Returns:
        These nodes, and the other factors.
    """
    (value,) = draft.node.outputs
    chain: list[ir.Node] = []
    factors: list[ir.Value] = []
    while scale not in factors:
        readers = [use.node for use in value.uses()]
        reader = readers[0] if len(readers) == 1 and not value.is_graph_output() else None
        wanted = "Mul" if chain else "Cast"
        same_graph = reader is not None and reader.graph is draft.node.graph
        if reader is None or reader.op_type != wanted or reader.domain or not same_graph:
            raise RefusedError("no product with its scale follows")
        if chain:
            other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
            factors += _split(other)
        elif not ir.DataType(reader.attributes.get_int("to", 0)).is_floating_point():
            raise RefusedError("no product with its scale follows")
        chain.append(reader)
        value = reader.outputs[0]
    factors.remove(scale)
    return chain, factors


def _split(value: ir.Value | None) -> list[ir.Value]:
    """The factors of a product, which are many in no model."""
    parts = [] if value is None else [value]
    for _ in range(_MOST_FACTORS):
        products = [part for part in parts if _is_product(part)]
        if not products:
            return parts
        node = products[0].producer()
        assert node is not None  # that is what a product is
        parts.remove(products[0])
        parts += [one for one in node.inputs if one is not None]
    raise RefusedError("there are too many factors")


def _is_product(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Mul" and node.domain == ""


def _second(
    draft: Draft, others: Sequence[ir.Value], constants: Sequence[ir.Value]
) -> tuple[ir.Value, list[ir.Value]]:
    """The second operand in floating point, and the factors that it leaves."""
    b, zero = draft.needed(1), draft.input(3)
    maker = b.producer()
    if root_of(b) is None:
        if maker is None or maker.op_type != "DynamicQuantizeLinear":
            raise RefusedError("its second operand is no constant")
        scale = maker.outputs[1]
        if zero is not maker.outputs[2] or scale not in others:
            raise RefusedError("scales or zero points differ")
        left = [*others, *constants]
        left.remove(scale)
        return draft.real(b, scale, zero), left
    zeros = numbers(zero)
    if zero is not None and zeros is None:
        raise RefusedError("a zero point is no constant")
    shape = draft.scene.facts.sizes(b) or ()
    axis = 0 if draft.node.op_type == "ConvInteger" else len(shape) - 1
    scales, left = np.ones(1), list(others)
    dtype = ir.DataType.FLOAT
    for factor in constants:
        found = numbers(factor)
        if found is None or not _by_channel(found, shape, axis):
            left.append(factor)
            continue
        dtype = ir.DataType.from_numpy(found.dtype)
        scales = scales * found.astype(np.float64).reshape(-1)
    return draft.weight(stored(b, scales, zeros, dtype, axis=axis)), left


def _by_channel(array: npt.NDArray[np.generic], shape: Sequence[int], axis: int) -> bool:
    """Whether a factor of the result is one number, or one for each output channel."""
    if array.size == 1:
        return True
    if not shape or array.size != shape[axis]:
        return False
    behind = len(shape) - 2 if axis == 0 else 0  # axes of the result behind its channels
    place = array.ndim - 1 - behind
    return place >= 0 and array.shape[place] == array.size
