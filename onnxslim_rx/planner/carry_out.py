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
    by_pass: dict[str, list[LayerPlan]] = {}
    for planned in layers:
        for stage in planned.stages:
            if stage.pass_name not in passes:
                raise InputError(
                    f"the plan names the pass {stage.pass_name!r}",
                    expected="one of " + ", ".join(sorted(passes)),
                )
        if planned.stages:
            by_pass.setdefault(planned.stages[0].pass_name, []).append(planned)
    skipped: list[Skipped] = []
    # what changes parts of weights comes first, how weights are stored last
    for name in sorted(by_pass, key=lambda n: (_turn(passes[n]), n)):
        found = {one.name: one for one in passes[name].layers(copy) if isinstance(one, Layer)}
        treatments = []
        for planned in by_pass[name]:
            if planned.name not in found:
                raise InputError(
                    f"{name} finds no layer {planned.name!r} in the model",
                    advice="make the plan again for this model",
                )
            stage_stats = stats.get(planned.name)
            treatments.append((found[planned.name], planned.stages, stage_stats))
        skipped += apply_treatments(copy, treatments, passes)
    return copy, skipped


def _turn(one: CompressionPass) -> int:
    return 0 if one.partial else 1 if one.replaces == "output" else 2


def describe(plans: Sequence[LayerPlan]) -> str:
    """Such as "quantize-weights on 37 layers, factorize-gemm on 4"."""
    counts: dict[str, int] = {}
    for plan in plans:
        for stage in plan.stages:
            counts[stage.pass_name] = counts.get(stage.pass_name, 0) + 1
    return ", ".join(f"{name} on {count} layers" for name, count in counts.items()) or "keep all"
