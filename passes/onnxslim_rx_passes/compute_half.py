"""Compute in 16 bits of floating point, where the device does so faster.

A layer gets its weight and bias in half, with a Cast in front and one behind. When all layers are
settled, operators between them follow where that saves Casts and is safe (`_half_regions`,
`_half_nodes`), and needless Casts go (`_half_casts`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.quant import error
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._channel_weights import opset_of
from onnxslim_rx_passes._half_interface import release_interface
from onnxslim_rx_passes._half_model import HalfModel
from onnxslim_rx_passes._half_nodes import fits, in_half
from onnxslim_rx_passes._halves import HALVES, UNITS, half_factors, to_half, too_large
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._option_checks import check_least, check_word

__all__ = ["ComputeHalf"]

_KINDS = {
    "linear": "linear",
    "linear-left": "linear",
    "linear-batched": "linear",
    "conv": "conv",
    "conv-transpose": "conv",
}
_BIAS = 2
# versions of the standard operators: types by number in Cast, bfloat16 in products, in convolutions
_FIRST, _FIRST_BFLOAT16, _FIRST_BFLOAT16_CONV = 6, 13, 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeHalf(CompressionPass):
    """Compute layers in 16 bits: Conv, ConvTranspose, Gemm and MatMul with a constant weight.

    Offered where the target says that it computes in such a type. Runtimes that do not, as ONNX
    Runtime on CPUs, put Casts around every operator, and are slower for it.

    Args:
        type: "float16" or "bfloat16", whatever the target says; None: the first of them that the
            target computes in. ONNX Runtime's CPU provider (1.31) has no kernel of MatMul, Gemm,
            Conv and ConvTranspose in bfloat16: that is refused where the target does not list it.
        sums: whether operators that sum up much, and exponentials, may run in 16 bits between such
            layers as well: LayerNormalization, Softmax, ReduceMean, Pow and the like.
        io: whether inputs and outputs of the model in float32 become half, too, at the very end.
        min_elements: weights with fewer entries are no layers; they follow their neighbours.

    Raises:
        InputError: an option outside its range.

    Source: Micikevicius et al., Mixed precision training, ICLR 2018, for what stays in float32.
    """

    name: ClassVar[str] = "compute-half"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    type: str | None = None
    sums: bool = False
    io: bool = False
    min_elements: int = 512

    def __post_init__(self) -> None:
        check_word(self, "type", (None, *HALVES))
        check_least(self, "min_elements")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Layers in float32 that alone read their weight, in the main graph and in subgraphs."""
        opset = model.opset_imports.get("", 1)
        found = weight_layers(model, _KINDS, min_elements=self.min_elements, depthwise=True)
        for layer in found:
            if isinstance(layer, Layer) and (why := self._why_not(layer, opset)):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """One type, where weight and bias fit; its error is that of rounding what enters."""
        name = self._type_for(target)
        if name == "bfloat16" and opset_of(layer) < _first_bfloat16(layer):
            return
        if name is None or not fits(layer.node, _constants(layer), name):
            return
        weight = tensor_of(layer.weight).numpy()
        found = to_half(weight, name)
        assert found is not None  # it fits
        # numbers are rounded evenly between two neighbours, weights and activations alike
        rows = (one.reshape(len(one), -1) for one in (weight, found))
        lost = math.hypot(error(*rows), UNITS[name] / math.sqrt(3))
        yield Candidate((Stage(self.name, {"type": name}),), lost, 2 * weight.size, 2 * weight.size)

    def applied(self, stage: Stage) -> bool:
        """Yes: products are rounded as well as weights."""
        return True

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """Each factor rounded; what becomes of activations is not seen in weights."""
        return half_factors(layer, factors, str(stage.options["type"]))

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the layer in half, and Casts around it."""
        name = str(stage.options["type"])
        if not fits(layer.node, _constants(layer), name):
            return Skip(too_large(name))
        indices = [i for i, value in enumerate(layer.node.inputs) if value is not None]
        return in_half(layer.node, indices, name, tape)

    def finish(self, model: ir.Model) -> None:
        """Let operators between layers follow, and drop needless Casts, in place."""
        kept = {layer.node for layer in self.layers(model) if isinstance(layer, Layer)}
        half = HalfModel(model, self.name, kept, sums=self.sums, least=self.min_elements)
        half.finish(io=self.io)

    def release(self, model: ir.Model) -> None:
        """Inputs and outputs that were rounded to half become half, in place."""
        if self.io:
            release_interface(model, self.name)

    def _type_for(self, target: Target) -> str | None:
        wanted = self.type or next((one for one in target.computes if one in HALVES), None)
        if wanted == "bfloat16" and wanted not in target.computes:
            raise InputError(
                f"{self.name} has type = 'bfloat16', and ONNX Runtime's CPU provider has no kernel"
                " of MatMul, Gemm, Conv and ConvTranspose for it",
                expected="'float16', or a target whose `computes` lists bfloat16",
            )
        return wanted

    def _why_not(self, layer: Layer, opset: int) -> str | None:
        dtype = tensor_of(layer.weight).dtype
        if dtype != ir.DataType.FLOAT:
            return f"is of type {dtype.name}; float32 becomes half"
        if len(layer.weight.uses()) > 1:
            return f"{len(layer.weight.uses())} nodes share it"
        first = _first_bfloat16(layer) if self.type == "bfloat16" else _FIRST
        if opset < first:
            return f"opset {opset} has no {self.type or 'half'} here; {first} is the first"
        return None


def _first_bfloat16(layer: Layer) -> int:
    return _FIRST_BFLOAT16_CONV if layer.kind == "conv" else _FIRST_BFLOAT16


def _constants(layer: Layer) -> list[int]:
    indices = [layer.weight_index, _BIAS]
    return [i for i in indices if i < len(layer.node.inputs) and layer.node.inputs[i] is not None]
