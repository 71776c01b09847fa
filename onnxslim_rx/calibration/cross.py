"""What enters a layer of a compressed network, against what enters it in the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxslim_rx.calibration.cache import CACHE_BYTES
from onnxslim_rx.calibration.collect import MEMORY_BYTES, Keeping, measure
from onnxslim_rx.calibration.identity import key_of
from onnxslim_rx.calibration.pairing import Pairing, pair_up
from onnxslim_rx.calibration.readings import Reading, readings
from onnxslim_rx.calibration.samples import Dataset
from onnxslim_rx.calibration.statistics import Statistics
from onnxslim_rx.passbase import Layer

__all__ = ["collect_cross"]


def collect_cross(
    original: ir.Model,
    compressed: ir.Model,
    pairs: Mapping[str, tuple[Layer, Layer]],
    data: Dataset,
    *,
    memory_bytes: int = MEMORY_BYTES,
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    seed: int = 0,
) -> Statistics:
    """Measure what enters layers of a network and of its compressed version on the same samples.

    With rows Z that enter a layer of the original and rows X that enter the layer in its place,
    the weight `V` that comes closest to the original's outputs `Z W` is the solution of
    `(X^T X) V = (X^T Z) W`. Both networks run side by side, block by block, as in `collect`.

    Args:
        original: the network whose outputs are wanted; not changed.
        compressed: the network as it is so far, with the same inputs; not changed.
        pairs: by any name, a linear layer of `original` and the one of `compressed` whose input
            stands in for its input: the same layer, or the first factor that replaced it.
        data: see `collect`.
        memory_bytes: see `collect`; a pair takes two matrices, which are summed up one after the
            other where they do not fit together.
        cache: see `collect`.
        cache_bytes: see `collect`.
        seed: see `collect`.

    Returns:
        Statistics of the inputs of the layers of `compressed` by name, with `cross`, (K, K'):
        `X^T Z`. Pairs without are missing, `Statistics.reasons` says why.

    Raises:
        InputError: see `collect`; or the networks differ in inputs or versions of operators, or
            the rows of a pair in number.
    """
    places = {node: number for number, node in enumerate(original.graph)}
    order = sorted(pairs, key=lambda name: places.get(pairs[name][0].node, 0))
    first, why_first = _readings(original, {name: pairs[name][0] for name in order})
    second, why_second = _readings(compressed, {name: pairs[name][1] for name in order})
    reasons = why_first | why_second
    names = [name for name in order if name not in reasons]
    joined = pair_up(
        original,
        compressed,
        [(_names(first[name]), _names(second[name])) for name in names],
    )
    found: dict[str, tuple[Reading, ...]] = {
        name: _moved(joined, first[name], second[name]) for name in names
    }
    networks = [
        (original, [pairs[name][0] for name in order]),
        (compressed, [pairs[name][1] for name in order]),
    ]
    return measure(
        joined.model,
        lambda _: (found, reasons),
        data,
        memory_bytes=memory_bytes,
        keeping=Keeping(cache, cache_bytes),
        key=lambda: key_of(networks, data, (seed, memory_bytes), list(pairs)),
        seed=seed,
    )


def _readings(
    model: ir.Model, layers: Mapping[str, Layer]
) -> tuple[dict[str, Reading], dict[str, str]]:
    """The reading of each layer by the name of its pair, and the reasons of those without."""
    named = [dataclasses.replace(layer, name=name) for name, layer in layers.items()]
    found, reasons = readings(model, named, {})
    for name, reading in list(found.items()):
        if reading.kind != "linear":
            del found[name]
            reasons[name] = f"layers of the kind {reading.kind!r} have no rows to compare"
    return found, reasons


def _names(reading: Reading) -> Sequence[str]:
    return [str(value.name) for value in reading.values]


def _moved(joined: Pairing, first: Reading, second: Reading) -> tuple[Reading, Reading]:
    """The Gram matrix and the cross moment of a pair, in the joined graph."""
    gates = tuple((joined.first[str(value.name)], open_) for value, open_ in first.gates)
    gates += tuple((joined.second[str(value.name)], open_) for value, open_ in second.gates)
    x = dataclasses.replace(second, value=joined.second[str(second.value.name)], gates=gates)
    cross = dataclasses.replace(
        x,
        kind="cross",
        other=joined.first[str(first.value.name)],
        other_size=first.size,
        other_transposed=first.transposed,
    )
    return x, cross
