"""A network and its compressed version, walked side by side once, weights changing on the way."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration.blocks import run_step
from onnxslim_rx.calibration.channelwise import ChannelMismatch, ChannelMoments, channel_bytes
from onnxslim_rx.calibration.collect import MEMORY_BYTES, room, shapes_of, size_of
from onnxslim_rx.calibration.frontiers import BlockedError, Measure, Step, plan_steps
from onnxslim_rx.calibration.mismatch import Mismatch, Moments, mismatch_bytes
from onnxslim_rx.calibration.pairing import Pairing, pair_up
from onnxslim_rx.calibration.patches import Patches
from onnxslim_rx.calibration.readings import Reading, of_patches, readings
from onnxslim_rx.calibration.rounds import route
from onnxslim_rx.calibration.samples import Dataset, held
from onnxslim_rx.calibration.spool import FrontierError, Spool
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer
from onnxslim_rx.progress import task

__all__ = ["Moments", "React", "Stop", "walk"]

Array = npt.NDArray[Any]

# Positions of a convolution for each column of X'. A fit without bounds is off by as many parts of
# what it cannot explain; only the weighting of errors, which statistics are for, takes fewer.
_OFTEN = 16

# Samples that take no more than this share of the memory are read once, not in every step.
_HELD_SHARE = 8


@dataclasses.dataclass(frozen=True)
class Stop:
    """A place where the networks are compared before weights change.

    Args:
        name: unique among the stops.
        layer: the linear layer or convolution of the compressed network that X' enters; or, of the
            kind "channels", a node of the main graph that treats each of them alone.
        target: name of a value of both networks, of one row for each row of X'.
        columns: of the target, or its channels.
        transposed: the target's rows lie along its last axis, not the one before.
        changes: names of the initializers of the compressed network that get new contents.
        patches: of the convolution that a chain of them, which starts with `layer`, stands for:
            rows of X' are what it reads at one position of the target, in the order of a kernel
            (C, *k); None: what `layer` reads itself.
        kept: rows of X', T and T' that are wanted as they are.
    """

    name: str
    layer: Layer
    target: str
    columns: int
    transposed: bool
    changes: tuple[str, ...]
    patches: Patches | None = None
    kept: int = 0


React = Callable[[Stop, Moments | ChannelMoments], Mapping[str, Array]]
"""From what a stop found to new contents of some of its `changes`, of the same shape and type.

Stops at a layer of the kind "channels" find `ChannelMoments`.
"""


def walk(
    original: ir.Model,
    compressed: ir.Model,
    stops: Sequence[Stop],
    data: Dataset,
    react: React,
    *,
    memory_bytes: int = MEMORY_BYTES,
    seed: int = 0,
) -> dict[str, str]:
    """Run both networks side by side, from stop to stop, with the new weights from each stop on.

    What crosses from one stop to the next waits on disk, so that no more runs twice than what lies
    between the input of a stop's layer and its target. Stops that do not depend on each other's
    changes are made in one go. Padding that a mask input shows is left out.

    Args:
        original: the network that is right; not changed.
        compressed: a network with the same inputs; not changed: `react` keeps what it returns.
        stops: in an order in which what enters a layer depends on changes of earlier ones alone.
        data: see `collect`.
        react: called once for each stop, in order; again from the start where it turns out that
            the graph cannot be cut everywhere.
        memory_bytes: what the moments and the weights of a block take at most; besides, there are
            the activations of one sample inside a block, and what `react` takes.
        seed: of the positions of convolutions that are sampled.

    Returns:
        Why stops were left out, by name. Moments take 8 K (K + N) bytes; a stop where that is above
        `memory_bytes` is left out, as are those in bodies of If, Loop and Scan.

    Raises:
        InputError: no data, data that the model does not take, networks that differ in inputs or
            versions of operators, a disk that is full.
    """
    if not len(data):
        raise InputError("there are no calibration samples", expected="at least one")
    data = held(data, memory_bytes // _HELD_SHARE)
    found, reasons = _layers(compressed, stops, len(data))
    for name, reading in found.items():
        if _bytes(reading) > memory_bytes:
            megabytes = _bytes(reading) >> 20
            reasons[name] = f"its moments take {megabytes} MiB, above {memory_bytes >> 20}"
    uncuttable: set[str] = set()
    while kept := [stop for stop in stops if stop.name not in reasons]:
        one = _Walk(original, compressed, kept, found, data, memory_bytes, seed)
        try:
            with room(None), tempfile.TemporaryDirectory(prefix="onnxslim-rx-") as folder:
                return reasons | one.run(Path(folder), react, uncuttable)
        except FrontierError as error:
            uncuttable.update(error.names)
        except BlockedError as error:
            why = "what is computed there cannot wait on disk"
            reasons.update(dict.fromkeys(map(str, error.keys), why))
    return reasons


def _layers(
    model: ir.Model, stops: Sequence[Stop], samples: int
) -> tuple[dict[str, Reading], dict[str, str]]:
    """The readings of what enters each stop's layer, and the reasons of those without."""
    alone = [stop for stop in stops if stop.layer.kind == "channels"]
    others = [stop for stop in stops if stop.layer.kind != "channels"]
    layers = [dataclasses.replace(stop.layer, name=stop.name) for stop in others]
    found, reasons = readings(model, layers, {}, samples)
    for stop in alone:
        found[stop.name] = Reading("channels", stop.layer.activation, False, stop.columns)
    for stop in others:
        reading = found.get(stop.name)
        if reading is None:
            continue
        if reading.kind != "linear" or reading.gates or stop.layer.op == "ConvTranspose":
            del found[stop.name]
            reasons[stop.name] = "it is no linear layer of the main graph"
        elif reading.patches is not None:
            channels = dataclasses.replace(reading, transposed=False, size=reading.channels)
            patches = stop.patches or reading.patches
            found[stop.name] = of_patches(channels, patches, samples, _OFTEN)
    return found, reasons


