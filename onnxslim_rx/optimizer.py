"""One run of `optimize`, phase by phase."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.aids import Losses, helpers, informed, loss_of, rewritten
from onnxslim_rx.calibration import MEMORY_BYTES, Calibration
from onnxslim_rx.dequantization import dequantized, hint, outcome_notes
from onnxslim_rx.errors import BudgetError, InputError
from onnxslim_rx.ir import ModelLike, digest, load
from onnxslim_rx.manager import JournalEntry
from onnxslim_rx.metrics import Metric, load_metric
from onnxslim_rx.native_form import native_target, to_native
from onnxslim_rx.passbase import CompressionPass, LayerStatistics, RewritePass, Skipped
from onnxslim_rx.pipeline import CLEAN, clean
from onnxslim_rx.planner import (
    Choice,
    CostLimits,
    Judge,
    Problem,
    Rounding,
    Trial,
    Unit,
    Verdict,
    apply_plan,
    find_units,
    measure_damages,
    measure_latencies,
    refit,
    solve,
    tune,
    unbeaten,
)
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.preparation import (
    Phased,
    blas_threads,
    compression_passes,
    flops_counter,
    frozen,
    longest,
    metric_name,
    resolve_budget,
    safe_without_data,
    samples,
    size_on_disk,
    statistics,
)
from onnxslim_rx.report import Report
from onnxslim_rx.runtime import Runner, check_onnxruntime, least_onnxruntime
from onnxslim_rx.summary import Facts, make_report, rows_of_plan
from onnxslim_rx.targets import Target, load_target
from onnxslim_rx.verify import compare_runs, generate_inputs
from onnxslim_rx.vocabulary import Allocation, Preset, Verify

__all__ = ["Optimizer", "Outcome"]

_SIMPLIFY_SAMPLES = 2


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
    memory_bytes: int | None
    verify: Verify
    skip: tuple[str, ...]
    only: tuple[str, ...]
    also: tuple[str, ...]
    freeze_weights: bool
    fold_limit: int | None
    allocation: Allocation
    options: Mapping[str, Mapping[str, Any]]
    dequantize: Mapping[str, Any] | None = None
    """Options of the pass that brings back to floating point what comes quantized; None: no."""

    def run(self, plan: Plan | None) -> Outcome:
        """Carry out `plan`, or search for one.

        Raises:
            InputError: see the class; or `plan` was made for another model.
            BudgetError: the promise cannot be kept; its `report` says how far it is missed.
        """
        return _Run(self, plan).outcome()


class _Run(Phased):
    """One run: `prepare`, then `simplify`, `replay` or `search`."""

    def __init__(self, options: Optimizer, plan: Plan | None) -> None:
        known = sorted(registry.all_passes())
        for name in (*options.skip, *options.only, *options.also):
            if name not in known:
                raise InputError(
                    f"there is no pass {name!r}", expected="one of " + ", ".join(known)
                )
        self.options = options
        self.made = compression_passes(options.options)
        self.plan = plan
        self.target = native_target(load_target(options.target), options.skip)
        self.budget = resolve_budget(options.budget, options.preset, plan)
        self.metric: Metric | None = None
        if options.metric is not None:
            self.metric = load_metric(options.metric)
        elif self.budget.max_drop is not None:
            raise InputError(
                "the budget limits the drop of a metric, and there is no metric",
                advice="give metric=, or --metric on the command line",
            )
        super().__init__()
        self.notes: list[str] = []
        self.blind = True
        self.measured: dict[str, dict[str, Any]] = {}
        self.also = tuple(dict.fromkeys((*options.also, *(plan.also if plan else ()))))

    def outcome(self) -> Outcome:
        options, source = self.options, self.options.model
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        with self.phase("load"):
            self.original = frozen(load(source)) if options.freeze_weights else load(source)
        self.size = size_on_disk(self.original, path)
        self.name = path or "a model in memory"
        if options.preset == "safe" and not (self.budget.limits_quality or self.budget.limits_cost):
            return self.simplify()
        with self.phase("load"):
            self.reference = Runner(path if path is not None else self.original)
            self.synthetic = options.calibration is None
            self.parts, note = samples(
                self.original,
                self.reference,
                options.calibration,
                options.seed,
                self.metric,
                proves=self.budget.limits_quality,
            )
            self.notes += [note] if note else []
            # nothing can be confirmed on made-up samples, nor on those that were fitted to
            self.blind = self.synthetic or self.parts.weak
        with self.phase("clean"):
            self.cleaned, journal = self.clean()
        if self.plan is None and not self.blind:
            with self.phase("equalize"):
                journal = self.aided(journal)
                self.informed()
        elif self.plan is not None:
            for name, settled in self.plan.measured.items():
                self.use(name, registry.make(name, settled))
        count = flops_counter(self.parts.select[0])
        self.limits = CostLimits(
            self.original if path is None else path,
            self.size,
            self.budget,
            self.parts.select,
            count,
        )
        self.notes += [self.limits.note] if self.limits.note else []
        self.facts = self.known(journal, count)
        with blas_threads(self.cleaned):
            return self.search() if self.plan is None else self.replay(self.plan)

    def known(
        self, journal: Sequence[JournalEntry], count: Callable[[ir.Model], int | None]
    ) -> Facts:
        """What the report needs of all that is known before the search."""
        return Facts(
            name=self.name,
            original=self.original,
            original_bytes=self.size,
            journal=journal,
            budget=self.budget,
            target=self.target.name,
            seed=self.options.seed,
            metric_name=metric_name(self.options.metric),
            synthetic=self.synthetic,
            timings=self.timings,
            notes=self.notes,
            count_flops=count,
        )

    # -- phases --------------------------------------------------------------------------------

    def clean(self) -> tuple[ir.Model, Sequence[JournalEntry]]:
        how: dict[str, Any] = {
            "verify": self.options.verify,
            "target": self.target,
            "seed": self.options.seed,
            "skip": [name for name in CLEAN if not self.wanted(name)],
            "also": self.also,
            "fold_limit": self.options.fold_limit,
        }
        found = clean(self.original, **how, least_opset=self.least_opset())
        if self.options.dequantize is not None:
            found = dequantized(found, self.options.dequantize, **how)
            self.notes += outcome_notes(self.original, found.journal)
        for entry in found.journal:
            if entry.failure:
                self.tell(f"The pass {entry.name} was undone: {entry.failure}.")
        if found.unverified:
            self.tell(f"Clean-up could not be verified: {found.unverified}.")
        return found.model, found.journal

    def tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def aided(self, journal: Sequence[JournalEntry]) -> Sequence[JournalEntry]:
        """Use the optional passes behind which others are measured to lose less."""
        for name, helped in helpers(self.compression_passes()).items():
            if name in self.also or name in self.options.skip:
                continue
            before, self.also = self.also, (*self.also, name)
            model, entries = self.clean()
            losses = Losses(helped, self.reference, self.parts, self.budget, self.target)
            note = losses.less(self.cleaned, model)
            if note:
                self.cleaned, journal = model, entries
                self.tell(f"The pass {name} was used: {note}.")
            else:
                self.also = before
        return journal

    def informed(self) -> None:
        """The same for what such passes make of the largest values of channels."""
        for name, helped in helpers(self.compression_passes()).items():
            if name in self.options.skip:
                continue
            one = informed(name, self.cleaned, self.parts.calibrate, self.target)
            if one is None:
                continue
            losses = Losses(helped, self.reference, self.parts, self.budget, self.target)
            note = losses.less(self.cleaned, rewritten(one, self.cleaned, self.target))
            if note:
                self.use(name, one)
                self.tell(f"The pass {name} was used with what calibration measured: {note}.")

    def use(self, name: str, one: registry.Pass) -> None:
        """A rewrite with options that calibration settled."""
        if not isinstance(one, RewritePass):
            raise InputError(f"the plan says that {name} is a rewrite", expected="one that is")
        self.cleaned = rewritten(one, self.cleaned, self.target)
        self.measured[name] = {
            field.name: getattr(one, field.name) for field in dataclasses.fields(one)
        }

    def least_opset(self) -> int:
        """The version of the standard operators that the passes in play emit."""
        if self.plan is not None:
            return self.plan.opset
        if self.blind or "raise-opset" in self.options.skip:
            return 0
        return max((one.needs_opset for one in self.compression_passes().values()), default=0)

    def wanted(self, name: str) -> bool:
        options = self.options
        return name not in options.skip and (not options.only or name in options.only)

    def compression_passes(self) -> dict[str, CompressionPass]:
        if self.options.preset == "safe":
            return {}
        return {
            name: self.made.get(name) or one()
            for name, one in sorted(registry.all_passes().items())
            if issubclass(one, CompressionPass) and self.wanted(name)
        }

    def statistics(self, passes: Mapping[str, CompressionPass]) -> Mapping[str, LayerStatistics]:
        with self.phase("calibrate"):
            return statistics(
                self.cleaned,
                passes,
                self.parts.calibrate,
                cache=self.options.cache,
                memory_bytes=self.options.memory_bytes,
                seed=self.options.seed,
                shapes_only=self.blind,
            )

    def units(
        self, passes: Mapping[str, CompressionPass], stats: Mapping[str, LayerStatistics]
    ) -> tuple[list[Unit], list[Skipped]]:
        """Layers with choices, each with its damage and latency."""
        with self.phase("analyse"):
            units, skipped = find_units(self.cleaned, passes, stats, self.target)
            if self.blind:
                for unit in units:
                    unit.choices = [c for c in unit.choices if safe_without_data(c)]
        units = [unit for unit in units if len(unit.choices) > 1]
        if not self.blind:
            with self.phase("tune"):
                loss = functools.partial(loss_of, self.reference, self.parts, self.budget)
                tune(self.cleaned, units, passes, stats, loss)
        # not on the samples that the factors were fitted to
        select, cache = self.parts.select, self.options.cache
        with self.phase("measure latency"):
            measure_latencies(
                units,
                passes,
                self.target,
                model=self.cleaned,
                sample=longest(select),
                cache=cache,
                slower=self.budget.minimize == "bytes" or self.budget.max_bytes is not None,
            )
        fixed = {name for name, one in passes.items() if one.reads_ranges}
        for unit in units:
            unit.choices = unbeaten(unit.choices, fixed)
        with self.phase("measure sensitivity"):
            if units:
                measure_damages(
                    self.cleaned, units, passes, select, self.budget.outputs, cache=cache
                )
        return units, skipped

    # -- three ways to an outcome --------------------------------------------------------------

    def simplify(self) -> Outcome:
        """Clean-up alone: nothing is searched or timed, and the model need not even run here."""
        self.synthetic = True
        with self.phase("clean"):
            model, journal = self.clean()
            model = to_native(model, self.target)
        self.facts = self.known(journal, flops_counter({}))
        self.facts.model = model
        with self.phase("verify"):
            try:
                data = generate_inputs(
                    self.original, samples=_SIMPLIFY_SAMPLES, seed=self.options.seed
                )
                comparison = compare_runs(Runner(self.original), Runner(model), data)
                self.facts.verdict = Verdict(True, "", comparison, 1.0 - comparison.cosine())
            except InputError as error:
                self.notes.append(f"The result could not be compared with the original: {error}.")
        plan = Plan(
            digest(model), self.target.name, self.budget.to_dict(), (), least_onnxruntime(model)
        )
        return Outcome(model, plan, make_report(self.facts, [], [], []))

    def search(self) -> Outcome:
        """Look for the cheapest plan that keeps the promise."""
        self.notes += hint(self.cleaned) if self.options.dequantize is None else []
        passes = self.compression_passes()
        stats = self.statistics(passes)
        units, skipped = self.units(passes, stats)
        problem = Problem(
            cleaned=self.cleaned,
            reference=self.reference,
            units=units,
            passes=passes,
            stats=stats,
            target=self.target,
            budget=self.budget,
            metric=self.metric,
            seed=self.options.seed,
            split=self.parts,
            blind=self.blind,
            limits=self.limits,
            allocation=self.options.allocation,
            refit=None if self.blind else self.refit,
        )
        try:
            with self.phase("search and verify"):
                solved = solve(problem)
        except BudgetError as error:
            if self.budget.limits_cost:
                report = make_report(self.facts, units, skipped, problem.trials)
                report.failure, error.report = error.found, report
                raise
            # leaving the file as it is keeps every promise about quality
            self.notes.append(f"The model is returned as it was: {error.found}.")
            verdict, model = self.judge(self.reference), self.original
            choices: Sequence[Choice] = [u.choices[0] for u in units]
            plan = Plan(digest(self.cleaned), self.target.name, self.budget.to_dict(), ())
        else:
            verdict, model, choices, plan = (
                solved.verdict, solved.model, solved.choices, solved.plan
            )  # fmt: skip
        plan = dataclasses.replace(
            plan,
            min_onnxruntime=least_onnxruntime(model),
            opset=self.least_opset(),
            also=self.also,
            measured=self.measured,
        )
        overridable = sum("also a graph input" in entry.why for entry in skipped)
        if overridable:
            self.notes.append(
                f"{overridable} weights were left alone because the model lists them as inputs, as"
                " old exporters do. If nobody overrides them, freeze_weights (--freeze-weights)"
                " makes them constants."
            )
        self.facts.chosen = dict(zip((u.layer.name for u in units), choices, strict=True))
        report = self.report(model, verdict, units, skipped, problem.trials)
        return Outcome(self.released(model, passes), plan, report)

    def replay(self, plan: Plan) -> Outcome:
        """Carry out a plan that was made before, and check it against the budget."""
        if plan.model_digest != digest(self.cleaned):
            raise InputError(
                "the plan was made for another model, or by another version of the clean-up passes",
                advice="make the plan again for this model",
            )
        check_onnxruntime(plan.min_onnxruntime)
        passes = self.compression_passes()
        stats = self.statistics(passes)
        with self.phase("rewrite"):
            refit = self.refit if plan.refit else None
            model, refused = apply_plan(
                self.cleaned, plan.layers, passes, stats, refit=refit, target=self.target
            )
        with self.phase("verify"):
            verdict = self.judge(Runner(model))
            why = verdict.why or self.limits.broken(model)
        report = self.report(model, verdict, [], refused, [])
        report.layers = rows_of_plan(plan, self.cleaned, model, passes) + report.layers
        if why:
            error = BudgetError(f"the plan does not keep the promise: {why}")
            report.failure, error.report = why, report
            raise error
        return Outcome(self.released(model, passes), plan, report)

    def released(self, model: ir.Model, passes: Mapping[str, CompressionPass]) -> ir.Model:
        """The model as it is handed out."""
        for name in sorted(passes):
            passes[name].release(model)
        return model

    def refit(
        self, model: ir.Model, roundings: Sequence[Rounding]
    ) -> Mapping[str, LayerStatistics]:
        """Fit weights to what the original computes, in place; what now enters layers by name."""
        memory = self.options.memory_bytes or MEMORY_BYTES
        data = self.parts.calibrate
        found = refit(self.cleaned, model, data, roundings=roundings, memory_bytes=memory)
        return {name: stats for one in found for name, stats in one.stats.items()}

    def judge(self, candidate: Runner) -> Verdict:
        """On the samples held back."""
        confirm = self.parts.confirm
        return Judge(self.reference, self.budget, confirm, self.metric, careful=False)(candidate)

    def report(
        self,
        model: ir.Model,
        verdict: Verdict,
        units: Sequence[Unit],
        skipped: Sequence[Skipped],
        trials: Sequence[Trial],
    ) -> Report:
        with self.phase("time"):
            self.facts.timing = self.limits.time(model)
        self.facts.model, self.facts.verdict = model, verdict
        return make_report(self.facts, units, skipped, trials)
