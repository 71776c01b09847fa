"""States that recurrent models carry on keep their quality over 1,000 steps of rounded weights."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from models import make_complex_scan as made
from onnxslim_rx import simplify
from onnxslim_rx.ir import clone, load
from onnxslim_rx.passbase import CompressionPass, Layer
from onnxslim_rx.quant import dequantize, quantize_symmetric
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes import _channel_weights
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._complex_parts import Layout
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from onnxslim_rx_passes.store_half import StoreHalf

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

STEPS = 1_000
EARLY, LATE = slice(5, 15), slice(STEPS - 10, STEPS)
# losses are means over ten steps; they sway by this much without any trend
SWAY = 1.5
INT8 = QuantizeWeights(form="cast-mul", min_elements=64)


def treated(model: ir.Model, one: CompressionPass, kinds: Sequence[str] = ()) -> set[str]:
    """Carry out the only candidate of every layer of some kinds, in place; names of the layers."""
    target = load_target("ort-cpu")
    found = (layer for layer in one.layers(model) if isinstance(layer, Layer))
    layers = [layer for layer in found if not kinds or layer.kind in kinds]
    treatments = []
    for layer in layers:
        (candidate,) = one.candidates(layer, None, target)
        treatments.append((layer, candidate.stages, None))
    assert apply_treatments(model, treatments, {one.name: one}) == []
    return {layer.name for layer in layers}


def walk(
    model: ir.Model,
    feeds: Callable[[int], Outputs],
    states: Mapping[str, str],
    steps: slice = slice(0, STEPS),
    start: Outputs | None = None,
) -> Outputs:
    """Outputs of steps, stacked; each state (input: output) is handed on, from `start` or zeros."""
    runner = Runner(model)
    found: list[Outputs] = []
    for step in range(steps.start, steps.stop):
        before = found[-1] if found else start or {}
        carried = {name: before[after] for name, after in states.items() if before}
        found.append(runner({**feeds(step), **carried}))
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def loss(one: Array, other: Array, steps: slice) -> float:
    """Mean of 1 - cosine over some steps."""
    a, b = (x[steps].reshape(steps.stop - steps.start, -1).astype(np.float64) for x in (one, other))
    cosines = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.mean(1 - cosines))


@pytest.fixture
def scan(root: Path) -> ir.Model:
    return load(root / "models/complex_scan.onnx")


def scan_feeds(step: int) -> Outputs:
    x = np.random.default_rng(step).standard_normal((4, 1, made.INPUTS)).astype(np.float32)
    return {"x": x, "state": np.zeros((4, made.STATES, 2), np.float32)}


def scan_losses(model: ir.Model, original: ir.Model, steps: slice) -> dict[str, float]:
    """Of the output, and of real and imaginary parts of the state."""
    states = {"state": "next_state"}
    one, other = (walk(m, scan_feeds, states) for m in (model, original))
    parts = {
        name: loss(one["next_state"][..., part], other["next_state"][..., part], steps)
        for part, name in enumerate(("real", "imaginary"))
    }
    return {"y": loss(one["y"], other["y"], steps), **parts}


def snr(weight: Array, rounded: Array) -> Array:
    """Of rows (..., entries), in decibels."""
    powers = [np.mean(np.square(x.astype(np.float64)), axis=-1) for x in (weight, rounded - weight)]
    return np.asarray(10 * np.log10(powers[0] / powers[1]))


def bound(weight: Array) -> Array:
    """What 8 bits over the range of each row promise: no error above half a step of 1/127."""
    rms, peak = np.sqrt(np.mean(np.square(weight), axis=-1)), np.abs(weight).max(axis=-1)
    return np.asarray(20 * np.log10(2 * 127 * rms / peak))


def by_part(weight: Array, name: str) -> Array:
    """(channels, parts, entries of each)."""
    if name == "B":
        return np.moveaxis(weight, 2, 1)
    return np.moveaxis(weight.reshape(made.STATES, 2, made.OUTPUTS), (2, 1, 0), (0, 1, 2))


def test_parts_keep_what_8_bits_promise_each(scan: ir.Model) -> None:
    weights = {name: scan.graph.initializers[name].const_value for name in ("B", "C", "D")}
    assert treated(scan, INT8) == set(weights)
    stored = {name: value.const_value for name, value in scan.graph.initializers.items()}
    for name in ("B", "C"):
        tensor, values, scales = weights[name], stored[f"{name}.int8"], stored[f"{name}.scale"]
        assert tensor is not None
        assert values is not None
        assert scales is not None
        weight = tensor.numpy()
        rounded = (values.numpy() * scales.numpy()).reshape(weight.shape)
        parts = by_part(weight, name)
        assert (snr(parts, by_part(rounded, name)) > bound(parts)).all()
        # one scale for both parts of a channel does not keep the promise
        axis = 0 if name == "B" else 1
        shared = dequantize(quantize_symmetric(weight, (axis,)))
        broken = snr(parts, by_part(shared, name)) < bound(parts)
        small = 1 if name == "B" else 0
        assert broken[:, small].all()


@pytest.mark.parametrize("one", [INT8, StoreHalf(min_elements=64)], ids=["int8", "half"])
def test_a_complex_state_keeps_its_quality(
    one: CompressionPass, scan: ir.Model, root: Path
) -> None:
    original = load(root / "models/complex_scan.onnx")
    assert treated(scan, one) == {"B", "C", "D"}
    early, late = (scan_losses(scan, original, steps) for steps in (EARLY, LATE))
    for name, lost in late.items():
        assert lost < 1e-4, name
        assert lost < SWAY * early[name], name


def test_a_shared_scale_loses_the_imaginary_part(
    scan: ir.Model, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(layer: Layer, weight: Array) -> Layout:
        axes = channel_axes(layer)
        return Layout(weight.shape, axes[:1] if layer.kind == "parts" else axes)

    monkeypatch.setattr(_channel_weights, "scale_layout", shared)
    treated(scan, INT8)
    lost = scan_losses(scan, load(root / "models/complex_scan.onnx"), LATE)
    assert lost["real"] < 1e-4
    assert lost["imaginary"] > 1e-2
    assert lost["y"] > 1e-2


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_state_of_a_speech_detector_keeps_its_quality(assets: Path, recurrent: bool) -> None:
    path, sounds = assets / "models/silero_vad_16k_op15.onnx", assets / "data/vad_half"
    files = sorted(sounds.glob("*.wav"))[:4]
    if not (path.is_file() and files):
        pytest.skip("no silero_vad, or nothing for it to hear")
    original = load(simplify(str(path)))
    model = clone(original)
    # of the recurrence alone, or the filters in front of it as well, of which little is left in
    # silence: they are followed by a logarithm
    kinds = ("recurrent",) if recurrent else ("recurrent", "conv")
    assert len(treated(model, QuantizeWeights(form="cast-mul"), kinds)) == (2 if recurrent else 7)
    speech = np.concatenate([samples_of(file) for file in files])

    def feeds(step: int) -> Outputs:
        sound = speech[None, step * 512 : step * 512 + 576]
        return {"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000)}

    states, last = {"state": "stateN"}, slice(STEPS - 100, STEPS)
    one, other = (walk(m, feeds, states) for m in (model, original))
    # what is heard decides how much is lost: compare with the same sounds, 50 steps after a start
    # from the right state; cells sum up over hundreds of steps, so some more may be lost in 1,000
    start = {name: array[last.start - 1] for name, array in other.items()}
    fresh = walk(model, feeds, states, last, start)["stateN"][50:]
    lost = loss(one["stateN"], other["stateN"], slice(STEPS - 50, STEPS))
    assert lost < (2e-4 if recurrent else 5e-3)
    assert lost < 4 * loss(fresh, other["stateN"][-50:], slice(0, 50))


def samples_of(file: Path) -> Array:
    """Of a recording in 16 bits, from -1 to 1."""
    with wave.open(str(file)) as sound:
        content = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return content.astype(np.float32) / 32768