class _Walk:
    """One attempt."""

    def __init__(
        self,
        original: ir.Model,
        compressed: ir.Model,
        stops: Sequence[Stop],
        found: Mapping[str, Reading],
        data: Dataset,
        memory_bytes: int,
        seed: int,
    ) -> None:
        self._stops = {stop.name: stop for stop in stops}
        self._data = data
        self._memory_bytes = memory_bytes
        self._seed = seed
        entering = {stop.name: str(found[stop.name].value.name) for stop in stops}
        self._pair = pair_up(
            original,
            compressed,
            [((stop.target,), (entering[stop.name], stop.target)) for stop in stops],
        )
        self._readings = {stop.name: _reading(self._pair, stop, found[stop.name]) for stop in stops}

    def run(self, folder: Path, react: React, uncuttable: Collection[str]) -> dict[str, str]:
        """Walk; returns why stops were left out.

        Raises:
            FrontierError, BlockedError: the graph must be cut elsewhere.
        """
        steps = self._steps(uncuttable)
        spool = Spool(folder)
        reasons: dict[str, str] = {}
        with task("refit", len(steps) * len(self._data)) as advance:
            for number, step in enumerate(steps):
                seen = {name: _sums(self._readings[name], self._seed) for name in step.measures}
                observers = {self._readings[name]: seen[name] for name in step.measures}
                run_step(self._pair.model, step, self._data, observers, spool, advance)
                while seen:  # one after the other: each is freed before the next is used
                    name = next(iter(seen))
                    mismatch = seen.pop(name)
                    del observers[self._readings[name]]
                    reasons.update(self._change(self._stops[name], mismatch, react))
                later = {str(value.name) for other in steps[number + 1 :] for value in other.inputs}
                for name in [name for name in spool.files if name not in later]:
                    (folder / spool.files.pop(name)).unlink()
        return reasons

    def _steps(self, uncuttable: Collection[str]) -> list[Step[str]]:
        model = self._pair.model
        size = functools.partial(size_of, shapes_of(model, self._data))
        measures = {
            name: Measure(reading.values, _bytes(reading) + size(reading.value))
            for name, reading in self._readings.items()
        }
        changes = {
            name: [self._pair.second[weight] for weight in stop.changes]
            for name, stop in self._stops.items()
        }
        return plan_steps(
            model.graph,
            measures,
            self._memory_bytes,
            size,
            uncuttable,
            route(model.graph, measures, changes),
        )

    def _change(
        self, stop: Stop, mismatch: Mismatch | ChannelMismatch, react: React
    ) -> dict[str, str]:
        """Ask for new weights and use them; why not, where the sums mean nothing."""
        moments = mismatch.moments()
        if mismatch.why or not mismatch.rows:
            return {stop.name: mismatch.why or "no row enters it"}
        for name, array in react(stop, moments).items():
            value = self._pair.second[name]
            before = value.const_value
            assert before is not None  # it is an initializer
            value.const_value = ir.Tensor(
                np.ascontiguousarray(array), dtype=before.dtype, name=value.name
            )
        return {}


def _bytes(reading: Reading) -> int:
    return channel_bytes(reading) if reading.kind == "channels" else mismatch_bytes(reading)


def _sums(reading: Reading, seed: int) -> Mismatch | ChannelMismatch:
    return ChannelMismatch(reading) if reading.kind == "channels" else Mismatch(reading, seed)


def _reading(pair: Pairing, stop: Stop, entering: Reading) -> Reading:
    """X' and both targets in the joined graph."""
    target = stop.target
    return dataclasses.replace(
        entering,
        kind="channels" if entering.kind == "channels" else "tandem",
        value=pair.second[str(entering.value.name)],
        others=(pair.first[target], pair.second[target]),
        other_size=stop.columns,
        other_transposed=stop.transposed,
        kept=stop.kept,
    )
