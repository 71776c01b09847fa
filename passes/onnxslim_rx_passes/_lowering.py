"""Which part of `dequantize` treats which operator."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._float_layers import LAYERS
from onnxslim_rx_passes._floats import Draft, RefusedError, Weights
from onnxslim_rx_passes._integer_products import integer_product
from onnxslim_rx_passes._quantized_pairs import dequantized, product

__all__ = ["Lowering"]

_MS = "com.microsoft"
_LINEAR = ("DequantizeLinear", f"{_MS}::DequantizeLinear")
_INTEGER = ("ConvInteger", "MatMulInteger")
_REFUSED = {
    f"{_MS}::{name}": f"{name} is not known"
    for name in (
        "MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "NhwcMaxPool", "QLinearReduceMean", "QMoE",
        "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization",
        "QOrderedLongformerAttention", "QOrderedMatMul",
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowering(Rule):
    """One run of the pass over a model.

    Args:
        pairs: activations are no longer rounded.
        weights: that were put back.
    """

    name: ClassVar[str] = "dequantize"
    roots: ClassVar[tuple[str, ...]] = ("Mul", *_LINEAR, *_INTEGER, *LAYERS, *_REFUSED)
    pairs: bool
    weights: Weights

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        self.weights.fresh.clear()
        draft = Draft(node, scene, self.weights)
        try:
            return self._lower(draft)
        except RefusedError as error:
            return draft.give_up(error)

    def _lower(self, draft: Draft) -> bool:
        node = draft.node
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        if key in _REFUSED:
            raise RefusedError(_REFUSED[key])
        if key == "Mul":
            return product(draft)
        if key in _LINEAR:
            return dequantized(draft, pairs=self.pairs)
        if key in _INTEGER:
            return integer_product(draft)
        return LAYERS[key](draft)
