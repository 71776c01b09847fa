"""Store weights in 16 bits, wherever they are read; compute in floating point as before.

`Cast(W16)` stands where the weight was. Runtimes fold it when they load the model, so that the file
is half of the size and inference costs what it did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Literal

import onnx_ir as ir

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
)
from onnxslim_rx.quant import error
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._channel_weights import opset_of
from onnxslim_rx_passes._halves import HALVES, UNITS, half_factors, to_half, too_large, worst_slice
from onnxslim_rx_passes._linear import as_applied, tensor_of
from onnxslim_rx_passes._option_checks import check_least, check_word
from onnxslim_rx_passes._stored_layers import stored_layers

__all__ = ["StoreHalf"]

_FLOAT16, _BFLOAT16 = HALVES
_OVERHEAD_BYTES = 150  # what one more node takes in the file, measured with short names
_FIRST_NUMBERED, _FIRST_BFLOAT16 = 6, 13  # versions of Cast
# Twice what rounding costs: a channel that loses more has entries below float16's normal range.
_MOST_FLOAT16 = 2 * UNITS[_FLOAT16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreHalf(CompressionPass):
    """Store weights in 16 bits of floating point.

    Weights of MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU and RNN, in any graph. A weight
    that several nodes read stays one tensor.

    Args:
        type: "float16" or "bfloat16"; None: float16 where no channel has entries that are too large
            or too small for it, else bfloat16, which has the range of float32 and three bits less.
        min_elements: weights with fewer entries are left alone.

    Raises:
        InputError: an option outside its range.
    """

    name: ClassVar[str] = "store-half"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    type: str | None = None
    min_elements: int = 512

    def __post_init__(self) -> None:
        check_word(self, "type", (None, *HALVES))
        check_least(self, "min_elements")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Weights of every layer kind, in the main graph and in subgraphs."""
        opset = model.opset_imports.get("", 1)
        return stored_layers(model, self.min_elements, lambda layer: _why_not(layer, opset))

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """One type, where all entries fit."""
        tensor = tensor_of(layer.weights[0])
        size = 2 * tensor.size
        if size + _OVERHEAD_BYTES >= tensor.nbytes:
            return
        weight = tensor.numpy()
        for name in (self.type,) if self.type else HALVES:
            if _too_old(layer, name) or (found := to_half(weight, name)) is None:
                continue
            wide = self.type is None and name == _FLOAT16
            if wide and worst_slice(weight, found, channel_axes(layer)) > _MOST_FLOAT16:
                continue
            stages = (Stage(self.name, {"type": name}),)
            lost = _error(layer, weight, found, stats)
            yield Candidate(stages, lost, size, 2 * tensor.size, folds=True, follows=False)
            return

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """Each factor rounded.

        Raises:
            InputError: an entry does not fit.
        """
        return half_factors(layer, factors, str(stage.options["type"]))

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit the weight in 16 bits and its Cast."""
        name, root = str(stage.options["type"]), layer.weights[0]
        if _too_old(layer, name):
            return Skip(f"bfloat16 takes an opset that is known to be {_FIRST_BFLOAT16} or newer")
        tensor = tensor_of(root)
        rounded = to_half(tensor.numpy(), name)
        if rounded is None:
            return Skip(too_large(name))
        stored = tape.initializer(
            ir.tensor(rounded, dtype=HALVES[name], name=f"{root.name}.{name}")
        )
        return tape.op("Cast", [stored], {"to": tensor.dtype})


def _why_not(layer: Layer, opset: int) -> str | None:
    dtype = tensor_of(layer.weights[0]).dtype
    if dtype in HALVES.values():
        return f"is of type {dtype.name} already"
    if opset < _FIRST_NUMBERED:
        return f"opset {opset} has another Cast; {_FIRST_NUMBERED} is the first to know types"
    return None


def _too_old(layer: Layer, name: str) -> bool:
    """Whether the type is newer than the model; in bodies of nodes, whose opset is not at hand."""
    return name == _BFLOAT16 and opset_of(layer) < _FIRST_BFLOAT16


def _error(layer: Layer, weight: Array, found: Array, stats: LayerStatistics | None) -> float:
    """Relative error of the outputs where the inputs' second moments are known, else of the weight.

    Those of convolutions and of states are of another layout, and 16 bits lose little.
    """
    gram = None if stats is None else stats.gram
    if layer.kind == "linear" and weight.ndim == 2:
        rows, other = as_applied(layer, weight).T, as_applied(layer, found).T
        return error(rows, other, gram if gram is not None and len(gram) == len(rows.T) else None)
    return error(weight.reshape(len(weight), -1), found.reshape(len(weight), -1))
