"""From what a run measured to its report."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis import params
from onnxslim_rx.ir import constant, nodes, size_bytes
from onnxslim_rx.manager import JournalEntry
from onnxslim_rx.passbase import CompressionPass, Layer, Skipped
from onnxslim_rx.planner import Choice, Trial, Unit, Verdict
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.report import (
    BeforeAfter,
    Cosine,
    Environment,
    Latency,
    LayerRow,
    MetricRow,
    PassRow,
    Quality,
    Report,
    Rung,
    SpectrumRow,
)
from onnxslim_rx.report.curves import spectrum_row
from onnxslim_rx.runtime import Timing, environment, least_onnxruntime
from onnxslim_rx.spectra import unit_spectrum

__all__ = ["Facts", "make_report", "rows_of_plan"]


@dataclasses.dataclass
class Facts:
    """What a run knows by its end; filled in as it goes.

    Args:
        name: of the model.
        original: the model as it came.
        original_bytes: its size on disk.
        journal: of the clean-up.
        budget, target, seed: as used.
        metric_name: of the user's metric, or "".
        synthetic: whether the samples were made up.
        timings: seconds by phase.
        notes: for the user.
        count_flops: operations of a model at the shapes of the data, or None.
        chosen: choice by layer.
        model: the result.
        verdict: on the samples held back.
        timing: before and after, of one sample.
    """

    name: str
    original: ir.Model
    original_bytes: int
    journal: Sequence[JournalEntry]
    budget: Budget
    target: str
    seed: int
    metric_name: str
    synthetic: bool
    timings: dict[str, float]
    notes: list[str]
    count_flops: Callable[[ir.Model], int | None]
    chosen: dict[str, Choice] = dataclasses.field(default_factory=dict)
    model: ir.Model | None = None
    verdict: Verdict | None = None
    timing: tuple[Timing, Timing] | None = None


def make_report(
    facts: Facts, units: Sequence[Unit], skipped: Sequence[Skipped], trials: Sequence[Trial]
) -> Report:
    """The report of a run; a run that failed has no model, no verdict and no timing."""
    model = facts.model
    found = environment()
    before, after = _operators(facts.original), None if model is None else _operators(model)
    kept_ms = sum(unit.latency_ms for unit in units if not math.isnan(unit.latency_ms))
    return Report(
        model=facts.name,
        params=BeforeAfter(params(facts.original), None if model is None else params(model)),
        bytes=BeforeAfter(facts.original_bytes, None if model is None else size_bytes(model)),
        flops=BeforeAfter(
            facts.count_flops(facts.original), None if model is None else facts.count_flops(model)
        ),
        nodes=BeforeAfter(before.total(), None if after is None else after.total()),
        operators={
            name: BeforeAfter(before[name], None if after is None else after[name])
            for name in sorted(before.keys() | (after or {}).keys())
        },
        quality=_quality(facts),
        latency_ms=_latency(facts.timing),
        layers=[_row(unit, facts.chosen.get(unit.layer.name)) for unit in units]
        + [LayerRow(s.where, s.why.partition(":")[0], skipped=s.why) for s in skipped],
        passes=[_pass_row(entry) for entry in facts.journal],
        ladder=[
            _rung(trial, facts, kept_ms) for trial in sorted(trials, key=lambda trial: -trial.bytes)
        ],
        budget=facts.budget.to_dict(),
        target=facts.target,
        seed=facts.seed,
        notes=list(facts.notes),
        timings=dict(facts.timings),
        environment=Environment(
            versions={k: v for k, v in found.items() if k not in ("cpu", "cores", "system")},
            device=f"{found['cpu']}, {found['cores']} cores, {found['system']}",
            min_onnxruntime="" if model is None else least_onnxruntime(model),
            threads=None,
        ),
    )


def rows_of_plan(
    plan: Plan, cleaned: ir.Model, model: ir.Model, passes: Mapping[str, CompressionPass]
) -> list[LayerRow]:
    """The layers of a plan that was replayed: what was done, without measurements."""
    found: dict[str, Layer] = {}
    for one in passes.values():
        found |= {layer.name: layer for layer in one.layers(cleaned) if isinstance(layer, Layer)}
    known = set(cleaned.graph.initializers)
    rows = []
    for entry in plan.layers:
        layer = found.get(entry.name)
        tensor = constant(layer.weight) if layer is not None else None
        rows.append(
            LayerRow(
                name=entry.name,
                op=layer.op if layer is not None else "",
                stages=[str(stage) for stage in entry.stages],
                why="as the plan says",
                error=entry.error,
                damage=entry.damage,
                params_before=tensor.size if tensor is not None else None,
                bytes_before=tensor.nbytes if tensor is not None else None,
                bytes_after=_bytes_of(entry.name, model, known)
                or (tensor.nbytes if tensor is not None else None),
            )
        )
    return rows


def _bytes_of(layer: str, model: ir.Model, known: set[str]) -> int:
    """Bytes of the initializers that passes made for a layer: their names begin with its own."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if name.startswith(f"{layer}.") and name not in known and value.const_value is not None
    )


