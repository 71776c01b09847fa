"""AWQ: channels with large inputs get finer steps, by scales that the activations give back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import Array, BlockFormat, Blocks, check_weight, restore
from onnxslim_rx.quant.gram import damped, energy
from onnxslim_rx.quant.nearest import round_nearest

__all__ = ["awq_scales"]

_STEPS = 20  # of the exponent; the source's


def awq_scales(
    weight: Array,
    block_format: BlockFormat,
    gram: Array,
    *,
    rows: int | None = None,
    damping: float | None = None,
    rounding: Callable[[Array], Blocks] | None = None,
    steps: int = _STEPS,
) -> npt.NDArray[np.float64]:
    """Scales of the input channels with which rounding changes the outputs least.

    The layer `X W^T` is `(X / s) (W s)^T`. The caller rounds `weight * s`, with the Gram matrix
    `gram / outer(s, s)` where the rounding takes one, and multiplies the layer's input by `1 / s`
    (or divides what makes that input, such as the weights of a normalization).

    Args:
        weight: (rows of the weight, K), finite.
        block_format: bits, groups, symmetry and the type of scales.
        gram: as `round_gptq`.
        rows: as `round_gptq`.
        damping: as `round_gptq`.
        rounding: how a matrix (rows, K) is rounded; None: by `round_nearest`.
        steps: number of exponents above 0, up to 1, that are tried.

    Returns:
        (K,), above 0: the root mean squares of the channels to the best of the exponents, spread
        evenly around 1. All are 1 where no exponent above 0 helps.

    Raises:
        ValueError: as `round_gptq`, or less than 1 step.

    Source: Lin et al., "AWQ", MLSys 2024, with the error of the outputs by the Gram matrix.
    """
    if steps < 1:
        raise ValueError(f"found {steps} steps; expected at least 1")
    w = check_weight(weight)
    g = damped(gram, w.shape[1], rows, damping)
    sizes = np.sqrt(np.diagonal(g))
    best, least = np.ones(w.shape[1]), np.inf
    for exponent in np.linspace(0.0, 1.0, steps + 1):
        scales = sizes**exponent
        scales /= np.sqrt(scales.max() * scales.min())
        scaled = w * scales
        blocks = round_nearest(scaled, block_format) if rounding is None else rounding(scaled)
        wrong = energy(w - restore(blocks) / scales, g)
        if wrong < least:
            best, least = scales, wrong
    return best
