"""Convolutions and matrix products with constant weights, as rules refold them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._weights import (
    TRIFLE,
    Wide,
    blocks,
    cast,
    emit,
    fill,
    fused_name,
    made_by,
    may_refold,
    scaled,
    tensor_of,
    trifling,
)

__all__ = ["PRODUCTS", "Product", "product"]

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that `product` may understand."""


@dataclasses.dataclass(frozen=True)
class Product:
    """A product with a weight of known shape.

    Args:
        node: Conv, ConvTranspose, Gemm, or MatMul with a weight of two dimensions on one side.
        x: the activations.
        weight: may be no constant: only `refold` with a factor needs its content.
        shape: of the weight.
        dtype: of the weight.
        tensor: the weight, where it is stored as such; None: computed, or a fill.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    shape: tuple[int, ...]
    dtype: ir.DataType
    tensor: ir.TensorProtocol | None = None

    @property
    def bias(self) -> ir.Value | None:
        """The bias, if there is one."""
        inputs = self.node.inputs
        return inputs[2] if len(inputs) > 2 else None

    @property
    def on_left(self) -> bool:
        """Whether the weight is the first operand of a MatMul."""
        return self.node.op_type == "MatMul" and self.weight is self.node.inputs[0]

    @property
    def trailing(self) -> int:
        """Axes of the activations, and of the result, behind the one of the channels."""
        if self.node.op_type in ("Conv", "ConvTranspose"):
            return len(self.shape) - 2
        return 1 if self.on_left else 0

    @property
    def groups(self) -> int:
        """Groups of a convolution."""
        return self.node.attributes.get_int("group", 1)

    @property
    def _out_axis(self) -> int:
        if self.node.op_type == "Conv" or self.on_left:
            return 0
        if self.node.op_type == "Gemm" and self.node.attributes.get_int("transB", 0) != 0:
            return 0
        return 1

    @property
    def channels(self) -> int:
        """Channels of the result."""
        size = self.shape[self._out_axis]
        return size * self.groups if self.node.op_type == "ConvTranspose" else size

    @property
    def channels_in(self) -> int:
        """Channels of the activations."""
        size = self.shape[1 - self._out_axis]
        return size * self.groups if self.node.op_type == "Conv" else size

    def rank(self, scene: Scene) -> int | None:
        """Of the activations; the same as that of the result. None: at least `trailing + 1`."""
        if self.node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            return len(self.shape)
        rank = scene.facts.rank(self.x)
        return 1 if rank is None and self.on_left else rank

    def by_output(self, factor: Wide) -> Wide:
        """`factor` () or (channels,) in a shape that multiplies the weight."""
        if factor.ndim == 0:
            return factor
        if self.node.op_type == "ConvTranspose":  # (M,) -> (C, M/g, 1, ...): parts of the rows
            rows = np.repeat(factor.reshape(self.groups, -1), self.shape[0] // self.groups, axis=0)
            return rows.reshape(*rows.shape, *[1] * (len(self.shape) - 2))
        return self._along(self._out_axis, factor)

    def by_input(self, factor: Wide) -> Wide:
        """`factor` () or (channels_in,) in a shape that multiplies the weight."""
        if factor.ndim == 0:
            return factor
        if self.node.op_type == "Conv":  # (C,) -> (M, C/g, 1, ...): each group has its channels
            rows = factor.reshape(self.groups, -1)
            rows = np.repeat(rows, self.shape[0] // self.groups, axis=0)
            return rows.reshape(*rows.shape, *[1] * (len(self.shape) - 2))
        return self._along(1 - self._out_axis, factor)

    def _along(self, axis: int, factor: Wide) -> Wide:
        return factor.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])

    def bias_row(self, scene: Scene) -> Wide | Skip | None:
        """The bias () or (channels,), with beta of Gemm; None: there is none."""
        if self.bias is None:
            return None
        array = trifling(scene, self.bias)
        if array is None:
            return Skip("the bias is computed, or may be overridden")
        if array.size not in (1, self.channels) or array.shape[-1:] not in (
            (),
            (1,),
            (array.size,),
        ):
            return Skip("the bias is no row")
        if self.node.op_type == "Gemm":
            array = array * self.node.attributes.get_float("beta", 1.0)
        return array.reshape(-1) if array.size == self.channels else array.reshape(())

    def shared(self, scene: Scene) -> str | None:
        """Why the weight must not be changed, or None. A fill, which takes no room, may."""
        if scene.is_private(self.weight) or fill(scene, self.weight) is not None:
            return None
        return "the weight has other readers"

    def refold(self, factor: Wide | None, scene: Scene, tape: ir.tape.Tape) -> ir.Value | Skip:
        """The weight times `factor`, which broadcasts, on `tape`.

        Args:
            factor: None: the weight as it is.
            scene: where the product lies.
            tape: gets the new weight.
        """
        if factor is None:
            return self.weight
        why_not = self.shared(scene)
        if why_not is not None:
            return Skip(why_not)
        tensor = self.tensor
        name = fused_name(self.weight, f"{self.node.op_type}.weight")
        if tensor is not None:
            why_not = may_refold(tensor, factor)
            if why_not is not None:
                return Skip(why_not)
            return tape.initializer(scaled(tensor, factor, name), name=name)
        filled = fill(scene, self.weight)
        if filled is None:
            return Skip("weights or statistics are computed, or may be overridden")
        if factor.size == 0 or (factor != factor.flat[0]).any():
            return Skip("the weight is filled with one number, and the file would grow")
        number = cast(np.asarray([filled[1] * factor.flat[0]]), self.dtype)
        if number is None:
            return Skip("the result would not be finite")
        return tape.op("ConstantOfShape", made_by(self.weight).inputs, {"value": ir.tensor(number)})

    def response(self, shift: Wide, scene: Scene) -> Wide | None:
        """The result () or (channels,) for activations that are `shift` everywhere.

        Without padding and bias; `shift` is () or (channels_in,). None: the weight is computed.
        """
        alpha = self.node.attributes.get_float("alpha", 1.0)
        factor, filled = self.by_input(shift), fill(scene, self.weight)
        if filled is not None:
            if (factor != factor.flat[0]).any():
                return None
            taps = math.prod(self.shape[1:]) if self._out_axis == 0 else self.shape[0]
            return np.asarray(alpha * taps * filled[1] * factor.flat[0])
        tensor = self.tensor
        if tensor is None:
            return None
        with np.errstate(all="ignore"):  # callers refuse what is not finite
            if self._out_axis == 0:
                rows = [b.reshape(len(b), -1).sum(1) for b in blocks(tensor, factor)]
                return alpha * np.concatenate(rows)
            columns = [block.sum(0) for block in blocks(tensor, factor)]
            total: Wide = alpha * np.stack(columns).sum(0)
            return total

    def store_bias(self, bias: Wide, tape: ir.tape.Tape) -> ir.Value | Skip:
        """`bias` () or (channels,) as a vector on `tape`."""
        if self.channels > TRIFLE and self.bias is None and bias.ndim == 0:
            return Skip("the file would grow by the bias")
        row = cast(np.broadcast_to(bias, (self.channels,)), self.dtype)
        if row is None:
            return Skip("the result would not be finite")
        name = fused_name(self.bias, f"{self.node.name or self.node.op_type}.bias")
        return emit(tape, row, name)

    def again(
        self,
        tape: ir.tape.Tape,
        *,
        x: ir.Value | None = None,
        weight: ir.Value | None = None,
        bias: ir.Value | None = None,
    ) -> ir.Value:
        """The product on `tape`, with other activations or weight (None: its own) and this bias.

        MatMul with a bias becomes Gemm; beta of Gemm goes.
        """
        x, weight = x or self.x, weight or self.weight
        operands = [weight, x] if self.on_left else [x, weight]
        if bias is not None:
            operands.append(bias)
        merges = self.node.op_type == "MatMul" and bias is not None
        op_type = "Gemm" if merges else self.node.op_type
        result = tape.op(op_type, operands, name=self.node.name)
        kept = {k: a for k, a in self.node.attributes.items() if k != "beta"}
        made_by(result).attributes.update(kept)
        return result


def product(node: ir.Node, scene: Scene) -> Product | None:
    """`node`, one of `PRODUCTS`, with a weight whose shape is known, or None."""
    for index in (1, 0) if node.op_type == "MatMul" else (1,):
        weight, x = node.inputs[index], node.inputs[1 - index]
        if weight is None or x is None:
            return None
        if scene.maker(weight, "DequantizeLinear") is not None:  # runtimes fuse the two
            return None
        tensor = tensor_of(weight, scene)
        if tensor is not None:
            shape: tuple[int, ...] | None = tuple(tensor.shape.numpy())
            dtype: ir.DataType | None = tensor.dtype
        elif node.op_type == "MatMul":
            continue
        else:
            filled = fill(scene, weight)
            shape = scene.facts.sizes(weight) if filled is None else filled[0]
            dtype = scene.facts.dtype(weight)
        if shape is None or dtype is None or len(shape) < 2 or 0 in shape:
            return None
        if node.op_type in ("MatMul", "Gemm") and len(shape) != 2:
            return None
        return Product(node, x, weight, shape, dtype, tensor)
    return None
