"""Means and variances of channels in two tensors, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import channelwise
from onnxslim_rx.calibration.channelwise import ChannelMismatch
from onnxslim_rx.calibration.readings import Reading

Array = npt.NDArray[Any]


def watched(size: int) -> ChannelMismatch:
    return ChannelMismatch(Reading("channels", ir.Value(name="x"), False, size))


def see(sums: ChannelMismatch, wanted: Array, now: Array) -> None:
    sums.see([now, wanted, now], (), "sample 0")


@pytest.mark.parametrize("at_once", [1, 7, 40, 1 << 16])
@pytest.mark.parametrize("inner", [(), (4,), (3, 2), (2, 3, 2)])
def test_against_numpy(
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    at_once: int,
    inner: tuple[int, ...],
) -> None:
    monkeypatch.setattr(channelwise, "_AT_ONCE", at_once)
    sums, parts = watched(5), []
    for count in (2, 0, 1, 9):
        wanted = rng.standard_normal((count, 5, *inner)).astype(np.float32)
        now = (0.5 * wanted + rng.standard_normal(wanted.shape)).astype(np.float32)
        kept = wanted.copy()
        see(sums, wanted, now)
        np.testing.assert_array_equal(wanted, kept)
        parts.append(np.stack([np.moveaxis(a, 1, 0).reshape(5, -1) for a in (wanted, now)]))
    wanted, now = np.concatenate(parts, axis=2).astype(np.float64)
    found = sums.moments()
    assert found.rows == wanted.shape[1]
    np.testing.assert_allclose(found.wanted_mean, wanted.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.mean, now.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.wanted_variance, wanted.var(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, now.var(axis=1), rtol=1e-12)
    both = [np.cov(a, b, bias=True)[0, 1] for a, b in zip(wanted, now, strict=True)]
    np.testing.assert_allclose(found.covariance, both, atol=1e-12)


def test_a_mean_far_from_zero_does_not_drown_the_variance(rng: np.random.Generator) -> None:
    sums, parts = watched(1), []
    for _ in range(20):
        array = 1e8 + rng.standard_normal((50, 1))
        see(sums, array, array)
        parts.append(array)
    exact = np.concatenate(parts).var()
    assert sums.moments().variance[0] == pytest.approx(exact, rel=1e-6)


def test_shapes_that_differ_say_so(rng: np.random.Generator) -> None:
    for wanted, now in (((2, 5, 3), (2, 5, 4)), ((2, 4), (2, 4)), ((5,), (5,))):
        sums = watched(5)
        see(sums, np.zeros(wanted), np.zeros(now))
        assert sums.why == f"{wanted} would enter and {now} do on sample 0"
        assert sums.rows == 0


def test_infinity_says_so() -> None:
    sums = watched(1)
    see(sums, np.array([[np.inf], [1.0]]), np.ones((2, 1)))
    sums.moments()
    assert sums.why == "NaN or infinity is computed there"


def test_nothing_seen_is_nothing() -> None:
    found = watched(3).moments()
    assert found.rows == 0
    assert not found.variance.any()
