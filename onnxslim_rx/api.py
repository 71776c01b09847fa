"""The spine: load, clean, analyse, calibrate, plan, rewrite, verify, report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxslim_rx import analysis
from onnxslim_rx.analysis import Inspection
from onnxslim_rx.benchmark import Benchmark, measure
from onnxslim_rx.calibration import Calibration, load_data
from onnxslim_rx.calibration.collect import MEMORY_BYTES
from onnxslim_rx.datafree import Quantizer
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import ModelLike, kind_of, load, save, to_kind
from onnxslim_rx.metrics import load_metric
from onnxslim_rx.optimizer import Optimizer, Outcome
from onnxslim_rx.pipeline import clean
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.preparation import frozen
from onnxslim_rx.progress import listen
from onnxslim_rx.report import Report
from onnxslim_rx.report.listener import progress_listener
from onnxslim_rx.runtime import Runner
from onnxslim_rx.spectra import model_spectra
from onnxslim_rx.targets import Target
from onnxslim_rx.verify import Comparison, compare_runs, generate_inputs
from onnxslim_rx.vocabulary import Allocation, FloatType, Preset, Rounding, Verify, WeightForm

__all__ = [
    "Result",
    "bench",
    "compare",
    "dequantize",
    "inspect",
    "optimize",
    "plan",
    "quantize",
    "simplify",
]

PathLike = str | os.PathLike[str]
MetricLike = str | Callable[..., float]


@dataclasses.dataclass(frozen=True)
class Result:
    """What `optimize`, `quantize` or `dequantize` made.

    Args:
        model: of the same kind as the input (for a path, an `onnx_ir.Model`).
        plan: what was done to each layer; `optimize(model, plan=...)` does it again.
        report: everything measured.
    """

    model: Any
    plan: Plan
    report: Report
    _model: ir.Model = dataclasses.field(repr=False)
    _source: Path | None = dataclasses.field(default=None, repr=False)

    def save(self, path: PathLike) -> None:
        """Write the model, completely or not at all; never over the input.

        Raises:
            InputError: the path cannot be written, or is the input.
        """
        save(self._model, path, protect=[self._source] if self._source else [])
        self.report.output = os.fspath(path)


def optimize(
    model: ModelLike,
    *,
    budget: Budget | None = None,
    calibration: Calibration | None = None,
    metric: MetricLike | None = None,
    target: str | Target = "ort-cpu",
    plan: Plan | PathLike | None = None,
    preset: Preset | None = None,
    seed: int = 0,
    progress: bool = True,
    cache: PathLike | None = None,
    memory_bytes: int | None = None,
    verify: Verify = "end",
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    also: Sequence[str] = (),
    freeze_weights: bool = False,
    fold_limit: int | None = None,
    allocation: Allocation = "program",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    requantize: bool = False,
) -> Result:
    """Make a model as small and fast as the budget allows.

    Args:
        model: a path, ModelProto, onnx_ir.Model or onnx-graphsurgeon Graph; never changed.
        budget: what must hold; None: `Budget(min_cosine=0.99)`.
        calibration: samples of inputs (see `calibration.load_data`); None: made-up ones, which
            prove less, so that less is risked on them.
        metric: `metric(run, data) -> float`, higher is better, or a name (see `metrics`).
        target: device profile, by name or path.
        plan: carry out this plan instead of searching.
        preset: "safe" (clean-up alone), "balanced" (the default), "small" (bytes first) or
            "fast" (latency alone).
        seed: of everything random.
        progress: show bars on a terminal.
        cache: folder for statistics, so that a second run need not measure them again, and one
            that was killed goes on; they take at most 20 GiB.
        memory_bytes: what the measurements of calibration and the weights of one block may take in
            memory, beside one sample's activations; the less, the oftener blocks run. None: 1 GiB.
        verify: check clean-up passes at the "end", after "each", or not (None).
        skip: names of passes to leave out.
        only: names of passes to use; none: all.
        also: names of optional passes to use as well: they need operators of com.microsoft or a
            newer opset (`onnxslim-rx passes` lists them).
        freeze_weights: weights that the model also lists as inputs, as old exporters do, become
            constants that callers can no longer override.
        fold_limit: bytes by which folding constants may make the file grow; None: 1 MiB, and
            64 KiB for each.
        allocation: how ranks and bits are spread over the layers: "program" (the best that the
            measurements allow), or for comparison "lagrangian", "greedy" or "uniform".
        options: options of compression passes by the name of the pass, such as
            `{"factorize-conv": {"method": "cp"}}`; all others are at their defaults.
        requantize: what comes quantized is brought back to floating point (see `dequantize`) and
            planned anew. The budget is held against the model as it came, and a result that is
            larger or slower than that is not given.

    Returns:
        The result; nothing is written until `Result.save`.

    Raises:
        InputError: the model, data, plan or an option cannot be used.
        BudgetError: no plan keeps the promise.
    """
    with _showing(progress):
        outcome = _optimizer(
            model, budget, calibration, metric, target, preset, seed, cache, memory_bytes,
            verify, skip, only, also, freeze_weights, fold_limit, allocation, options,
            _dequantize(requantize, preset),
        ).run(_read_plan(plan))  # fmt: skip
    return _result(model, outcome)


def plan(
    model: ModelLike,
    *,
    budget: Budget | None = None,
    calibration: Calibration | None = None,
    metric: MetricLike | None = None,
    target: str | Target = "ort-cpu",
    preset: Preset | None = None,
    seed: int = 0,
    progress: bool = True,
    cache: PathLike | None = None,
    memory_bytes: int | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    also: Sequence[str] = (),
    freeze_weights: bool = False,
    fold_limit: int | None = None,
    allocation: Allocation = "program",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    requantize: bool = False,
) -> Plan:
    """Decide what `optimize` would do; arguments and errors are the same."""
    with _showing(progress):
        outcome: Outcome = _optimizer(
            model, budget, calibration, metric, target, preset, seed, cache, memory_bytes,
            "end", skip, only, also, freeze_weights, fold_limit, allocation, options,
            _dequantize(requantize, preset),
        ).run(None)  # fmt: skip
    return outcome.plan


def simplify(
    model: ModelLike,
    *,
    verify: Verify = None,
    progress: bool = True,
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    freeze_weights: bool = False,
    fold_limit: int | None = None,
) -> ModelLike:
    """Clean a model up without changing what it computes, up to rounding.

    Args:
        model: see `optimize`; never changed.
        verify: compare outputs at the "end", after "each" pass, or not (None). Each rewrite is
            exact by construction; verification runs the model in ONNX Runtime, which takes
            several times the time and memory of the rewrites.
        progress: show bars on a terminal.
        skip: names of passes to leave out.
        also: see `optimize`.
        freeze_weights: see `optimize`.
        fold_limit: see `optimize`.

    Returns:
        A new model of the same kind; for a path, an `onnx_ir.Model`. A pass that fails, or fails
        its verification, is undone, and the others stay.

    Raises:
        InputError: the model or an option cannot be used.
    """

    def source() -> ir.Model:
        return frozen(load(model)) if freeze_weights else load(model)

    with _showing(progress):
        found = clean(
            source(),
            verify=verify,
            skip=skip,
            also=also,
            fold_limit=fold_limit,
            again=source,
        )
        return to_kind(found.model, kind_of(model))


def quantize(
    model: ModelLike,
    output: PathLike | None = None,
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    method: Rounding = "clip",
    embedding_bits: int | None = None,
    form: WeightForm | None = None,
    target: str | Target = "ort-cpu",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    cache: PathLike | None = None,
    progress: bool = True,
) -> Result:
    """Store the weights of a model in a few bits, without data and without a search.

    For models that are too large to be calibrated: one weight is in memory at a time, the others
    stay in their files. Nothing is promised of the outputs; `optimize` measures what it risks.

    Args:
        model: see `optimize`.
        output: where to write the result; None: nowhere, see `Result.save`.
        bits: of a weight's entries, 2, 4 or 8. Convolutions and whatever else is not computed in
            blocks get INT8 with one scale a channel, and so do embeddings with a row that would
            lose too much.
        group: neighbours that share a scale, 16 to 256; 0: a whole row.
        symmetric: zero lies in the middle of the integers; otherwise each group has a zero point.
        method: "nearest", "clip" (the range with the least squared error) or "hqq" (half-quadratic
            quantization, Badri & Shaji, 2023: as good on trained weights, and slower).
        embedding_bits: of embeddings; None: as `bits`.
        form: "nbits" (MatMulNBits of com.microsoft) or "dequantize-linear" (ai.onnx, from opset 21
            on); None: as the target allows.
        target: see `optimize`.
        only: patterns such as "*.mlp.*" of the names of weights to quantize; none: all.
        skip: patterns of the names of weights to leave as they are.
        also: see `optimize`.
        cache: folder for finished weights, so that a run that was killed goes on; they take at most
            20 GiB.
        progress: show bars on a terminal.

    Returns:
        The model, cleaned up and quantized; its plan; and the error of each weight.

    Raises:
        InputError: the model, an option, the output or the cache cannot be used, or a pattern fits
            no weight.
    """
    with _showing(progress):
        outcome = Quantizer(
            model=model,
            bits=bits,
            group=group,
            symmetric=symmetric,
            method=method,
            embedding_bits=embedding_bits,
            form=form,
            target=target,
            only=tuple(only),
            skip=tuple(skip),
            also=tuple(also),
            cache=None if cache is None else Path(cache),
        ).run()
        result = _result(model, outcome)
        if output is not None:
            result.save(output)
    return result


def dequantize(
    model: ModelLike,
    *,
    dtype: FloatType = "float32",
    keep_activations: bool = False,
    verify: Verify = "end",
    progress: bool = True,
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    freeze_weights: bool = False,
    fold_limit: int | None = None,
) -> Result:
    """Bring a quantized model back to floating point, cleaned up.

    Weights become the numbers that their integers stand for. What quantization lost is not
    recovered, but activations are no longer rounded.

    Args:
        model: see `optimize`.
        dtype: how weights are stored; "float16" halves the file where 16 bits hold them with an
            error below 0.1%, and costs no time where the runtime folds constants at load.
        keep_activations: bring back weights alone; activations are rounded as before.
        verify: see `simplify`; the clean-up before and behind is verified, the result compared.
        progress: show bars on a terminal.
        skip: names of passes of the clean-up to leave out.
        also: see `optimize`.
        freeze_weights: see `optimize`.
        fold_limit: see `optimize`.

    Returns:
        The model; the report says how close its outputs are to those before.

    Raises:
        InputError: the model or an option cannot be used.
    """
    with _showing(progress):
        outcome = _optimizer(
            model, None, None, None, "ort-cpu", "safe", 0, None, None,
            verify, skip, (), also, freeze_weights, fold_limit, "program", None,
            {"dtype": dtype, "keep_activations": keep_activations},
        ).run(None)  # fmt: skip
    return _result(model, outcome)


def compare(a: ModelLike, b: ModelLike, inputs: Calibration | None = None) -> Comparison:
    """How close the outputs of `b` are to those of `a`.

    Args:
        a: the reference.
        b: the candidate.
        inputs: samples to run both on; None: made-up ones.

    Raises:
        InputError: a model or the samples cannot be used.
    """
    reference = load(a)
    runner = Runner(reference)
    if inputs is not None:
        data = load_data(inputs, runner.inputs, runner)
    else:
        data = generate_inputs(reference)
    return compare_runs(runner, Runner(load(b)), data)


def inspect(
    model: ModelLike,
    calibration: Calibration | None = None,
    *,
    spectra: bool = False,
    memory_bytes: int | None = None,
) -> Inspection:
    """Parameters, multiply-adds and bytes of each layer, and what can be compressed or why not.

    Args:
        model: see `optimize`.
        calibration: samples whose shapes stand for the symbolic ones; None: 1 for batches, 128
            for all other symbolic dimensions.
        spectra: also the singular-value spectrum of each compressible weight, and with
            `calibration` the one under what enters the layer; see `analysis.Spectrum`.
        memory_bytes: see `optimize`.

    Raises:
        InputError: the model or the samples cannot be used.
    """
    loaded = load(model)
    shapes, data = None, None
    if calibration is not None:
        runner = Runner(loaded)
        data = load_data(calibration, runner.inputs, runner)
        sample = data[0]
        shapes = {name: tuple(sample[name].shape) for name in runner.inputs}
    found = analysis.inspect_model(loaded, shapes)
    if not spectra:
        return found
    bound = MEMORY_BYTES if memory_bytes is None else memory_bytes
    return dataclasses.replace(found, spectra=model_spectra(loaded, data, memory_bytes=bound))


def bench(
    models: Sequence[ModelLike],
    *,
    calibration: Calibration | None = None,
    metric: MetricLike | None = None,
    seconds: float = 2.0,
    device: str | None = None,
    profile: bool = False,
    progress: bool = True,
) -> Benchmark:
    """Latency, memory, size and metric of models with the same inputs, timed in turns.

    Args:
        models: at least one; the first is what the others are compared with.
        calibration: samples to run on; None: made-up ones.
        metric: see `optimize`.
        seconds: least time spent on timing, in all.
        device: where operators of `ai.onnxslim.rx` run, see `InferenceSession`.
        profile: also what each kernel of the native library took.
        progress: show bars on a terminal.

    Raises:
        InputError: a model or the samples cannot be used.
    """
    with _showing(progress):
        return measure(
            models,
            calibration,
            load_metric(metric) if metric is not None else None,
            seconds=seconds,
            device=device,
            profile=profile,
        )


def _optimizer(
    model: ModelLike,
    budget: Budget | None,
    calibration: Calibration | None,
    metric: MetricLike | None,
    target: str | Target,
    preset: Preset | None,
    seed: int,
    cache: PathLike | None,
    memory_bytes: int | None,
    verify: Verify,
    skip: Sequence[str],
    only: Sequence[str],
    also: Sequence[str],
    freeze_weights: bool,
    fold_limit: int | None,
    allocation: Allocation,
    options: Mapping[str, Mapping[str, Any]] | None,
    dequantize: Mapping[str, Any] | None,
) -> Optimizer:
    return Optimizer(
        model,
        budget=budget,
        calibration=calibration,
        metric=metric,
        target=target,
        preset=preset,
        seed=seed,
        cache=None if cache is None else Path(cache),
        memory_bytes=memory_bytes,
        verify=verify,
        skip=tuple(skip),
        only=tuple(only),
        also=tuple(also),
        freeze_weights=freeze_weights,
        fold_limit=fold_limit,
        allocation=allocation,
        options=options or {},
        dequantize=dequantize,
    )


def _dequantize(requantize: bool, preset: Preset | None) -> Mapping[str, Any] | None:
    """Options of the pass, where it is to run."""
    if requantize and preset == "safe":
        raise InputError(
            "requantize plans anew, and the preset safe plans nothing",
            advice="use another preset, or dequantize",
        )
    return {} if requantize else None


def _result(model: ModelLike, outcome: Outcome) -> Result:
    """What a user gets who gave `model`."""
    return Result(
        to_kind(outcome.model, kind_of(model)),
        outcome.plan,
        outcome.report,
        outcome.model,
        _path(model),
    )


def _read_plan(plan: Plan | PathLike | None) -> Plan | None:
    return plan if plan is None or isinstance(plan, Plan) else Plan.load(plan)


def _path(model: ModelLike) -> Path | None:
    return Path(model) if isinstance(model, (str, os.PathLike)) else None


@contextlib.contextmanager
def _showing(progress: bool) -> Iterator[None]:
    with listen(progress_listener() if progress else None):
        yield
