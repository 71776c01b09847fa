"""Multiply in INT8: activations rounded as they come, weights beforehand.

`X W` becomes `s t (Q_X - z) Q_W`: X is rounded to 8 bits over its own range in each run
(DynamicQuantizeLinear), W to 8 bits with one scale t for each column, see `_dynamic_rounding`. Some
channels of X may be much larger than others: they are made alike first, see `_dynamic_smoothing`.
ONNX Runtime fuses what is emitted into one or two kernels when it loads the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import (
    Array,
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
from onnxslim_rx.quant import dequantize, error
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._channel_rounding import CLIP, GPTQ, METHODS
from onnxslim_rx_passes._complex_parts import why_not_one_scale
from onnxslim_rx_passes._dynamic_bias import has_bias, mean_error, merge_shifts, pays
from onnxslim_rx_passes._dynamic_folding import fold_scales
from onnxslim_rx_passes._dynamic_lstm import (
    emit_lstm,
    lstm_candidates,
    lstm_layers,
    rounded_lstm,
)
from onnxslim_rx_passes._dynamic_nodes import emit_product
from onnxslim_rx_passes._dynamic_rounding import DynamicOptions, Product
from onnxslim_rx_passes._dynamic_smoothing import best_exponent
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import as_applied, as_stored, tensor_of, weight_of
from onnxslim_rx_passes._option_checks import check_least, check_word

__all__ = ["QuantizeDynamic"]

# Scales cost one more pass over the activations: they must pay.
_MUCH_LESS = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(CompressionPass):
    """Replace ``X W`` by ``DynamicQuantizeLinear(X)``, ``MatMulInteger`` and a scaling.

    Shapes: X (..., K), W (K, N), one scale for each of the N columns. MatMul with a constant
    matrix on the right and Gemm whose A is not transposed, float32. Activations that several
    layers read are rounded once. LSTM becomes DynamicQuantizeLSTM of com.microsoft, where targets
    allow that; for GRU and RNN there is no such operator.

    Args:
        bits: of weights, 7 or 8. x86 processors without VNNI add two products in 16 bits, which
            overflow where weights have 8 bits: take 7 for those.
        method: how weights are rounded: "nearest", "clip" (least squared error of the weight),
            "gptq" (least error of the output), or "auto": "gptq" where statistics allow.
        smooth: the exponent of `max|x|` that channels of activations are divided by, and the
            weight's rows multiplied with; 0: none; None: the best on a sample, where that errs at
            least 5% less.
        min_elements: weights with fewer entries are left alone.

    Raises:
        InputError: an option outside its range.

    Source: Jacob et al., CVPR 2018; ranges of activations found at run time as in ONNX's
    DynamicQuantizeLinear; channels made alike as in SmoothQuant (Xiao et al., ICML 2023).
    """

    name: ClassVar[str] = "quantize-dynamic"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    bits: int = 8
    method: str = "auto"
    smooth: float | None = None
    min_elements: int = 4096

    def __post_init__(self) -> None:
        check_word(self, "bits", (7, 8))
        check_word(self, "method", (*METHODS, "auto"))
        check_least(self, "min_elements")
        if self.smooth is not None and not 0.0 <= self.smooth <= 1.0:
            raise InputError(f"{self.name} has smooth = {self.smooth}", expected="0 to 1")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """MatMul and Gemm with a constant matrix on the right that no other node reads; LSTM."""
        opset = model.opset_imports.get("", 1)
        for layer in weight_layers(model, {"linear": "linear"}, min_elements=self.min_elements):
            if isinstance(layer, Layer) and (why := _why_not(layer, opset)):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer
        yield from lstm_layers(model, self.min_elements)

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """Activations as they come; and with channels made alike, where that errs much less."""
        if layer.kind == "recurrent":
            if target.allows("ort"):
                yield from lstm_candidates(layer, stats, self.name, self.bits, self.method)
            return
        weight = weight_of(layer)
        if not is_finite(weight):
            return
        known = stats is not None and stats.gram is not None and len(stats.gram) == len(weight)
        method = self.method if self.method != "auto" else GPTQ if known else CLIP
        if method == GPTQ and not known:
            return
        exponent = self.smooth
        if exponent is None:
            exponent = best_exponent(_weights_beside(layer), stats, self.bits)
        plain = DynamicOptions(self.bits, method)
        found = dict([_judged(layer, weight, plain, stats)])
        if exponent > 0:
            smooth = dataclasses.replace(plain, smooth=exponent)
            options, error = _judged(layer, weight, smooth, stats)
            if error < _MUCH_LESS * min(found.values()):
                found[options] = error
        size = int(weight.size + weight.shape[1] * 4)
        for number, (options, error) in enumerate(found.items()):
            yield Candidate(
                (options.stage(self.name),),
                error,
                size + (weight.shape[0] * 4 if options.smooth else 0),
                2 * weight.size,
                follows=number + 1 == len(found),
            )

    def follows_data(self, stage: Stage) -> bool:
        """Yes: a weight may make up for what the layers before it lost."""
        return True

    def applied(self, stage: Stage) -> bool:
        """Yes: what rounding activations does shows in the graph alone."""
        return True

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The rounded weight; activations are taken as they are."""
        if layer.kind == "recurrent":
            made = rounded_lstm(layer, factors, DynamicOptions.of(stage), stats)
            return tuple(dequantize(grid).astype(np.float64, copy=False) for grid in made)
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        stored = factors[0]
        # what is kept of roundings is found by the weight in its own type
        weight = as_applied(layer, stored).astype(tensor_of(layer.weight).dtype.numpy(), copy=False)
        product = Product.of(layer, weight, DynamicOptions.of(stage), stats)
        return (as_stored(layer, product.dense()).astype(stored.dtype, copy=False),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the integer product and its scaling."""
        options = DynamicOptions.of(stage)
        if layer.kind == "recurrent":
            return emit_lstm(layer, options, stats, tape)
        weight = weight_of(layer)
        if not is_finite(weight):
            return Skip("the weight has NaN or infinity")
        product = Product.of(layer, weight, options, stats)
        x = _sample(weight, stats)
        shift = None
        if options.correct and x is not None and has_bias(layer):
            alpha = layer.node.attributes.get_float("alpha", 1.0)
            shift = -alpha * mean_error(product.lost(weight, x))
        return {layer.output: emit_product(layer, product, tape, shift)}

    def finish(self, model: ir.Model) -> None:
        """Fold scales of channels into what makes them, and shifts into biases."""
        merge_shifts(model, self.name)
        fold_scales(model, self.name)


def _why_not(layer: Layer, opset: int) -> str | None:
    if opset < 11:
        return f"opset {opset} has no DynamicQuantizeLinear; 11 is the first that does"
    if len(layer.weight.uses()) > 1:
        return f"{len(layer.weight.uses())} nodes share it"
    return _why_not_product(layer, tensor_of(layer.weight))


def _why_not_product(layer: Layer, tensor: ir.TensorProtocol) -> str | None:
    if tensor.dtype != ir.DataType.FLOAT:
        return f"DynamicQuantizeLinear takes float32, not {tensor.dtype.name.lower()}"
    if layer.weight_index != 1 or len(tensor.shape) != 2:
        return "integer products want a constant matrix on the right"
    if layer.node.attributes.get_int("transA", 0):
        return "its activation is transposed"
    return why_not_one_scale(layer)


def _weights_beside(layer: Layer) -> list[Array]:
    """(K, N) of every product that reads the layer's activation, its own among them."""
    found = []
    for use in layer.activation.uses():
        node = use.node
        tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.domain != "" or node.op_type not in ("MatMul", "Gemm") or tensor is None:
            continue
        beside = Layer(layer.name, node.op_type, "linear", node, 1, 0)
        if use.idx == 0 and _why_not_product(beside, tensor) is None:
            weight = weight_of(beside)
            found += [weight] if is_finite(weight) else []
    return found


def _judged(
    layer: Layer, weight: Array, options: DynamicOptions, stats: LayerStatistics | None
) -> tuple[DynamicOptions, float]:
    """Relative error of the outputs, by a few real activations; and whether a bias can lower it."""
    product = Product.of(layer, weight, options, stats)
    x = _sample(weight, stats)
    if x is None:
        return options, error(weight.T, product.dense().T)
    lost = product.lost(weight, x)
    if has_bias(layer) and pays(lost):
        options = dataclasses.replace(options, correct=True)
        lost -= mean_error(lost)
    norm = float(np.linalg.norm(x.astype(np.float64) @ weight))
    return options, float(np.linalg.norm(lost)) / (norm or 1.0)


def _sample(weight: Array, stats: LayerStatistics | None) -> Array | None:
    """Rows that entered the layer; none where another treatment cut its weight since."""
    if stats is None or stats.sample is None or not len(stats.sample):
        return None
    return stats.sample if stats.sample.shape[1] == len(weight) else None
