"""One run of `optimize`, phase by phase."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common
from threadpoolctl import threadpool_limits

from onnxslim_rx import registry
from onnxslim_rx.analysis import flops
from onnxslim_rx.calibration import Calibration, Split, collect, load_data, split
from onnxslim_rx.errors import BudgetError, InputError
from onnxslim_rx.ir import ModelLike, clone, digest, load, size_bytes
from onnxslim_rx.manager import JournalEntry
from onnxslim_rx.metrics import Metric, load_metric
from onnxslim_rx.passbase import CompressionPass, LayerStatistics, Skipped
from onnxslim_rx.pipeline import CLEAN, clean
from onnxslim_rx.planner import (
    Choice,
    CostLimits,
    Judge,
    Problem,
    Trial,
    Unit,
    Verdict,
    apply_plan,
    find_units,
    measure_damages,
    measure_latencies,
    solve,
)
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.report import Report
from onnxslim_rx.runtime import Runner, least_onnxruntime
from onnxslim_rx.summary import Facts, make_report, rows_of_plan
from onnxslim_rx.targets import Target, load_target
from onnxslim_rx.verify import generate_inputs
from onnxslim_rx.vocabulary import Minimize, Preset, Verify

__all__ = ["Optimizer", "Outcome"]

# As many made-up samples as a quick run affords: they prove little however many there are.
_SYNTHETIC_SAMPLES = 16
# Without data a rank may only be cut where hardly anything is lost.
_BLIND_ERROR = 0.02
_THREADED_SIDE = 1024


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run made: the model in memory, the plan, the report."""

    model: ir.Model
    plan: Plan
    report: Report


@dataclasses.dataclass
class Optimizer:
    """A run of `optimize`; arguments as there.

    Raises:
        InputError: an option, the model, or the data cannot be used.
    """

    model: ModelLike
    budget: Budget | None
    calibration: Calibration | None
    metric: str | Callable[..., float] | None
    target: str | Target
    preset: Preset | None
    seed: int
    cache: Path | None
    verify: Verify
    skip: tuple[str, ...]
    only: tuple[str, ...]
    freeze_weights: bool

    def run(self, plan: Plan | None) -> Outcome:
        """Carry out `plan`, or search for one.

        Raises:
            InputError: see the class; or `plan` was made for another model.
            BudgetError: the promise cannot be kept; its `report` says how far it is missed.
        """
        return _Run(self, plan).outcome()


