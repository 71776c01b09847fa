"""LSTM in INT8: DynamicQuantizeLSTM of com.microsoft, inputs and state rounded as they come.

Its weights are (D, K, 4 H) and (D, H, 4 H) for D directions, K inputs and H hidden units, where
those of LSTM have the last two axes the other way round; each column has a scale of its own. All
else is as in LSTM.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import (
    Array,
    Candidate,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    weight_layers,
)
from onnxslim_rx.quant import Quantized
from onnxslim_rx_passes._channel_rounding import CLIP, GPTQ, Channels
from onnxslim_rx_passes._dynamic_rounding import DynamicOptions
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import tensor_of, unit_name

__all__ = ["emit_lstm", "lstm_candidates", "lstm_layers", "rounded_lstm"]

_MS = "com.microsoft"
_AXES = (0, 1)  # directions, and gates of each unit
_PRESENT = 8  # inputs of LSTM


def lstm_layers(model: ir.Model, min_elements: int) -> Iterator[Layer | Skipped]:
    """Every LSTM with both weights as one unit, and other recurrent operators with the reason."""
    found = list(weight_layers(model, {"recurrent": "recurrent"}, min_elements=min_elements))
    by_node: dict[ir.Node, list[Layer]] = {}
    for layer in found:
        if isinstance(layer, Skipped):
            yield layer
        else:
            by_node.setdefault(layer.node, []).append(layer)
    for node, layers in by_node.items():
        if why := _why_not(node, layers):
            yield from (Skipped(layer.name, f"{node.op_type}: {why}") for layer in layers)
            continue
        first, second = layers
        yield dataclasses.replace(
            first,
            name=unit_name(layers),
            constants=(first.weight, second.weight),
            members=(first,),
        )


def _why_not(node: ir.Node, layers: list[Layer]) -> str | None:
    if node.op_type != "LSTM":
        return "ONNX Runtime has no kernel on integers for it"
    if [layer.weight_index for layer in layers] != [1, 2]:
        return "its other weight is small, shared or no constant"
    if node.attributes.get_int("layout", 0):
        return "samples come first (layout), and the kernel wants steps first"
    for layer in layers:
        if tensor_of(layer.weight).dtype != ir.DataType.FLOAT:
            return f"the kernel takes float32, not {tensor_of(layer.weight).dtype.name.lower()}"
        if len(layer.weight.uses()) > 1:
            return f"{len(layer.weight.uses())} nodes share a weight"
    return None


def lstm_candidates(
    layer: Layer, stats: LayerStatistics | None, name: str, bits: int, method: str
) -> Iterator[Candidate]:
    """One candidate; `method` may be "auto". What the state loses, runs of the network tell."""
    weights = [tensor_of(value).numpy() for value in layer.weights]
    if not all(map(is_finite, weights)):
        return
    of_inputs = _channels(layer, weights[0], stats)
    settled = method if method != "auto" else CLIP if of_inputs.gram is None else GPTQ
    if settled == GPTQ and of_inputs.gram is None:
        return
    own = (settled, CLIP if settled == GPTQ else settled)
    both = (of_inputs, Channels(layer, _AXES))
    errors = [c.error(w, bits, m) for c, w, m in zip(both, weights, own, strict=True)]
    size = sum(weight.size + 5 * weight.shape[0] * weight.shape[1] for weight in weights)
    flops = 2 * sum(weight.size for weight in weights)
    stage = DynamicOptions(bits, settled).stage(name)
    yield Candidate((stage,), math.hypot(*errors), int(size), int(flops))


def rounded_lstm(
    layer: Layer, weights: Factors, options: DynamicOptions, stats: LayerStatistics | None
) -> tuple[Quantized, Quantized]:
    """W and R, in the layout of LSTM; nothing is known of the state that R meets.

    Raises:
        ValueError: NaN or infinity.
        InputError: the options need statistics that there are not.
    """
    first, second = (weight.astype(np.float32, copy=False) for weight in weights)
    channels = _channels(layer, first, stats)
    method = channels.settled(options.method, factor=False)
    of_state = CLIP if options.method == GPTQ else options.method
    return (
        channels.rounded(first, options.bits, method),
        Channels(layer, _AXES).rounded(second, options.bits, of_state),
    )


def _channels(layer: Layer, weight: Array, stats: LayerStatistics | None) -> Channels:
    known = next((one for one in stats.members if one is not None), stats) if stats else None
    gram = None if known is None else known.gram
    if known is None or gram is None:
        return Channels(layer, _AXES)
    if len(gram) != weight.shape[-1]:
        return Channels(layer, _AXES, cut=True)
    return Channels(layer, _AXES, gram, max(known.rows, 1))


def emit_lstm(
    layer: Layer, options: DynamicOptions, stats: LayerStatistics | None, tape: ir.tape.Tape
) -> Mapping[ir.Value, ir.Value] | Skip:
    """Emit the operator on integers."""
    weights = [tensor_of(value).numpy() for value in layer.weights]
    if not all(map(is_finite, weights)):
        return Skip("a weight has NaN or infinity")
    node = layer.node
    stored: list[ir.Value] = []
    grids: list[ir.Value] = []
    made = rounded_lstm(layer, tuple(weights), options, stats)
    for value, (integers, scales) in zip(layer.weights, made, strict=True):
        turned = np.ascontiguousarray(np.swapaxes(integers, 1, 2))
        rows = scales[..., 0].astype(np.float32)
        zeros = np.zeros(rows.shape, np.int8)
        for array, suffix, target in (
            (turned, "int8", stored),
            (rows, "scale", grids),
            (zeros, "zero", grids),
        ):
            target.append(tape.initializer(ir.tensor(array, name=f"{value.name}.{suffix}")))
    rest = [*node.inputs[3:_PRESENT], *[None] * (_PRESENT - max(len(node.inputs), 3))]
    inputs = [node.inputs[0], *stored, *rest, *grids]
    attributes = {key: value for key, value in node.attributes.items() if key != "layout"}
    count = len(node.outputs)
    results = tape.op_multi_out(
        "DynamicQuantizeLSTM", inputs, attributes, num_outputs=count, domain=_MS
    )
    for old, new in zip(node.outputs, results, strict=True):
        if old.name == "":  # left out
            new.name = ""
    pairs = zip(node.outputs, results, strict=True)
    return {old: new for old, new in pairs if old.name != ""}
