"""Bring what a model computes on integers back to floating point."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import Spool, tensors
from onnxslim_rx.ir.spool import LARGE_BYTES
from onnxslim_rx.ir.walk import SPOOL
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass
from onnxslim_rx.rules import RuleError, drive
from onnxslim_rx_passes._floats import Weights
from onnxslim_rx_passes._lowering import Lowering

__all__ = ["Dequantize"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dequantize(RewritePass):
    """Put weights that are stored as integers, and operators on integers, in floating point.

    Weights become what they stand for, exactly: behind DequantizeLinear (also blockwise),
    `Mul(Cast(q), s)`, in MatMulNBits and GatherBlockQuantized, in QLinear operators, and behind
    DynamicQuantizeLinear. What several nodes read is stored once. Activations are no longer
    rounded: outputs move by what that rounding was. What saturates stays bounded, by a Clip where
    nothing before it proves that it lies within the bounds, since quantizers drop a Relu that
    saturation replaces.

    Refused: scales that are not constant where a weight needs them; activations with several
    scales; columns in another order (`g_idx`); operators that are not known.

    Args:
        dtype: "float32": weights as the model computes with them; "float16": those of float32 that
            16 bits hold with an error below 0.1% are stored so, with a Cast, which runtimes fold
            when they load the model.
        keep_activations: bring back weights alone; activations are rounded as before.

    Raises:
        InputError: an unknown type.
    """

    name: ClassVar[str] = "dequantize"
    dtype: str = "float32"
    keep_activations: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"dequantize has dtype = {self.dtype!r}", expected="float16, float32")

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        if _float_bytes(model) >= LARGE_BYTES:
            model.meta.setdefault(SPOOL, Spool())
        weights = Weights(half=self.dtype == "float16")
        lowering = Lowering(pairs=not self.keep_activations, weights=weights)
        try:
            return drive(model, [lowering], ctx).result(0, model)
        except RuleError as error:
            raise error.__cause__ or error from None


def _float_bytes(model: ir.Model) -> int:
    """Bytes that weights of 4 bits take in float32; of those of 8 bits, twice as many."""
    stored = {id(tensor): tensor for tensor in tensors(model)}.values()
    return sum(
        8 * one.nbytes for one in stored if one.dtype.is_integer() and one.dtype.bitwidth <= 8
    )