class _Run:
    """The state that the phases share."""

    def __init__(self, options: Optimizer, plan: Plan | None) -> None:
        known = sorted(registry.all_passes())
        for name in (*options.skip, *options.only):
            if name not in known:
                raise InputError(
                    f"there is no pass {name!r}", expected="one of " + ", ".join(known)
                )
        self.options = options
        self.plan = plan
        self.target = load_target(options.target)
        self.budget = _budget(options, plan)
        self.metric: Metric | None = None
        if options.metric is not None:
            self.metric = load_metric(options.metric)
        elif self.budget.max_drop is not None:
            raise InputError(
                "the budget limits the drop of a metric, and there is no metric",
                advice="give metric=, or --metric on the command line",
            )
        self.timings: dict[str, float] = {}
        self.notes: list[str] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begin

    def outcome(self) -> Outcome:
        options = self.options
        with self.phase("load"):
            original = load(options.model)
            if options.freeze_weights:
                original = _frozen(original)
            source = options.model
            path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
            reference = Runner(path if path is not None else original)
            size = _size(original, path)
            parts, synthetic = self.data(original, reference)
        with self.phase("clean"):
            cleaned, journal = self.clean(original)
        limits = CostLimits(
            original if path is None else path, size, self.budget, parts.select, _count_flops(parts)
        )
        facts = Facts(
            name=path or "a model in memory",
            original=original,
            original_bytes=size,
            journal=journal,
            budget=self.budget,
            target=self.target.name,
            seed=options.seed,
            metric_name=_metric_name(options.metric),
            synthetic=synthetic,
            timings=self.timings,
            notes=self.notes,
            count_flops=_count_flops(parts),
        )
        with _blas_threads(cleaned):
            if self.plan is not None:
                return self.replay(self.plan, cleaned, reference, parts, limits, facts)
            return self.search(original, cleaned, reference, parts, synthetic, limits, facts)

    # -- phases --------------------------------------------------------------------------------

    def data(self, original: ir.Model, reference: Runner) -> tuple[Split, bool]:
        """The user's samples in three parts, or made-up ones."""
        options = self.options
        if options.calibration is not None:
            parts = split(load_data(options.calibration, reference.inputs), options.seed)
            if parts.weak:
                self.notes.append(parts.reason[0].upper() + parts.reason[1:] + ".")
            return parts, False
        if self.metric is not None:
            raise InputError(
                "a metric needs data, and there is none", advice="give calibration data with labels"
            )
        made = generate_inputs(original, samples=_SYNTHETIC_SAMPLES, seed=options.seed)
        if options.preset != "safe":
            self.notes.append(
                "No calibration data: made-up inputs were used, estimates are weaker, and only a"
                " part of the budget was spent. Give --calibration for more."
            )
        return split(made, options.seed), True

    def clean(self, original: ir.Model) -> tuple[ir.Model, Sequence[JournalEntry]]:
        found = clean(
            original,
            verify=self.options.verify,
            target=self.target,
            seed=self.options.seed,
            skip=[name for name in CLEAN if not self.wanted(name)],
        )
        for entry in found.journal:
            if entry.failure:
                self.notes.append(f"The pass {entry.name} was undone: {entry.failure}.")
        if found.unverified:
            self.notes.append(f"Clean-up could not be verified alone: {found.unverified}.")
        return found.model, found.journal

    def wanted(self, name: str) -> bool:
        options = self.options
        return name not in options.skip and (not options.only or name in options.only)

    def compression_passes(self) -> dict[str, CompressionPass]:
        if self.options.preset == "safe":
            return {}
        return {
            name: one()
            for name, one in sorted(registry.all_passes().items())
            if issubclass(one, CompressionPass) and self.wanted(name)
        }

    def units(
        self,
        cleaned: ir.Model,
        parts: Split,
        synthetic: bool,
        passes: Mapping[str, CompressionPass],
    ) -> tuple[list[Unit], list[Skipped], Mapping[str, LayerStatistics]]:
        """Layers with choices, each with its damage and latency."""
        with self.phase("calibrate"):
            stats = self.statistics(cleaned, parts, synthetic, passes)
        with self.phase("analyse"):
            units, skipped = find_units(cleaned, passes, stats, self.target)
            if synthetic:
                for unit in units:
                    unit.choices = [c for c in unit.choices if _safe_without_data(c)]
        units = [unit for unit in units if len(unit.choices) > 1]
        with self.phase("measure latency"):
            measure_latencies(units, passes, self.target)
        with self.phase("measure sensitivity"):
            if units:
                # not on the samples that the factors were fitted to
                measure_damages(cleaned, units, passes, parts.select, self.budget.outputs)
        return units, skipped, stats

    def statistics(
        self,
        cleaned: ir.Model,
        parts: Split,
        synthetic: bool,
        passes: Mapping[str, CompressionPass],
    ) -> Mapping[str, LayerStatistics]:
        layers = {
            layer.name: layer
            for one in passes.values()
            for layer in one.layers(cleaned)
            if not isinstance(layer, Skipped)
        }
        if not layers:
            return {}
        found = collect(
            cleaned,
            list(layers.values()),
            parts.calibrate,
            cache=self.options.cache,
            seed=self.options.seed,
        )
        if not synthetic:
            return found
        # shapes of made-up inputs are right, their directions are not
        return {
            name: dataclasses.replace(found[name], gram=None, counts=None, sample=None)
            for name in found
        }

    def search(
        self,
        original: ir.Model,
        cleaned: ir.Model,
        reference: Runner,
        parts: Split,
        synthetic: bool,
        limits: CostLimits,
        facts: Facts,
    ) -> Outcome:
        passes = self.compression_passes()
        units, skipped, stats = self.units(cleaned, parts, synthetic, passes)
        problem = Problem(
            cleaned=cleaned,
            reference=reference,
            units=units,
            passes=passes,
            stats=stats,
            target=self.target,
            budget=self.budget,
            metric=self.metric,
            seed=self.options.seed,
            split=parts,
            synthetic=synthetic,
            limits=limits,
        )
        try:
            with self.phase("search and verify"):
                solved = solve(problem)
        except BudgetError as error:
            if self.budget.limits_cost:
                report = make_report(facts, units, skipped, problem.trials)
                report.failure, error.report = error.found, report
                raise
            # leaving the file as it is keeps every promise about quality
            self.notes.append(f"The model is returned as it was: {error.found}.")
            judge = Judge(reference, self.budget, parts.confirm, self.metric, careful=False)
            verdict, model = judge(reference), original
            choices: Sequence[Choice] = [u.choices[0] for u in units]
            plan = Plan(digest(cleaned), self.target.name, self.budget.to_dict(), ())
        else:
            verdict, model, choices, plan = (
                solved.verdict, solved.model, solved.choices, solved.plan
            )  # fmt: skip
        plan = dataclasses.replace(plan, min_onnxruntime=least_onnxruntime(model))
        overridable = sum("also a graph input" in entry.why for entry in skipped)
        if overridable:
            self.notes.append(
                f"{overridable} weights were left alone because the model lists them as inputs, as"
                " old exporters do. If nobody overrides them, freeze_weights (--freeze-weights)"
                " makes them constants."
            )
        facts.chosen = dict(zip((u.layer.name for u in units), choices, strict=True))
        report = self.report(model, facts, units, skipped, problem.trials, verdict, limits)
        return Outcome(model, plan, report)

    def replay(
        self,
        plan: Plan,
        cleaned: ir.Model,
        reference: Runner,
        parts: Split,
        limits: CostLimits,
        facts: Facts,
    ) -> Outcome:
        """Carry out a plan that was made before, and check it against the budget."""
        if plan.model_digest != digest(cleaned):
            raise InputError(
                "the plan was made for another model, or by another version of the clean-up passes",
                advice="make the plan again for this model",
            )
        passes = self.compression_passes()
        with self.phase("calibrate"):
            stats = self.statistics(cleaned, parts, facts.synthetic, passes)
        with self.phase("rewrite"):
            model, refused = apply_plan(cleaned, plan.layers, passes, stats)
        with self.phase("verify"):
            judge = Judge(reference, self.budget, parts.confirm, self.metric, careful=False)
            verdict = judge(Runner(model))
            why = verdict.why or limits.broken(model)
        report = self.report(model, facts, [], refused, [], verdict, limits)
        report.layers = rows_of_plan(plan, cleaned, model, passes) + report.layers
        if why:
            error = BudgetError(f"the plan does not keep the promise: {why}")
            report.failure = why
            error.report = report
            raise error
        return Outcome(model, plan, report)

    def report(
        self,
        model: ir.Model,
        facts: Facts,
        units: Sequence[Unit],
        skipped: Sequence[Skipped],
        trials: Sequence[Trial],
        verdict: Verdict,
        limits: CostLimits,
    ) -> Report:
        with self.phase("time"):
            facts.timing = limits.time(model)
        facts.model, facts.verdict = model, verdict
        return make_report(facts, units, skipped, trials)