def _operators(model: ir.Model) -> Counter[str]:
    """Nodes of all graphs and functions by operator; a Constant is data, not a node."""
    found = (node for node in nodes(model) if node.op_type != "Constant")
    return Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in found)


def _latency(timing: tuple[Timing, Timing] | None) -> Latency:
    """The ratio is the median over rounds, which drift cannot bend; `after` follows from it."""
    if timing is None:
        return Latency()
    before, after = timing
    return Latency(before.median_ms, before.median_ms * after.ratio, after.ratio)


def _quality(facts: Facts) -> Quality:
    verdict = facts.verdict
    if verdict is None:
        return Quality(split="synthetic" if facts.synthetic else "confirm")
    comparison, outputs = verdict.comparison, facts.budget.outputs
    metric = None
    if verdict.metric is not None and verdict.drop is not None:
        after, before = (score.value for score in verdict.metric)
        gain = (-verdict.drop.high, -verdict.drop.low)
        metric = MetricRow(facts.metric_name, before, after, () if math.isnan(gain[0]) else gain)
    return Quality(
        cosine=Cosine(
            mean=comparison.cosine("mean", outputs),
            p5=comparison.cosine("p5", outputs),
            min=comparison.cosine("min", outputs),
        ),
        snr_db=comparison.snr(outputs),
        max_abs=comparison.max_abs,
        max_rel=comparison.max_rel,
        metric=metric,
        outputs=[output.to_dict() for output in comparison.outputs],
        samples=comparison.samples,
        split="synthetic" if facts.synthetic else "confirm",
    )


def _row(unit: Unit, choice: Choice | None) -> LayerRow:
    keep = unit.choices[0]
    chosen = choice or keep
    measured = not math.isnan(unit.latency_ms)
    return LayerRow(
        name=unit.layer.name,
        op=unit.layer.op,
        stages=[str(stage) for stage in chosen.stages],
        why=_why(unit, chosen),
        error=chosen.error,
        damage=chosen.damage,
        params_before=keep.flops // 2,
        params_after=chosen.flops // 2,
        bytes_before=keep.bytes,
        bytes_after=chosen.bytes,
        latency_before_ms=unit.latency_ms if measured else None,
        latency_after_ms=unit.latency_ms * chosen.relative_latency if measured else None,
        spectrum=_spectrum(unit, chosen),
    )


def _spectrum(unit: Unit, chosen: Choice) -> SpectrumRow | None:
    """The spectrum of what is cut to a rank; None of all else, and of very large matrices."""
    ranks = [stage.options["rank"] for stage in chosen.stages if "rank" in stage.options]
    spectrum = unit_spectrum(unit.layer, unit.stats) if ranks else None
    if spectrum is None:
        return None
    rank = int(ranks[0])
    return spectrum_row(spectrum, rank if rank <= min(spectrum.shape) else None)


def _why(unit: Unit, chosen: Choice) -> str:
    others = [c for c in unit.choices if c.stages]
    if not chosen.stages:
        if not others:
            return "no candidate is smaller without being slower"
        least = min(others, key=lambda c: c.damage)
        return f"the mildest of {len(others)} candidates costs {least.damage:.1e} of the cosine"
    keep = unit.choices[0]
    saved = 1.0 - chosen.bytes / keep.bytes
    time = (
        f", {1.0 - chosen.relative_latency:.0%} of its time"
        if (chosen.relative_latency < 1.0)
        else ""
    )
    return f"saves {saved:.0%} of its bytes{time} for {chosen.damage:.1e} of the cosine"


def _pass_row(entry: JournalEntry) -> PassRow:
    return PassRow(
        name=entry.name,
        seconds=entry.seconds,
        cpu_seconds=entry.cpu_seconds,
        calls=entry.calls,
        nodes_before=entry.nodes_before,
        nodes_after=entry.nodes_after,
        changed=entry.changed,
        rewritten=entry.rewritten,
        skipped=dict(Counter(skipped.why for skipped in entry.skipped)),
    )


def _rung(trial: Trial, facts: Facts, kept_ms: float) -> Rung:
    """One plan; `kept_ms` is what all layers take that it may treat, as they are."""
    verdict = trial.verdict
    predicted = None if trial.predicted is None else max(1.0 - trial.predicted, -1.0)
    milliseconds = None
    if facts.timing is not None and trial.predicted_ms is not None:
        milliseconds = max(facts.timing[0].median_ms - kept_ms + trial.predicted_ms, 0.0)
    cosine = predicted
    if verdict is not None:
        cosine = verdict.comparison.cosine("mean", facts.budget.outputs)
    return Rung(
        name=trial.name,
        bytes=trial.bytes,
        cosine=cosine,
        metric=verdict.metric[0].value if verdict is not None and verdict.metric else None,
        chosen=trial.chosen,
        passed=trial.passed,
        why=trial.why,
        predicted=predicted,
        predicted_ms=milliseconds,
    )
