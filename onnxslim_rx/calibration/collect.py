"""Measuring what enters each layer, block by block."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis import Shape, concrete_shapes
from onnxslim_rx.calibration.blocks import run_step
from onnxslim_rx.calibration.cache import CACHE_BYTES, cached
from onnxslim_rx.calibration.frontiers import Measure, Step, plan_steps
from onnxslim_rx.calibration.identity import key_of
from onnxslim_rx.calibration.journal import Journal
from onnxslim_rx.calibration.observers import height_within, memory_of, observer
from onnxslim_rx.calibration.readings import Reading, readings
from onnxslim_rx.calibration.samples import Dataset
from onnxslim_rx.calibration.spool import FrontierError
from onnxslim_rx.calibration.statistics import Statistics
from onnxslim_rx.calibration.values import value_readings
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.temporary import TemporaryFolder
from onnxslim_rx.passbase import Layer
from onnxslim_rx.progress import task

__all__ = ["MEMORY_BYTES", "collect", "room", "shapes_of", "size_of"]

MEMORY_BYTES = 1 << 30
"""Unless told otherwise, measurements and weights of a block take no more."""

_UNKNOWN = 64  # assumed where a size depends on data


def collect(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    *,
    memory_bytes: int = MEMORY_BYTES,
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    seed: int = 0,
    ranges: bool = False,
) -> Statistics:
    """Measure what enters `layers` when the model runs on `data`.

    The graph is cut into blocks that run one after the other; what crosses from one to the next
    waits on disk. Linear layers get the Gram matrix of their input, mean, mean absolute value and
    range of its columns and a sample of its rows, embeddings the number of times that each row is
    read. Convolutions are linear in their patches, zeros of the padding included; see
    `LayerStatistics`. Padding that a mask input shows is left out elsewhere. Layers that read the
    same of the same tensor share one measurement.

    Memory does not grow with the number of samples. It is what `memory_bytes` bounds, the
    activations of one sample inside a block, and what Python and ONNX Runtime take themselves.
    Matrices that do not fit together are summed up one after the other, and one that does not fit
    alone in bands of at least 512 rows: the block runs once more for each.

    A layer in a branch of an If is measured on the samples that take the branch, if what it reads
    is computed outside. Inside bodies of Loop and Scan and inside functions nothing is.

    Args:
        model: the model, in topological order; not changed.
        layers: units of `model`.
        data: complete inputs, one dict a sample.
        memory_bytes: bound of what the measurements and the weights of a block take; a single
            node's weights may be more.
        cache: a folder where statistics are kept for the next call with the same arguments. A
            call that was killed is gone on with from its last finished block.
        cache_bytes: all statistics in `cache` take no more: those used longest ago are deleted.
        seed: of the rows and positions that are sampled.
        ranges: count the values of what enters and leaves linear layers and convolutions, too.
            Extremes are exact; of a tensor with more than 16,384 values in a sample as many are
            counted, spread evenly, others in each sample.

    Returns:
        Statistics by layer name; layers without are missing, `Statistics.reasons` says why.

    Raises:
        InputError: no data, data that the model does not take, activations that are not finite,
            a disk that is full.
    """
    if not len(data):
        raise InputError("there are no calibration samples", expected="at least one")

    def fill(folder: Path) -> None:
        journal = Journal(folder, durable=cache is not None)
        _fill(model, layers, data, memory_bytes, seed, ranges, journal)

    with room(cache):
        if cache is None:
            return _temporary(fill)
        key = key_of(model, layers, data, (seed, memory_bytes, *([1] if ranges else [])))
        return cached(fill, cache, key, cache_bytes)


@contextlib.contextmanager
def room(folder: Path | None) -> Iterator[None]:
    """Say what can be done where `folder` (None: the one for temporary files) is full.

    Raises:
        InputError: instead of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep calibration statistics in {folder or tempfile.gettempdir()}: "
            f"{error.strerror or error}",
            advice="make space there; TMPDIR names another folder for temporary files",
        ) from error


def _temporary(fill: Callable[[Path], None]) -> Statistics:
    """Statistics whose files are deleted with them."""
    with contextlib.ExitStack() as stack:
        folder = TemporaryFolder()
        stack.callback(lambda held: held.close(), folder)  # it lives as long as this is to be done
        place = folder.path / "statistics"
        place.mkdir()
        fill(place)
        statistics = Statistics(place)
        statistics.tidy()
        weakref.finalize(statistics, stack.pop_all().close)
    return statistics


def _fill(
    model: ir.Model,
    layers: Sequence[Layer],
    data: Dataset,
    memory_bytes: int,
    seed: int,
    ranges: bool,
    journal: Journal,
) -> None:
    shapes = shapes_of(model, data)
    found, reasons = readings(model, layers, shapes, len(data))
    ends = value_readings(layers, found) if ranges else {}
    size = functools.partial(size_of, shapes)
    every = [*found.values(), *(one for pair in ends.values() for one in pair if one)]
    numbers = {reading: str(n) for n, reading in enumerate(dict.fromkeys(every))}
    keys = {
        part: number
        for reading, number in numbers.items()
        for part in reading.bands(height_within(reading, memory_bytes))
    }
    measures = {part: Measure(part.values, memory_of(part) + size(part.value)) for part in keys}
    while True:
        steps = plan_steps(model.graph, measures, memory_bytes, size, journal.uncuttable)
        journal.begin(_fingerprint(steps))
        try:
            _run(model, steps, data, keys, journal, seed)
        except FrontierError as error:
            journal.restart(error.names)
        else:
            break
    journal.finish(
        {name: numbers[reading] for name, reading in found.items()},
        reasons,
        {
            name: [None if one is None else numbers[one] for one in pair]
            for name, pair in ends.items()
        },
    )


def _fingerprint(steps: Sequence[Step[Reading]]) -> str:
    """Hash of what each step saves and measures."""
    about = [
        [*[value.name for value in step.saves], "|"]
        + [f"{r.kind} {r.value.name} {r.patches} {r.band}" for r in step.measures]
        for step in steps
    ]
    return hashlib.sha256(repr(about).encode()).hexdigest()


def shapes_of(model: ir.Model, data: Dataset) -> Mapping[str, Shape | None]:
    """Shapes of all values by name when the model runs on its largest sample."""
    names = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
    shapes = [
        {name: sample[name].shape for name in names if isinstance(sample[name], np.ndarray)}
        for sample in data
    ]
    return concrete_shapes(
        model, max(shapes, key=lambda sample: sum(map(math.prod, sample.values())))
    )


def size_of(shapes: Mapping[str, Shape | None], value: ir.Value) -> int:
    """Estimates the bytes of a tensor."""
    shape = shapes.get(str(value.name)) or (_UNKNOWN,)
    bytes_each = value.dtype.itemsize if value.dtype is not None else 4
    return math.ceil(math.prod(_UNKNOWN if d is None else d for d in shape) * bytes_each)


def _run(
    model: ir.Model,
    steps: Sequence[Step[Reading]],
    data: Dataset,
    keys: Mapping[Reading, str],
    journal: Journal,
    seed: int,
) -> None:
    """The steps that are not done yet."""
    with task("calibrate", len(steps) * len(data)) as advance:
        advance(journal.done * len(data))
        for number in range(journal.done, len(steps)):
            step = steps[number]
            seen = {reading: observer(reading, seed) for reading in step.measures}
            run_step(model, step, data, seen, journal.spool, advance)
            later = {value for other in steps[number + 1 :] for value in other.inputs}
            unneeded = [str(value.name) for value in {*step.inputs, *step.saves} - later]
            journal.finished(seen, keys, unneeded)