def _budget(options: Optimizer, plan: Plan | None) -> Budget:
    budget = options.budget
    if budget is None and plan is not None:
        fields = dict(plan.budget)
        if "outputs" in fields:
            fields["outputs"] = tuple(fields["outputs"])
        try:
            budget = Budget(**fields)
        except TypeError as error:
            raise InputError(f"the budget of the plan is not known: {error}") from error
    if budget is None:
        budget = Budget()
    # clean-up alone promises more than a cosine: the same outputs up to rounding
    if not (budget.limits_quality or budget.limits_cost or options.preset == "safe"):
        budget = dataclasses.replace(budget, min_cosine=0.99)
    aims: dict[Preset | None, Minimize] = {"small": "bytes", "fast": "latency"}
    return dataclasses.replace(budget, minimize=aims.get(options.preset, budget.minimize))


def _blas_threads(model: ir.Model) -> contextlib.AbstractContextManager[object]:
    """One thread for the linear algebra of small layers.

    Threads that wait for each other made an eigen-decomposition of 384 x 384 four times as dear
    (measured, 2 cores); above the size given here they pay.
    """
    sides = [
        min(value.shape.numpy()[-2:])
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.shape is not None and len(value.shape) > 1 and value.shape.is_static()
    ]
    if max(sides, default=0) > _THREADED_SIDE:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def _frozen(model: ir.Model) -> ir.Model:
    """A copy whose initializers are no inputs: nobody can override them any more."""
    copy = clone(model)
    common.RemoveInitializersFromInputsPass()(copy)
    # before version 4 of the format, every initializer had to be listed as an input
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def _safe_without_data(choice: Choice) -> bool:
    factorized = any(stage.pass_name == "factorize-gemm" for stage in choice.stages)
    return not factorized or choice.error <= _BLIND_ERROR


def _size(original: ir.Model, path: str | None) -> int:
    """Bytes of the user's file where its weights are inside, of the model as we save it else."""
    computed = size_bytes(original)
    on_disk = Path(path).stat().st_size if path is not None else computed
    # a file whose weights lie beside it is far smaller than the model
    return on_disk if on_disk >= computed // 2 else computed


def _count_flops(parts: Split) -> Callable[[ir.Model], int | None]:
    sample = parts.select[0]
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in sample.items()}

    def count(model: ir.Model) -> int | None:
        inputs = {value.name for value in model.graph.inputs}
        try:
            known = {name: shape for name, shape in shapes.items() if name in inputs}
            return flops(model, known).flops
        except InputError:
            return None

    return count


def _metric_name(metric: str | Callable[..., float] | None) -> str:
    if metric is None or isinstance(metric, str):
        return metric or ""
    return getattr(metric, "__name__", type(metric).__name__)
