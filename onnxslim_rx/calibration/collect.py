"""Measuring what enters each layer, block by block."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim_rx.calibration.blocks import run_step
from onnxslim_rx.calibration.data import Dataset
from onnxslim_rx.calibration.frontiers import Step, plan_steps
from onnxslim_rx.calibration.observers import memory_of, observer
from onnxslim_rx.calibration.readings import Reading, readings
from onnxslim_rx.calibration.spool import CannotSaveError, Spool
from onnxslim_rx.calibration.statistics import Statistics, StatisticsWriter
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import digest
from onnxslim_rx.passbase import Layer
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import version

__all__ = ["collect"]

_FORMAT = 1  # of the cached statistics; count up when their meaning changes


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
    try:
        if cache is None:
            owner = tempfile.TemporaryDirectory(prefix="onnxslim-rx-")
            folder = Path(owner.name)
            _measure(model, layers, data, memory_bytes, seed, folder)
            return Statistics(folder, owner)
        return _cached(model, layers, data, memory_bytes, seed, cache)
    except OSError as error:
        place = cache or tempfile.gettempdir()
        raise InputError(
            f"cannot keep calibration statistics in {place}: {error.strerror or error}",
            advice="make space there, or choose another folder (the variable TMPDIR names the "
            "temporary one)",
        ) from error


def _cached(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    memory_bytes: int,
    seed: int,
    cache: Path,
) -> Statistics:
    folder = cache / f"statistics-{_key(model, layers, data, seed)}"
    try:
        found = Statistics(folder)
        found.check()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing there, or damaged: measured again
    else:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="statistics-", dir=cache) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        _measure(model, layers, data, memory_bytes, seed, fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return Statistics(folder)


def _key(model: ir.Model, layers: Sequence[Layer], data: Dataset, seed: int) -> str:
    """Hash of all that the statistics depend on."""
    units = [
        (layer.name, layer.op, layer.kind, layer.node.name, layer.weight_index,
         layer.activation_index)
        for layer in layers
    ]  # fmt: skip
    about = [_FORMAT, version(), np.__version__, digest(model), seed, units]
    total = hashlib.sha256(json.dumps(about).encode())
    for sample in data:
        for name in sorted(sample):
            array = np.ascontiguousarray(sample[name])
            total.update(f"{name} {array.dtype} {array.shape} ".encode())
            total.update(array.tobytes() if array.dtype.hasobject else array.data)
    return total.hexdigest()[:32]


def _measure(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    memory_bytes: int,
    seed: int,
    folder: Path,
) -> None:
    found, reasons = readings(model, layers)
    keys = {reading: str(number) for number, reading in enumerate(dict.fromkeys(found.values()))}
    uncuttable: set[str] = set()
    while True:
        steps = _steps(model, list(keys), memory_bytes, uncuttable)
        writer = StatisticsWriter(folder)
        try:
            _run(model, steps, data, keys, writer, seed)
        except CannotSaveError as error:
            uncuttable.add(error.name)  # and cut elsewhere
        else:
            break
    writer.finish({name: keys[reading] for name, reading in found.items()}, reasons)


def _anchor(reading: Reading) -> ir.Value:
    """The tensor that must be made for `reading`."""
    return reading.output or reading.value


def _steps(
    model: ir.Model, found: Sequence[Reading], memory_bytes: int, uncuttable: set[str]
) -> list[Step]:
    costs: dict[ir.Value, int] = {}
    for reading in found:
        costs[_anchor(reading)] = costs.get(_anchor(reading), 0) + memory_of(reading)
    return plan_steps(model.graph, costs, memory_bytes, _size, uncuttable)


def _size(value: ir.Value) -> int:
    """Bytes of a tensor where its shape is known; unknown sizes count as 64."""
    if value.shape is None or value.dtype is None:
        return 1 << 16
    total = value.dtype.itemsize
    for dim in value.shape:
        total *= dim if isinstance(dim, int) else 64
    return int(total)


def _run(
    model: ir.Model,
    steps: Sequence[Step],
    data: Dataset,
    keys: dict[Reading, str],
    writer: StatisticsWriter,
    seed: int,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="onnxslim-rx-") as scratch,
        task("calibrate", len(steps) * len(data)) as advance,
    ):
        spool = Spool(Path(scratch))
        for number, step in enumerate(steps):
            observers: dict[Reading, Any] = {
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
