"""Channels of activations made alike before they are rounded, and weights that make up for it.

`X W = (X / s)(s W)`: one scale is for the whole tensor, so that channels much larger than others
leave those few steps. With `s = max|x|^alpha` the larger ones shrink, and their rows of W grow. The
source also divides by a power of the weights' peaks; without it, layers that read the same tensor
agree on s and share what is rounded, and MiniLM loses less: 1 - cosine is 1.2e-3, not 1.4e-3.

Source: Xiao et al., "SmoothQuant", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx.quant import dequantize, quantize_symmetric
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["as_seen", "best_exponent", "inverse_scales", "knows_sizes"]

Matrix = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_LEVELS = 255  # of DynamicQuantizeLinear, between the least and the largest activation
# The range is that of one run. Rows that calibration drew from all runs say what ranges there are
# if they are rounded a few together.
_ROWS_OF_RUN = 16
_EXPONENTS = (0.5, 0.6, 0.7, 0.8, 0.9)
_LEAST_SIZE = 1e-3  # of the largest channel; what was never active may be at another time
_GAIN = 0.4  # squared errors under the Gram matrix, as a share of those to nearest (MiniLM)
_KEPT = Memo(1 << 16)


def knows_sizes(stats: LayerStatistics | None, k: int) -> bool:
    """Whether statistics tell how large each of `k` channels is."""
    if stats is None:
        return False
    known = stats.gram if stats.low is None or stats.high is None else stats.low
    return known is not None and len(known) == k


def inverse_scales(stats: LayerStatistics, exponent: float) -> Floats:
    """(K,): `1 / s`, around 1, above 0, for channels of which `knows_sizes`.

    The size of a channel is its largest absolute value, or where that is not known, behind a factor
    say, its root mean square.
    """
    if stats.low is not None and stats.high is not None:
        sizes = np.maximum(stats.high, -stats.low)
    else:
        assert stats.gram is not None  # see `knows_sizes`
        sizes = np.sqrt(np.maximum(np.diagonal(stats.gram), 0.0) / max(stats.rows, 1))
    largest = float(sizes.max(initial=0.0))
    if not largest > 0:
        return np.ones(len(sizes), np.float32)
    scales = np.maximum(sizes / largest, _LEAST_SIZE) ** exponent
    found: Floats = (np.sqrt(scales.min()) / scales).astype(np.float32)
    return found


def as_seen(x: Array) -> Array:
    """(rows, K): activations as they are after DynamicQuantizeLinear, in their own type."""
    found = np.empty_like(x)
    for start in range(0, len(x), _ROWS_OF_RUN):
        run = x[start : start + _ROWS_OF_RUN]
        low, high = min(float(run.min()), 0.0), max(float(run.max()), 0.0)
        step = (high - low) / _LEVELS or 1.0
        zero = np.rint(-low / step)
        steps = np.clip(np.rint(run / step) + zero, 0, _LEVELS) - zero
        found[start : start + _ROWS_OF_RUN] = steps * step
    return found


def best_exponent(weights: Sequence[Array], stats: LayerStatistics | None, bits: int) -> float:
    """The exponent with the least predicted error of the outputs; 0 where nothing tells.

    Args:
        weights: (K, N) each, finite, of all layers that read the same activations.
        stats: of these.
        bits: of weights.
    """
    if stats is None or stats.sample is None or not knows_sizes(stats, len(weights[0])):
        return 0.0
    x, known = stats.sample.astype(np.float32), stats
    if x.shape[1] != len(weights[0]) or not len(x):
        return 0.0
    key = digest([x, inverse_scales(known, 1.0), *weights]), bits
    (found,) = _KEPT.get(key, lambda: [np.asarray(_best(x, weights, known, bits))])
    return float(found)


def _best(x: Floats, weights: Sequence[Array], stats: LayerStatistics, bits: int) -> float:
    """Of errors relative to each layer's outputs, the least sum of squares."""
    norms = [_energy(x @ weight) or 1.0 for weight in weights]
    gain = 1.0 if stats.gram is None else _GAIN
    lost = []
    for exponent in _EXPONENTS:
        inverse = inverse_scales(stats, exponent)
        scaled = x * inverse
        wrong = as_seen(scaled) - scaled
        lost.append(0.0)
        for weight, norm in zip(weights, norms, strict=True):
            w = (weight / inverse[:, None]).astype(np.float32)
            off = dequantize(quantize_symmetric(w, (1,), bits), np.float32) - w
            lost[-1] += (_energy(wrong @ w) + gain * _energy(scaled @ off)) / norm
    return _EXPONENTS[int(np.argmin(lost))]


def _energy(outputs: Floats) -> float:
    return float(np.square(outputs, dtype=np.float64).sum())
