"""Arrays that a model may get for an input, by what the input seems to be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.runtime import TensorSpec
from onnxslim_rx.verify.facts import Facts
from onnxslim_rx.verify.sizes import image_axes

__all__ = ["Draw", "Maker", "makers"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one array is made from.

    Args:
        rng: the only source of chance.
        shape: of the array.
        sizes: of the open axes, by name.
        past: steps that a state already holds.
    """

    rng: np.random.Generator
    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    past: int = 0


Maker = Callable[[Draw], Array]

_MASK = re.compile(r"mask")
_SEGMENT = re.compile(r"token_type|segment")
_POSITION = re.compile(r"position|pos_ids")
_LENGTH = re.compile(r"len(gth)?s?(_|$)")
_SAMPLE_RATE = re.compile(r"^sr$|sampl\w*_rate|^fs$")
_TIMESTEP = re.compile(r"time_?step")
_THRESHOLD = re.compile(r"thr|score|iou|prob|conf")


def makers(spec: TensorSpec, facts: Facts) -> list[Maker]:
    """Ways to make an array for `spec`, the likeliest to be legal and typical first.

    Empty where there is none (sequences, maps, optionals).
    """
    if not spec.is_tensor:
        return []
    name, kind = spec.name.lower(), spec.dtype.kind
    cast = partial(_cast, spec.dtype)
    if spec.dtype == object:
        return [_words]
    if _MASK.search(name):
        return [cast(_full(1)), cast(_full(0))]
    if kind == "b":
        return [cast(_bits), cast(_full(1)), cast(_full(0))]
    if kind in "iu":
        return [cast(maker) for maker in _for_integers(spec, facts)]
    return [cast(maker) for maker in _for_floats(spec, facts)]


def _for_integers(spec: TensorSpec, facts: Facts) -> list[Maker]:
    name, single = spec.name.lower(), _is_single(spec)
    if single and facts.compared:
        return [_full(value) for value in sorted(facts.compared, reverse=True)]
    if _SAMPLE_RATE.search(name):
        return [_full(16000), _full(8000)]
    if facts.is_length or _LENGTH.search(name):
        return [_lengths, _full(1)]
    if facts.indexes:
        legal = partial(_indexes, facts)
        first: list[Maker] = [legal]
        if _SEGMENT.search(name):
            first = [_full(0)]
        elif _POSITION.search(name):
            first = [_positions]
        return [*first, legal, _full(0)]
    if _SEGMENT.search(name):
        return [_full(0)]
    if _POSITION.search(name):
        return [_positions, _full(0)]
    if _TIMESTEP.search(name):
        return [partial(_integers, 0, 999)]
    if image_axes(spec) or spec.dtype.itemsize == 1:
        return [partial(_smooth, facts, spec), _full(0)]
    return [partial(_integers, 0, 9), _full(1), _full(0)]


def _for_floats(spec: TensorSpec, facts: Facts) -> list[Maker]:
    name = spec.name.lower()
    if _TIMESTEP.search(name):
        return [partial(_integers, 0, 999)]
    if _is_single(spec):
        return [_full(0.5), _full(1)] if _THRESHOLD.search(name) else [_full(1), _full(0.5)]
    if _SAMPLE_RATE.search(name):
        return [_full(16000)]
    noise: Maker = partial(_normal, facts)
    if facts.waveform:
        noise = _sound
    elif image_axes(spec):
        noise = partial(_smooth, facts, spec)
    return [noise, _positive, _full(1)]


def _is_single(spec: TensorSpec) -> bool:
    return spec.shape in ((), (1,))


def _cast(dtype: np.dtype[Any], maker: Maker) -> Maker:
    def make(draw: Draw) -> Array:
        values = maker(draw)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return np.asarray(values).astype(dtype)

    return make


def _full(value: float) -> Maker:
    return lambda draw: np.full(draw.shape, value, dtype=np.float64)


def _bits(draw: Draw) -> Array:
    return draw.rng.integers(0, 2, draw.shape)


def _integers(low: int, high: int, draw: Draw) -> Array:
    return draw.rng.integers(low, high + 1, draw.shape)


def _indexes(facts: Facts, draw: Draw) -> Array:
    """Uniform over everything that all tables hold."""
    low = max(0, *(-shift for _, shift in facts.indexes))
    sizes = [(draw.sizes.get(s) if isinstance(s, str) else s, shift) for s, shift in facts.indexes]
    high = min((size - 1 - shift for size, shift in sizes if size is not None), default=low + 9)
    return draw.rng.integers(low, max(low, high) + 1, draw.shape)


def _positions(draw: Draw) -> Array:
    """0, 1, 2, ... along the last axis, after the steps that a state holds."""
    length = draw.shape[-1] if draw.shape else 1
    return np.broadcast_to(np.arange(draw.past, draw.past + length), draw.shape)


def _lengths(draw: Draw) -> Array:
    """The whole sequence: the largest size that is open, the batch left out."""
    others = [size for key, size in draw.sizes.items() if "batch" not in key.lower()]
    return np.full(draw.shape, max(others, default=1))


def _words(draw: Draw) -> Array:
    letters = draw.rng.integers(ord("a"), ord("z") + 1, (*draw.shape, 5)).astype(np.uint8)
    flat = [bytes(word).decode("ascii") for word in letters.reshape(-1, 5)]
    return np.asarray(flat, dtype=object).reshape(draw.shape)


def _normal(facts: Facts, draw: Draw) -> Array:
    """Standard normal after the graph's own normalisation."""
    return (draw.rng.standard_normal(draw.shape) - facts.shift) / facts.scale


def _positive(draw: Draw) -> Array:
    return draw.rng.uniform(0.05, 1.0, draw.shape)


def _sound(draw: Draw) -> Array:
    """Pink noise along the last axis, about as loud as recorded speech (deviation 0.1)."""
    spectrum = np.fft.rfft(draw.rng.standard_normal(draw.shape), axis=-1)
    bins = np.arange(spectrum.shape[-1])
    spectrum[..., 0] = 0.0
    values = np.fft.irfft(spectrum / np.sqrt(np.maximum(bins, 1)), n=draw.shape[-1], axis=-1)
    return 0.1 * values / (values.std() or 1.0)


def _smooth(facts: Facts, spec: TensorSpec, draw: Draw) -> Array:
    """Noise that is smooth as photographs are: amplitude falls as 1 / frequency.

    Standard deviation 1 around 0 after the graph's own normalisation; bytes without one have
    mean 128 and deviation 48.

    Source: Field, Journal of the Optical Society of America A 4(12), 1987.
    """
    axes = image_axes(spec)
    values = draw.rng.standard_normal(draw.shape)
    if axes and values.size:
        spectrum = np.fft.fft2(values, axes=axes)
        rows, columns = (np.fft.fftfreq(draw.shape[axis]) for axis in axes)
        frequency = np.hypot(rows[:, None], columns[None, :])
        frequency[0, 0] = frequency.ravel()[1:].min(initial=1.0)
        frequency = frequency.reshape(
            [size if axis in axes else 1 for axis, size in enumerate(draw.shape)]
        )
        values = np.fft.ifft2(spectrum / frequency, axes=axes).real
        values = (values - values.mean()) / (values.std() or 1.0)
    if spec.dtype.kind in "iu" and (facts.scale, facts.shift) == (1.0, 0.0):
        middle = 128.0 if spec.dtype.kind == "u" else 0.0
        return values * 48.0 + middle
    return (values - facts.shift) / facts.scale
