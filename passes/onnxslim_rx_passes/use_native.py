"""Rewrite what our passes emit into operators of our own domain, for the native library."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.ir import nodes
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rules import Rule, RuleError, drive
from onnxslim_rx_passes._native_convs import NativeConvChain, NativeStoredConv
from onnxslim_rx_passes._native_domain import NativeRule, is_native
from onnxslim_rx_passes._native_epilogue import NativeActivation, NativeSum
from onnxslim_rx_passes._native_lookups import NativeBlockLookUp, NativeStoredLookUp
from onnxslim_rx_passes._native_pairs import NativePair
from onnxslim_rx_passes._native_products import NativeBlockProduct, NativeStoredProduct
from onnxslim_rx_passes.fuse_gelu_ms import FuseGeluMs

__all__ = ["UseNative"]

_OPERATORS: tuple[type[NativeRule], ...] = (
    NativeBlockProduct,
    NativeStoredProduct,
    NativeBlockLookUp,
    NativeStoredLookUp,
    NativeStoredConv,
    NativeConvChain,
    NativePair,
)
_EPILOGUES: tuple[Rule, ...] = (FuseGeluMs(), NativeSum(), NativeActivation())


@dataclasses.dataclass(frozen=True)
class UseNative(RewritePass):
    """Use operators of the domain `ai.onnxslim.rx`, which the native library computes.

    Exact up to rounding. Weights of 2, 4 or 8 bits (`MatMulNBits`, `GatherBlockQuantized`, or
    integers that pass a `DequantizeLinear` or a Cast and a Mul in front of MatMul, Gemm, Conv and
    Gather) become `QuantMatMul`, `QuantConv` and `QuantGather`; two products with thin constants
    `LowRankMatMul`; rows of convolutions with nothing in between `ConvChain`. A bias, a residual
    and an activation (Relu, Clip, GELU, SiLU) that follow one of them move into it.

    It runs last, for targets of level "rx" alone: no other pass recognises what it makes.

    Refused: weights with readers that would need them otherwise, integers whose scales lie along
    other axes, and whatever is computed on integers, its inputs being rounded as well.

    Args:
        folded: take also weights that ONNX Runtime would fold into floating point when it loads the
            model, `Mul(Cast(Q), s)`: they then stay small in memory, and are computed with on the
            device; on a processor small products take longer so.
    """

    name: ClassVar[str] = "use-native"
    folded: bool = True

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """See `RewritePass.__call__`."""
        if not ctx.target.allows("rx"):
            why = f"the target {ctx.target.name} has no operators of ai.onnxslim.rx"
            return PassResult(model, False, 0, (Skipped("the model", why),))
        count, skipped = 0, list[Skipped]()
        operators = tuple(one(folded=self.folded) for one in _OPERATORS)
        for rules in (operators, _EPILOGUES):
            if rules is _EPILOGUES and not any(map(is_native, nodes(model))):
                break
            ctx = dataclasses.replace(ctx, facts=None)  # of the model as it is now
            try:
                driven = drive(model, rules, ctx)
            except RuleError as error:
                raise error.__cause__ or error from None
            results = [driven.result(i, model) for i in range(len(rules))]
            count += sum(one.rewritten for one in results)
            skipped += [one for result in results for one in result.skipped]
        return PassResult(model, count > 0, count, tuple(dict.fromkeys(skipped)))
