"""The fit of one layer, from what a walk found where it stands."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import ChannelMoments, Moments, Stop
from onnxslim_rx.ir import constant
from onnxslim_rx.linalg import mismatch_energy, rectified_energy
from onnxslim_rx.planner.fit.forms import Form
from onnxslim_rx.planner.fit.rectified import Change, fit_rectified
from onnxslim_rx.planner.fit.refitted import Fitted, Refitted

__all__ = ["Fit"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A layer to fit: where, and what stands there."""

    stop: Stop
    form: Form

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of what is fitted."""
        return self.stop.changes

    def best(self, moments: Moments | ChannelMoments) -> Fitted:
        """New contents of the weights, none where they are no better, and what to report."""
        assert isinstance(moments, Moments)
        now = self.form.now()
        change = self._solve(now, moments)
        if change is not None and len(moments.sample[0]):
            change = fit_rectified(change, moments, functools.partial(self._solve, now))
        before, after = _energies(change, moments)
        better = after < before
        total = _total(moments)

        def share(energy: float) -> float:
            return math.sqrt(energy / total) if total > 0 else 0.0

        report = Refitted(
            self.stop.name,
            share(before),
            share(min(after, before)),
            moments.rows,
            "" if better else "no other factors are closer",
        )
        arrays = dict(change.arrays) if change is not None and better else {}
        return Fitted(arrays, arrays, report)

    def _solve(self, now: Matrix, moments: Moments) -> Change | None:
        """What comes closest to the moments; None where the stored arrays would not be finite."""
        bias = self.form.bias
        arrays = self.form.solve(now, moments if bias is None else _centred(moments))
        weight = self.form.product(arrays) - now
        offset = np.zeros(weight.shape[1])
        if bias is not None:
            offset = (moments.gap - moments.total @ weight) / moments.rows
            arrays[str(bias.name)] = _shifted(bias, offset)
        finite = all(np.isfinite(array).all() for array in (weight, *arrays.values()))
        return Change(arrays, weight, offset) if finite else None


def _energies(change: Change | None, moments: Moments) -> tuple[float, float]:
    """Squared error before and after, behind the ReLU where there is one."""
    if len(moments.sample[0]):
        none = Change({}, np.zeros_like(moments.cross), np.zeros_like(moments.gap))
        return none.energy(moments), math.inf if change is None else change.energy(moments)
    if change is None:
        return moments.missing, math.inf
    after = mismatch_energy(change.weight, moments.gram, moments.cross, moments.missing)
    rest = moments.gap - moments.total @ change.weight  # sum of what a bias has to add
    after += moments.rows * float(change.offset @ change.offset)
    return moments.missing, max(after - 2.0 * float(change.offset @ rest), 0.0)


def _total(moments: Moments) -> float:
    """The energy that errors are relative to."""
    _, wanted, _ = moments.sample
    return rectified_energy(wanted, np.zeros_like(wanted)) if len(wanted) else moments.wanted


def _centred(moments: Moments) -> Moments:
    """The moments around the means: what a weight has to do where a bias does the rest."""
    total, gap, rows = moments.total, moments.gap, moments.rows
    return dataclasses.replace(
        moments,
        gram=moments.gram - np.outer(total, total) / rows,
        cross=moments.cross - np.outer(total, gap) / rows,
        missing=max(moments.missing - float(gap @ gap) / rows, 0.0),
    )


def _shifted(bias: ir.Value, offset: Matrix) -> Array:
    """The contents of a bias plus `offset`, as it is stored."""
    tensor = constant(bias)
    assert tensor is not None  # those of forms are constants
    stored = tensor.numpy()
    with np.errstate(over="ignore"):  # whoever asks looks whether it is finite
        return (stored.astype(np.float64) + offset.reshape(stored.shape)).astype(stored.dtype)
