"""Compute on integers of 8 bits, with ranges of activations that calibration found.

Written down as QuantizeLinear and DequantizeLinear around tensors (QDQ), which runtimes fuse to
kernels on integers when they load the model: ONNX Runtime to QLinearConv, QLinearMatMul, QGemm,
QLinearAdd and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
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
)
from onnxslim_rx.quant import dequantize, quantize_symmetric
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._option_checks import check_least, check_word
from onnxslim_rx_passes._qdq_cuts import cuts_beside
from onnxslim_rx_passes._qdq_grids import ACTIVATIONS, METHODS, range_method
from onnxslim_rx_passes._qdq_layers import made_by_conv, static_layers
from onnxslim_rx_passes._qdq_nodes import FLOAT, emit_layer, emit_pair, emit_rest
from onnxslim_rx_passes._qdq_pairs import lay_out
from onnxslim_rx_passes._qdq_units import Unit

__all__ = ["QuantizeStatic"]

_OFFERED = ("mse", "percentile")
# What few and far values of a convolution are worth differs from layer to layer, also within a
# network: on MobileNetV2 a third way takes a tenth off the loss.
_OFFERED_OF_CONV = (*_OFFERED, "percentile-99.95")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeStatic(CompressionPass):
    """Round what enters and leaves Conv, Gemm and MatMul to integers with fixed ranges.

    Weights: INT8, symmetric, one scale for each output channel, rounded by least squares of the
    outputs where the inputs are known. Biases: INT32, less what rounding the weight adds to the
    mean of each output (Nagel et al., ICCV 2019). Activations: one scale and zero point a tensor.
    Conv with any groups, and the Relu or Clip behind it; Gemm and MatMul with a constant matrix on
    the right; float32, opset 13 or newer.

    When all layers are done, operators between them get pairs as well, where ONNX Runtime then
    computes on integers from layer to layer: see `_qdq_spread`.

    Args:
        activations: "u8", "s8" or "u16". On x86 "u8": ONNX Runtime does not fuse all of "s8"
            there. With "u16" (opset 21) it has no kernels on CPUs, and computes in floating point.
        method: how ranges are found, see `quant.find_range`; "percentile-99.9" says how many
            percent; None: those that were best on MiniLM and on MobileNetV2 are offered, and those
            of convolutions are tuned together.
        entering: the same of what enters layers alone; None: as `method`.
        bits: of weights, 7 or 8. x86 processors without VNNI add two products in 16 bits, which
            overflow where weights have 8 bits: take 7 for those.
        min_elements: weights with fewer entries are left alone.

    Raises:
        InputError: an option outside its range.

    Source: Jacob et al., CVPR 2018.
    """

    name: ClassVar[str] = "quantize-static"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    reads_ranges: ClassVar[bool] = True
    needs_opset: ClassVar[int] = 13
    activations: str = "u8"
    method: str | None = None
    entering: str | None = None
    bits: int = 8
    min_elements: int = 1

    def __post_init__(self) -> None:
        check_word(self, "activations", tuple(ACTIVATIONS))
        check_word(self, "bits", (7, 8))
        check_least(self, "min_elements")
        for option in ("method", "entering"):
            given = getattr(self, option)
            try:
                range_method(given or METHODS[0])
            except ValueError as error:
                raise InputError(
                    f"{self.name} has {option} = {given!r}",
                    expected=", ".join(METHODS) + ", or such as percentile-99.9",
                ) from error

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Conv, Gemm and MatMul of the main graph whose weights nobody else reads."""
        return static_layers(model, self.min_elements, ACTIVATIONS[self.activations])

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """One for each way to find ranges, the most accurate first; none without histograms."""
        found = []
        offered = _OFFERED_OF_CONV if layer.op == "Conv" else _OFFERED
        for method in offered if self.method is None else (self.method,):
            own = {} if self.entering in (None, method) else {"entering": str(self.entering)}
            stage = Stage(
                self.name,
                {"activations": self.activations, "method": method, "bits": self.bits, **own},
            )
            unit = Unit.of(layer, stage, stats)
            if isinstance(unit, Unit):
                flops = 2 * unit.rows.size
                found.append(Candidate((stage,), unit.error(), unit.bytes, flops, follows=False))
        return sorted(found, key=lambda one: one.error)

    def variants(self, layer: Layer, stage: Stage) -> Sequence[Stage]:
        """Of a Conv: ranges that cut off more, or fewer, values than those of `stage`.

        What leaves it first, then what enters it, where no other Conv settles that.
        """
        if layer.op != "Conv" or self.method is not None or self.entering is not None:
            return ()
        return cuts_beside(stage, entering=not made_by_conv(layer.activation))

    def applied(self, stage: Stage) -> bool:
        """Yes: activations are rounded."""
        return True

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The weight, rounded to nearest; nothing of activations is seen here."""
        (stored,) = factors
        grid = quantize_symmetric(stored, channel_axes(layer), int(stage.options["bits"]))
        return (dequantize(grid).astype(stored.dtype, copy=False),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the layer between pairs.

        What leaves a Gemm or MatMul stays in floating point: where a quantized layer reads it,
        runtimes find the pair there and compute integers at once.
        """
        unit = Unit.of(layer, stage, stats)
        if isinstance(unit, Skip):
            return unit
        result = emit_layer(layer, unit.entering, unit.weight, unit.corrected_bias(), tape)
        result = emit_rest(layer, result, tape, bias_done=unit.bias is not None)
        old = layer.nodes[-1].outputs[0]
        if unit.leaving is not None:
            result.type, result.shape = old.type, old.shape
            result.name = f"{old.name}{FLOAT}"
            result = emit_pair(result, unit.leaving, str(old.name), tape)
        return {old: result}

    def finish(self, model: ir.Model) -> None:
        """Lay out the pairs of all layers anew, so that integers go from layer to layer."""
        lay_out(model, self.name)
