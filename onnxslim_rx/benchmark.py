"""Latency, memory, size and metric of several models, side by side."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxslim_rx.analysis import params
from onnxslim_rx.calibration import Calibration, fed, load_data
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import ModelLike, load, size_bytes
from onnxslim_rx.metrics import Metric
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import (
    Profile,
    Profiler,
    Runner,
    cards,
    check_device,
    environment,
    time_interleaved,
    uses_domain,
)
from onnxslim_rx.runtime.memory import session_memory
from onnxslim_rx.verify import compare_runs, generate_inputs

__all__ = ["BenchRow", "Benchmark", "measure"]

_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One model.

    Args:
        name: its path, or "model N".
        bytes: size of file and external data.
        params: number of weights.
        latency_ms: median wall time of one sample, milliseconds.
        p10, p90: percentiles of the same, milliseconds.
        ratio: median of latency divided by the first model's in the same round.
        memory_bytes: peak that loading and running the model added to a process; None where it
            could not be measured.
        cosine: mean cosine of the worst output with the first model's; None where the models
            cannot be compared.
        metric: the user's metric; None where there is none.
        profile: what the kernels of the native library took for all samples once; None where it was
            not asked for.
    """

    name: str
    bytes: int
    params: int
    latency_ms: float
    p10: float
    p90: float
    ratio: float
    memory_bytes: int | None
    cosine: float | None
    metric: float | None
    profile: Profile | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All models, measured in turns on the same samples.

    Args:
        rows: in the order given; the first is the reference.
        samples: number of samples per round.
        environment: what it was measured on.
        notes: for the user.
    """

    rows: tuple[BenchRow, ...]
    samples: int
    environment: dict[str, str]
    notes: tuple[str, ...] = ()

    def pareto(self) -> list[BenchRow]:
        """The rows that no other beats in size and latency and metric (or cosine) at once."""
        return [
            row
            for row in self.rows
            if not any(_dominates(other, row) for other in self.rows if other is not row)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        best = {id(row) for row in self.pareto()}
        rows = [{**dataclasses.asdict(row), "pareto": id(row) in best} for row in self.rows]
        return {
            "samples": self.samples,
            "rows": rows,
            "environment": self.environment,
            "notes": list(self.notes),
        }


def _dominates(a: BenchRow, b: BenchRow) -> bool:
    quality = "metric" if a.metric is not None else "cosine"
    mine, theirs = getattr(a, quality), getattr(b, quality)
    pairs = [(a.bytes, b.bytes), (a.latency_ms, b.latency_ms)]
    if mine is not None and theirs is not None:
        pairs.append((-mine, -theirs))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def measure(
    models: Sequence[ModelLike],
    calibration: Calibration | None,
    metric: Metric | None,
    *,
    seconds: float,
    device: str | None = None,
    profile: bool = False,
) -> Benchmark:
    """Measure `models` on the same samples; see `api.bench`."""
    if not models:
        raise InputError("there is no model to measure", expected="at least one")
    loaded = [load(model) for model in models]
    names = [
        os.fspath(model) if isinstance(model, (str, os.PathLike)) else f"model {number}"
        for number, model in enumerate(models, 1)
    ]
    notes = _idle(names, loaded, device)
    runners = [Runner(model, device=device) for model in loaded]
    reference = runners[0]
    if calibration is None:
        data: Any = generate_inputs(loaded[0], samples=_SAMPLES)
    else:
        data = load_data(calibration, reference.inputs, reference)
    for name, runner in zip(names, runners, strict=True):
        if missing := set(runner.inputs) ^ set(reference.inputs):
            raise InputError(f"{name} and {names[0]} differ in the input {min(missing)!r}")
    samples = [fed(data[i], reference.inputs) for i in range(min(len(data), _SAMPLES))]
    with task("time", None):
        timings = time_interleaved(
            [functools.partial(_run_all, runner, samples) for runner in runners],
            min_seconds=seconds,
            max_seconds=4 * seconds,
        )
    judged = data if metric is None else metric.against(_inputs_only(reference), data)
    rows = []
    with task("measure", len(models)) as advance:
        for name, model, runner, timing in zip(names, loaded, runners, timings, strict=True):
            rows.append(
                BenchRow(
                    name=name,
                    bytes=size_bytes(model),
                    params=params(model),
                    latency_ms=timing.median_ms / len(samples),
                    p10=timing.p10 / len(samples),
                    p90=timing.p90 / len(samples),
                    ratio=timing.ratio,
                    memory_bytes=session_memory(model, samples[0], device),
                    cosine=_cosine(reference, runner, samples),
                    metric=None if metric is None else metric(_inputs_only(runner), judged),
                    profile=_profile(runner, samples) if profile else None,
                )
            )
            advance(1)
    return Benchmark(tuple(rows), len(samples), environment(), notes)


def _idle(names: Sequence[str], models: Sequence[ir.Model], device: str | None) -> tuple[str, ...]:
    """Which models have nothing for the OpenCL device that was asked for.

    Raises:
        InputError: all of them; or there is no such device.
    """
    if device is not None:
        check_device(device)
    if device is None or not device.startswith("opencl"):
        return ()
    idle = [name for name, model in zip(names, models, strict=True) if not uses_domain(model)]
    if len(idle) == len(models):
        raise InputError(
            f"no model has an operator of ai.onnxslim.rx, so that nothing would run on {device}",
            advice="make one with 'onnxslim-rx optimize --target rx'",
        )
    return tuple(
        f"{name} has no operator of ai.onnxslim.rx: all of it ran on the processor" for name in idle
    )


def _profile(runner: Runner, samples: Sequence[dict[str, Any]]) -> Profile:
    with Profiler(dict(cards())) as profiler:
        _run_all(runner, samples)
    return profiler.read()


def _inputs_only(runner: Runner) -> Any:
    return lambda sample: runner(fed(sample, runner.inputs))


def _cosine(reference: Runner, runner: Runner, samples: Any) -> float | None:
    if set(reference.outputs) != set(runner.outputs):
        return None
    return compare_runs(reference, runner, samples).cosine()


def _run_all(runner: Runner, samples: Sequence[dict[str, Any]]) -> None:
    for sample in samples:
        runner(sample)
