"""Plans become models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone
from onnxslim_rx.native_form import to_native
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Skipped
from onnxslim_rx.planner.fit.rounding import Rounding
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.stages import Treatment, apply_treatments, finish
from onnxslim_rx.targets import Target

__all__ = ["Refit", "apply_plan", "describe"]

Refit = Callable[[ir.Model, Sequence[Rounding]], Mapping[str, LayerStatistics]]
"""Fits weights, in place; returns what now enters layers whose weights are to be rounded."""

_PARTS, _FORMS, _STORED = range(3)


def apply_plan(
    model: ir.Model,
    layers: Iterable[LayerPlan],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
    *,
    refit: Refit | None = None,
    target: Target | None = None,
) -> tuple[ir.Model, list[Skipped]]:
    """A copy of `model` with the plan of each layer carried out, and what passes refused.

    Args:
        model: not changed.
        layers: what is done to each layer.
        passes: compression passes by name.
        stats: by name of the layer.
        refit: given the copy when all layers have their new form and no weight is rounded yet, and
            how weights will be rounded; what it returns takes the place of `stats`.
        target: one that has operators of our domain gets them.

    Raises:
        InputError: the plan names a pass or a layer that there is not.
    """
    copy = clone(model)
    turns: dict[int, list[LayerPlan]] = {}
    for planned in layers:
        for stage in planned.stages:
            if stage.pass_name not in passes:
                raise InputError(
                    f"the plan names the pass {stage.pass_name!r}",
                    expected="one of " + ", ".join(sorted(passes)),
                )
        if planned.stages:
            turns.setdefault(_turn(passes[planned.stages[0].pass_name]), []).append(planned)
    known = dict(stats)

    def fit() -> None:
        if refit is not None:
            roundings = _roundings(copy, turns.get(_STORED, ()), passes, stats, model)
            known.update(refit(copy, roundings))

    skipped: list[Skipped] = []
    # what changes parts of weights comes first, how weights are stored last
    for turn in (_PARTS, _FORMS, _STORED):
        treatments, gone = _treatments(copy, turns.get(turn, ()), passes, known, model)
        skipped += gone
        between = fit if turn == _FORMS and treatments else None
        skipped += apply_treatments(copy, treatments, passes, between=between)
        if turn == _FORMS and not treatments:
            fit()
    finish(copy, [one.stages for planned in turns.values() for one in planned], passes)
    return to_native(copy, target, folded=False), skipped


def _roundings(
    model: ir.Model,
    layers: Iterable[LayerPlan],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
    original: ir.Model,
) -> list[Rounding]:
    """How weights of `model` will be rounded, as they are now."""
    return [
        Rounding(layer, stages[0], passes[stages[0].pass_name], known)
        for layer, stages, known in _treatments(model, layers, passes, stats, original)[0]
        if layer.weight.is_initializer() and len(layer.weights) == 1
    ]


def _treatments(
    model: ir.Model,
    layers: Iterable[LayerPlan],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
    original: ir.Model,
) -> tuple[list[Treatment], list[Skipped]]:
    """The layers of `model` that plans name, as they are now, and those that are gone.

    Raises:
        InputError: the original has no such layer.
    """
    found: dict[str, dict[str, Layer]] = {}
    treatments: list[Treatment] = []
    gone: list[Skipped] = []
    for planned in layers:
        first = planned.stages[0].pass_name
        if first not in found:
            found[first] = _by_name(passes[first], model)
        layer = found[first].get(planned.name)
        if layer is not None:
            treatments.append((layer, planned.stages, stats.get(planned.name)))
        elif planned.name in _by_name(passes[first], original):
            why = f"what other treatments left of it is nothing for {first}"
            gone.append(Skipped(planned.name, why))
        else:
            raise InputError(
                f"{first} finds no layer {planned.name!r} in the model",
                advice="make the plan again for this model",
            )
    return treatments, gone


def _by_name(one: CompressionPass, model: ir.Model) -> dict[str, Layer]:
    return {layer.name: layer for layer in one.layers(model) if isinstance(layer, Layer)}


def _turn(one: CompressionPass) -> int:
    return _PARTS if one.partial else _FORMS if one.replaces == "output" else _STORED


def describe(plans: Sequence[LayerPlan]) -> str:
    """Such as "quantize-weights on 37 layers, factorize-gemm on 4"."""
    counts: dict[str, int] = {}
    for plan in plans:
        for stage in plan.stages:
            counts[stage.pass_name] = counts.get(stage.pass_name, 0) + 1
    return ", ".join(f"{name} on {count} layers" for name, count in counts.items()) or "keep all"
