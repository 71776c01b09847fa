"""Plans become models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Skipped
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.stages import apply_treatments

__all__ = ["apply_plan", "describe"]


def apply_plan(
    model: ir.Model,
    layers: Iterable[LayerPlan],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
) -> tuple[ir.Model, list[Skipped]]:
    """A copy of `model` with the plan of each layer carried out, and what passes refused.

    Raises:
        InputError: the plan names a pass or a layer that there is not.
    """
    copy = clone(model)
    found: dict[str, dict[str, Layer]] = {}
    treatments = []
    for planned in layers:
        if not planned.stages:
            continue
        for stage in planned.stages:
            if stage.pass_name not in passes:
                raise InputError(
                    f"the plan names the pass {stage.pass_name!r}",
                    expected="one of " + ", ".join(sorted(passes)),
                )
        first = planned.stages[0].pass_name
        if first not in found:
            every = passes[first].layers(copy)
            found[first] = {layer.name: layer for layer in every if isinstance(layer, Layer)}
        if planned.name not in found[first]:
            raise InputError(
                f"{first} finds no layer {planned.name!r} in the model",
                advice="make the plan again for this model",
            )
        layer = found[first][planned.name]
        treatments.append((layer, planned.stages, stats.get(planned.name)))
    return copy, apply_treatments(copy, treatments, passes)


def describe(plans: Sequence[LayerPlan]) -> str:
    """Such as "quantize-weights on 37 layers, factorize-gemm on 4"."""
    counts: dict[str, int] = {}
    for plan in plans:
        for stage in plan.stages:
            counts[stage.pass_name] = counts.get(stage.pass_name, 0) + 1
    return ", ".join(f"{name} on {count} layers" for name, count in counts.items()) or "keep all"
