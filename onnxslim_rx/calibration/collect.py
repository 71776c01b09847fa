"""Measuring what enters each layer, block by block."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis import Shape, concrete_shapes
from onnxslim_rx.calibration.blocks import run_step
from onnxslim_rx.calibration.data import Dataset
from onnxslim_rx.calibration.frontiers import Step, plan_steps
from onnxslim_rx.calibration.identity import key_of
from onnxslim_rx.calibration.observers import memory_of, observer
from onnxslim_rx.calibration.readings import Reading, readings
from onnxslim_rx.calibration.spool import FrontierError, Spool
from onnxslim_rx.calibration.statistics import Statistics, StatisticsWriter
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer
from onnxslim_rx.progress import task

__all__ = ["collect"]

_UNKNOWN = 64  # assumed where a size depends on data


def collect(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    *,
    memory_bytes: int = 1 << 30,
    cache: Path | None = None,
    seed: int = 0,
) -> Statistics:
    """Measure what enters `layers` when the model runs on `data`.

    The graph is cut into blocks that run one after the other; what crosses from one to the next
    waits on disk. Linear layers get the Gram matrix of their input and a sample of its rows,
    embeddings the number of times that each row is read, convolutions rows and shape. Padding
    that a mask input shows is left out. Layers that read the same tensor share one measurement.

    Args:
        model: the model, in topological order; not changed.
        layers: units of `model`.
        data: complete inputs, one dict a sample.
        memory_bytes: bound of what the measurements and the weights of a block take.
        cache: a folder where statistics are kept for the next call with the same arguments.
        seed: of the rows that are sampled.

    Returns:
        Statistics by layer name; layers without are missing, `Statistics.reasons` says why.

    Raises:
        InputError: no data, data that the model does not take, activations that are not finite,
            a disk that is full.
    """
    if not len(data):
        raise InputError("there are no calibration samples", expected="at least one")

    def measure(folder: Path) -> None:
        _measure(model, layers, data, memory_bytes, seed, folder)

    try:
        if cache is None:
            return _temporary(measure)
        return _cached(measure, cache / f"statistics-{key_of(model, layers, data, seed)}")
    except OSError as error:
        raise InputError(
            f"cannot keep calibration statistics in {cache or tempfile.gettempdir()}: "
            f"{error.strerror or error}",
            advice="make space there; TMPDIR names another folder for temporary files",
        ) from error


def _temporary(measure: Callable[[Path], None]) -> Statistics:
    """Statistics whose files are deleted with them."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="onnxslim-rx-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        measure(folder)
        statistics = Statistics(folder)
        weakref.finalize(statistics, stack.pop_all().close)
    return statistics


def _cached(measure: Callable[[Path], None], folder: Path) -> Statistics:
    """Statistics that are in `folder`, or else are put there at once when they are complete."""
    try:
        found = Statistics(folder)
        found.check()
    except (OSError, ValueError):
        pass  # nothing there, or damaged: measured again
    else:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        measure(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return Statistics(folder)


def _measure(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    memory_bytes: int,
    seed: int,
    folder: Path,
) -> None:
    shapes = _shapes(model, data)
    found, reasons = readings(model, layers, shapes)
    keys = {reading: str(number) for number, reading in enumerate(dict.fromkeys(found.values()))}
    size = functools.partial(_size, shapes)
    costs: dict[ir.Value, int] = {}
    for reading in keys:
        anchor = _anchor(reading)
        costs[anchor] = costs.get(anchor, size(anchor)) + memory_of(reading)
    uncuttable: set[str] = set()
    while True:
        steps = plan_steps(model.graph, costs, memory_bytes, size, uncuttable)
        writer = StatisticsWriter(folder)
        try:
            _run(model, steps, data, keys, writer, seed)
        except FrontierError as error:
            uncuttable.update(error.names)
        else:
            break
    writer.finish({name: keys[reading] for name, reading in found.items()}, reasons)


def _anchor(reading: Reading) -> ir.Value:
    """The tensor that must be made for `reading`."""
    return reading.output or reading.value


def _shapes(model: ir.Model, data: Dataset) -> Mapping[str, Shape | None]:
    """Shapes of all values by name when the model runs on its largest sample."""
    names = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
    shapes = [
        {name: sample[name].shape for name in names if isinstance(sample[name], np.ndarray)}
        for sample in data
    ]
    return concrete_shapes(
        model, max(shapes, key=lambda sample: sum(map(math.prod, sample.values())))
    )


def _size(shapes: Mapping[str, Shape | None], value: ir.Value) -> int:
    """Estimates the bytes of a tensor."""
    shape = shapes.get(str(value.name)) or (_UNKNOWN,)
    bytes_each = value.dtype.itemsize if value.dtype is not None else 4
    return math.ceil(math.prod(_UNKNOWN if d is None else d for d in shape) * bytes_each)


def _run(
    model: ir.Model,
    steps: Sequence[Step],
    data: Dataset,
    keys: Mapping[Reading, str],
    writer: StatisticsWriter,
    seed: int,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="onnxslim-rx-") as scratch,
        task("calibrate", len(steps) * len(data)) as advance,
    ):
        spool = Spool(Path(scratch))
        for number, step in enumerate(steps):
            observers = {
                reading: observer(reading, seed)
                for reading in keys
                if _anchor(reading) in step.measures
            }
            run_step(model, step, data, observers, spool, advance)
            for reading, seen in observers.items():
                writer.add(keys[reading], seen)
            later = {value for other in steps[number + 1 :] for value in other.inputs}
            for value in {*step.inputs, *step.saves} - later:
                if str(value.name) in spool:
                    spool.drop(str(value.name))
