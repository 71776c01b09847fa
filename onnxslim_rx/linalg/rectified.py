"""Outputs that a ReLU follows: what is below zero there need not be met."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["rectified_energy", "rectified_targets"]

Array = npt.NDArray[np.floating]
Matrix = npt.NDArray[np.float64]


def rectified_targets(wanted: Array, now: Array, weight: float) -> Matrix:
    """What a linear fit should aim at so that its rectified outputs come close to those wanted.

    For each entry z of the result `(max(y, 0) - max(z, 0))^2 + weight (z - u)^2` is least.

    Args:
        wanted: y, outputs before the ReLU that are wanted.
        now: u, those of the fit so far, of the same shape.
        weight: above 0; with a small one z is y wherever y is above 0, and u where both are below.

    Returns:
        z, float64.

    Source: Zhang, Zou, He & Sun, "Accelerating Very Deep Convolutional Networks for Classification
    and Detection", TPAMI 38(10), 2016, section 3.2.
    """
    y, u = np.maximum(np.asarray(wanted, np.float64), 0.0), np.asarray(now, np.float64)
    off = np.minimum(u, 0.0)
    on = np.maximum((weight * u + y) / (weight + 1.0), 0.0)
    costs_off = y**2 + weight * (off - u) ** 2
    costs_on = (y - on) ** 2 + weight * (on - u) ** 2
    targets: Matrix = np.where(costs_off < costs_on, off, on)
    return targets


def rectified_energy(wanted: Array, now: Array) -> float:
    """`||max(y, 0) - max(u, 0)||^2`, in the squared units of the outputs."""
    error = np.maximum(wanted, 0.0) - np.maximum(now, 0.0)
    return float(np.einsum("ij,ij->", error, error, dtype=np.float64))
