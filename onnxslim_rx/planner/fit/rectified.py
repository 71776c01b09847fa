"""Layers that a ReLU follows, fitted to what it lets through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Moments
from onnxslim_rx.linalg import rectified_energy, rectified_targets

__all__ = ["Change", "fit_rectified", "is_rectified"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

# What a departure from the present outputs costs. Zhang et al. raise it step by step to 1; on a CNN
# for CIFAR-10 (a quarter of the multiply-adds) eight such steps were no better than this one.
_WEIGHTS = (0.3,)


@dataclasses.dataclass(frozen=True)
class Change:
    """New contents of weights, and what they do to the layer.

    Args:
        arrays: by name.
        weight: (K, N), added to what the layer multiplies by.
        offset: (N,), added to its bias.
    """

    arrays: Mapping[str, Array]
    weight: Matrix
    offset: Matrix

    def energy(self, moments: Moments) -> float:
        """Squared error behind the ReLU on the sampled rows."""
        _, wanted, _ = moments.sample
        return rectified_energy(wanted, self._outputs(moments))

    def aimed(self, moments: Moments, weight: float) -> Moments:
        """The moments with other outputs wanted: those that count behind the ReLU.

        What is wanted changes by as much on all rows as it does on the sampled ones.
        """
        rows, wanted, _ = moments.sample
        more = rectified_targets(wanted, self._outputs(moments), weight) - wanted
        share = moments.rows / len(rows)
        return dataclasses.replace(
            moments,
            cross=moments.cross + share * (rows.T @ more),
            gap=moments.gap + share * more.sum(axis=0),
        )

    def _outputs(self, moments: Moments) -> Matrix:
        rows, _, now = moments.sample
        outputs: Matrix = now + rows @ self.weight + self.offset
        return outputs


def is_rectified(value: ir.Value) -> bool:
    """Whether only a ReLU reads a value."""
    nodes = [use.node for use in value.uses()]
    relu = bool(nodes) and all(n.op_type == "Relu" and n.domain == "" for n in nodes)
    return relu and not value.is_graph_output()


def fit_rectified(
    start: Change, moments: Moments, solve: Callable[[Moments], Change | None]
) -> Change:
    """The best of `start` and of fits to targets behind the ReLU.

    Args:
        start: the linear fit.
        moments: with sampled rows.
        solve: a fit to moments; None where it is not finite.
    """
    best, found = start, start
    least = start.energy(moments)
    for weight in _WEIGHTS:
        following = solve(found.aimed(moments, weight))
        if following is None:
            break
        found = following
        energy = found.energy(moments)
        if energy < least:
            best, least = found, energy
    return best
