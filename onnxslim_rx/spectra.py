"""Singular-value spectra of a model's layers, of the weights and under what enters them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.spectrum import (
    EXACT_SIDE,
    LEADING,
    Spectrum,
    as_matrices,
    kept_by_rank,
    kept_by_rank_of_outputs,
    kept_by_rank_of_rows,
)
from onnxslim_rx.calibration import Dataset, collect
from onnxslim_rx.calibration.collect import MEMORY_BYTES
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, weight_layers
from onnxslim_rx.progress import task

__all__ = ["layer_spectrum", "model_spectra", "unit_spectrum"]

Array = npt.NDArray[Any]

_KINDS = {
    "linear": "linear",
    "linear-left": "linear",
    "linear-batched": "linear",
    "conv": "conv",
    "conv-transpose": "conv",
    "embedding": "embedding",
    "recurrent": "recurrent",
}
_MIN_ELEMENTS = 1024
_GRAM_SIDE = 4096
"""Gram matrices above this take more than 128 MB, and several times as much to work with."""


def unit_spectrum(layer: Layer, stats: LayerStatistics | None) -> Spectrum | None:
    """The spectrum of what one rank cuts: a weight, or those of layers with one input, joined.

    Args:
        layer: a unit that a pass treats.
        stats: what entered it, or None.

    Returns:
        None for units that are not one matrix, and where the smaller side is above `EXACT_SIDE`.
    """
    members = layer.members or (layer,)
    if len(layer.weights) != len(members) or any(len(one.weights) > 1 for one in members):
        return None
    arrays = [_matrices(one) for one in members]
    if len(members) > 1:
        if {one.activation for one in members} != {layer.activation}:
            return None
        if any(one.kind != "linear" for one in members):
            return None
        if len({array.shape[:2] for array in arrays}) > 1:
            return None
        stats = stats.members[0] if stats is not None and stats.members else None
    if min(arrays[0].shape[1], sum(array.shape[2] for array in arrays)) > EXACT_SIDE:
        return None
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=2)
    nbytes = sum(array.nbytes for array in arrays)
    return _spectrum(layer, joined, nbytes, stats)


def layer_spectrum(layer: Layer, stats: LayerStatistics | None) -> Spectrum:
    """The spectrum of a layer's weight.

    Args:
        layer: a layer of one weight, a constant with two axes or more.
        stats: what entered it, or None.
    """
    matrices = _matrices(layer)
    return _spectrum(layer, matrices, matrices.nbytes, stats)


def _matrices(layer: Layer) -> Array:
    """The layer's weight as it applies it, (B, K, N)."""
    tensor = constant(layer.weight)
    assert tensor is not None  # a layer's weight is a constant
    return as_matrices(layer.node, layer.weight_index, tensor.numpy())


def _spectrum(
    layer: Layer, matrices: Array, nbytes: int, stats: LayerStatistics | None
) -> Spectrum:
    batch, k, n = matrices.shape
    found = Spectrum(layer.name, layer.op, (k, n), batch, nbytes, kept_by_rank(matrices))
    if found.plain is None:
        return dataclasses.replace(found, note="the weight has NaN or infinity")
    note, whitened = "", None
    if len(found.plain) <= min(k, n):
        note = f"only the first {LEADING} ranks: the smaller side is above {EXACT_SIDE}"
    if stats is not None and stats.counts is not None and layer.kind == "embedding":
        whitened = kept_by_rank_of_rows(matrices[0], stats.counts)
    elif (
        stats is not None
        and stats.gram is not None
        and (layer.kind != "conv" or stats.patches)  # channels alone are another matrix
        and len(stats.gram) == k <= _GRAM_SIDE
    ):
        whitened = kept_by_rank_of_outputs(matrices, stats.gram, max(stats.rows, 1))
    return dataclasses.replace(found, whitened=whitened, note=note)


def model_spectra(
    model: ir.Model, data: Dataset | None = None, *, memory_bytes: int = MEMORY_BYTES
) -> tuple[Spectrum, ...]:
    """The spectrum of every weight that a pass may treat, in the order of the model.

    Args:
        model: not changed.
        data: complete inputs, one dict a sample; None: nothing is whitened.
        memory_bytes: of calibration, see `calibration.collect`.

    Raises:
        InputError: data that the model does not take.
    """
    layers = [
        layer
        for layer in weight_layers(model, _KINDS, min_elements=_MIN_ELEMENTS)
        if not isinstance(layer, Skipped)
    ]
    stats: Mapping[str, LayerStatistics] = {}
    reasons: Mapping[str, str] = {}
    if data is not None:
        measured = [layer for layer in layers if _fits(layer)]
        if measured:
            found = collect(model, measured, data, memory_bytes=memory_bytes)
            stats, reasons = found, found.reasons
    spectra = []
    with task("spectra", len(layers)) as advance:
        for layer in layers:
            spectrum = layer_spectrum(layer, stats.get(layer.name))
            if data is not None and spectrum.whitened is None and spectrum.plain is not None:
                why = reasons.get(layer.name) or _why_not_whitened(layer)
                spectrum = dataclasses.replace(
                    spectrum, note="; ".join(filter(None, (spectrum.note, f"not whitened: {why}")))
                )
            spectra.append(spectrum)
            advance(1)
    return tuple(spectra)


def _inputs(layer: Layer) -> int:
    """K of the layer's matrix."""
    return int(_matrices(layer).shape[1])


def _fits(layer: Layer) -> bool:
    return layer.kind in ("embedding", "conv") or _inputs(layer) <= _GRAM_SIDE


def _why_not_whitened(layer: Layer) -> str:
    if not _fits(layer):
        return f"it has more than {_GRAM_SIDE} inputs"
    return "what enters it is not measured as rows of a matrix"
