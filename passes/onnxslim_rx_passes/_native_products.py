"""Products with weights of a few bits become `QuantMatMul`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._native_domain import DOMAIN, TYPES, NativeRule, as_vector, folds
from onnxslim_rx_passes._native_weights import Packed, packed, stored_weight, wrappers

__all__ = ["NativeBlockProduct", "NativeStoredProduct", "plain_gemm"]

_MS = "com.microsoft"
_ORDER = 4  # input of MatMulNBits: g_idx
_BIAS = 5


@dataclasses.dataclass(frozen=True)
class NativeBlockProduct(NativeRule):
    """`MatMulNBits` becomes `QuantMatMul`, which reads the same bytes."""

    roots: ClassVar[tuple[str, ...]] = (f"{_MS}::MatMulNBits",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        attributes = node.attributes
        k, n = attributes.get_int("K", 0), attributes.get_int("N", 0)
        bits, block = attributes.get_int("bits", 4), attributes.get_int("block_size", 0)
        prepacked = attributes.get_int("weight_prepacked", 0)
        x, values, scales, zeros, order, bias = (*node.inputs, *[None] * 3)[:6]
        if scene.facts.dtype(x) not in TYPES or scene.facts.dtype(scales) != scene.facts.dtype(x):
            return Skip("its type is not known, or not computed with")
        if order is not None or prepacked:
            return Skip("its columns are in another order, or it is packed for a machine")
        if bits not in (2, 4, 8) or block < 8 or block % 8:
            return Skip(f"blocks of {block} integers of {bits} bits are not read")
        if zeros is not None and scene.facts.dtype(zeros) != ir.DataType.UINT8:
            return Skip("its zero points are no integers")
        count = -(-k // block)
        tape = ir.tape.Tape()
        wanted = {
            "values": (values, (n, count, block * bits // 8)),
            "scales": (scales, (n, count)),
            "zeros": (zeros, (n, -(-count * bits // 8))),
        }
        given = [_shaped(tape, scene, value, shape) for value, shape in wanted.values()]
        if given[0] is None or given[1] is None or (zeros is not None and given[2] is None):
            return Skip("its weight is no constant, or of another shape than it says")
        given = [x, *given, bias]
        made = {"K": k, "N": n, "bits": bits, "block_size": block}
        result = tape.op("QuantMatMul", _trimmed(given), made, domain=DOMAIN)
        old = [*(wrappers(values, node) if given[1] is not values and values else []), node]
        return scene.replace(old, tape, {node.outputs[0]: result}, keep=True)


@dataclasses.dataclass(frozen=True)
class NativeStoredProduct(NativeRule):
    """MatMul and Gemm become `QuantMatMul` where their right side is kept as integers.

    Such as `Mul(Cast(Q), s)`, which ONNX Runtime would fold into float32 at load.
    """

    roots: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        x, weight = node.inputs[0], node.inputs[1]
        found = stored_weight(weight, self.folded)
        if found is None or isinstance(found, Skip):
            return found or False
        assert weight is not None  # there is something behind it
        if len(found.shape) != 2 or scene.facts.dtype(x) != found.dtype:
            return Skip("its weight is no matrix, or of another type")
        if scene.maker(x, "DequantizeLinear") is not None:
            return Skip("its input is rounded, too: it is computed on integers")
        tape = ir.tape.Tape()
        form = plain_gemm(node, scene, found.shape, tape)
        if isinstance(form, Skip):
            return form
        turned, bias = form
        made = packed(found, rows_axis=0 if turned else 1)
        if isinstance(made, Skip):
            return made
        result = _emit(made, x, bias, tape)
        return scene.replace(
            [*wrappers(weight, node), node], tape, {node.outputs[0]: result}, keep=True
        )


def _emit(
    weight: Packed, x: ir.Value | None, bias: ir.Value | None, tape: ir.tape.Tape
) -> ir.Value:
    """`X W^T + bias` with a weight in blocks."""
    rows, k = weight.shape
    attributes = {"K": k, "N": rows, "bits": weight.bits, "block_size": weight.block}
    given = _trimmed([x, *weight.emit(tape), bias])
    return tape.op("QuantMatMul", given, attributes, domain=DOMAIN)


def plain_gemm(
    node: ir.Node, scene: Scene, shape: tuple[int, ...], tape: ir.tape.Tape
) -> tuple[bool, ir.Value | None] | Skip:
    """Whether the right side of a MatMul or Gemm is (N, K), and the bias as a vector or None.

    Args:
        node: the product.
        scene: knows constants.
        shape: of the right side.
        tape: gets a bias that has to be given another shape.
    """
    if node.op_type == "MatMul":
        return False, None
    attributes = node.attributes
    turned = bool(attributes.get_int("transB", 0))
    if attributes.get_int("transA", 0) or attributes.get_float("alpha", 1.0) != 1.0:
        return Skip("it scales or turns its input")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return turned, None
    if attributes.get_float("beta", 1.0) != 1.0:
        return Skip("its bias is scaled")
    length = shape[0] if turned else shape[1]
    vector = as_vector(bias, length, behind=0, rank=2)
    if vector is None:
        return Skip("its bias is no constant vector")
    if scene.facts.sizes(bias) == (length,):
        return turned, bias
    named = ir.tensor(np.ascontiguousarray(vector), name=f"{bias.name}.row")
    return turned, tape.initializer(named)


def _shaped(
    tape: ir.tape.Tape, scene: Scene, value: ir.Value | None, shape: tuple[int, ...]
) -> ir.Value | None:
    """A constant of this shape: `value` itself, or a copy with the same elements; or None."""
    if value is None or not folds(value):
        return None
    maker = scene.sole(value, "Reshape")
    source = None if maker is None else maker.inputs[0]
    # what passes a Reshape for nobody else gets its shape now
    alone = source is not None and constant(source) is not None and len(source.uses()) == 1
    if scene.facts.sizes(value) == shape and not alone:
        return value
    array = numbers(value)
    if array is None or array.size != int(np.prod(shape)):
        return None
    return tape.initializer(ir.tensor(array.reshape(shape), name=f"{value.name}.blocks"))


def _trimmed(given: list[ir.Value | None]) -> list[ir.Value | None]:
    """Without what is left out at the end."""
    while given and given[-1] is None:
        given = given[:-1]
    return given
