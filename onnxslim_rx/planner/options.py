"""What can be done with each layer, and what each choice costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import (
    KEEP,
    Candidate,
    CompressionPass,
    Layer,
    LayerStatistics,
    Skipped,
    Stage,
)
from onnxslim_rx.targets import Target

__all__ = ["Choice", "Unit", "find_units"]


@dataclasses.dataclass
class Choice:
    """One candidate of one layer, with what was predicted and measured about it.

    Args:
        stages: what is done; none: the layer is kept.
        error: predicted relative error of the layer's output, no unit.
        bytes: size of the weights as stored.
        flops: operations for one row of input.
        folds: runs at the latency of the choice without its last stage.
        damage: predicted loss of quality of the whole model, `1 - cosine`.
        latency_ms: of the layer alone; NaN where it is that of the layer as it was.
        relative_latency: `latency_ms` divided by that of the layer as it was.
        saves: bytes that weights lose of which only a part is changed, by name.
        follows: only stores the weight differently, and may do so to what others make of it.
    """

    stages: tuple[Stage, ...]
    error: float
    bytes: int
    flops: int
    folds: bool = True
    damage: float = 0.0
    latency_ms: float = float("nan")
    relative_latency: float = 1.0
    saves: Mapping[str, int] = dataclasses.field(default_factory=dict)
    follows: bool = False

    def __str__(self) -> str:
        return " + ".join(map(str, self.stages)) or "keep"


@dataclasses.dataclass
class Unit:
    """One layer, its statistics and its choices; the first choice keeps it.

    Args:
        layer: of the cleaned model.
        stats: what calibration saw at its input, or None.
        choices: at least one.
        latency_ms: of the layer as it is; NaN where it was not measured.
    """

    layer: Layer
    stats: LayerStatistics | None
    choices: list[Choice]
    latency_ms: float = float("nan")


def find_units(
    model: ir.Model,
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
    target: Target,
) -> tuple[list[Unit], list[Skipped]]:
    """Every layer that some pass can treat, with all candidates and chains of two.

    A chain is a candidate that replaces a layer, followed by one that stores its weights
    differently.

    Args:
        model: the cleaned model; not changed.
        passes: compression passes by name.
        stats: by name of the layer.
        target: the device profile.

    Returns:
        The units in the order of the model, and the layers that no pass can treat, with reasons.
    """
    offers: dict[str, Unit] = {}
    refused: dict[str, list[str]] = {}
    for chosen in sorted(passes.values(), key=lambda p: (p.replaces != "weight", p.name)):
        for layer in chosen.layers(model):
            if isinstance(layer, Skipped):
                refused.setdefault(layer.where, []).append(layer.why)
                continue
            unit = offers.setdefault(layer.name, _kept(layer, stats.get(layer.name)))
            candidates = list(chosen.candidates(layer, unit.stats, target))
            unit.choices += _with_chains(unit, candidates, chosen)
    skipped = [
        Skipped(name, "; ".join(dict.fromkeys(reasons)))
        for name, reasons in refused.items()
        if name not in offers
    ]
    return list(offers.values()), skipped


def _kept(layer: Layer, stats: LayerStatistics | None) -> Unit:
    tensors = [tensor for value in layer.weights if (tensor := constant(value)) is not None]
    size = sum(tensor.size for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    keep = Choice(KEEP, error=0.0, bytes=nbytes, flops=2 * size)
    return Unit(layer, stats, [keep])


def _with_chains(
    unit: Unit, candidates: Iterable[Candidate], offered_by: CompressionPass
) -> Iterable[Choice]:
    """The candidates, and each followed by every storage form that the unit has so far."""
    # what changes a part of a weight leaves it to be stored as its own unit says
    chains = offered_by.replaces == "output" and not offered_by.partial
    forms: Sequence[Choice] = [c for c in unit.choices if c.follows] if chains else []
    keep = unit.choices[0]
    for candidate in candidates:
        plain = Choice(
            candidate.stages,
            candidate.error,
            candidate.bytes,
            candidate.flops,
            candidate.folds,
            saves=candidate.saves,
            follows=candidate.follows and offered_by.replaces == "weight",
        )
        yield plain
        for form in forms:
            yield Choice(
                (*plain.stages, *form.stages),
                # errors of two independent roundings add in squares
                error=float(np.hypot(plain.error, form.error)),
                bytes=round(plain.bytes * form.bytes / keep.bytes),
                flops=plain.flops,
                folds=form.folds,
            )
