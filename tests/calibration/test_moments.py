"""Sums of products against numpy in float64: whole, in bands, crossed, per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import moments, observers
from onnxslim_rx.calibration.collect import MEMORY_BYTES
from onnxslim_rx.calibration.moments import Channels, CrossMoment, GramBand, GramMatrix
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer


def chunks(rng, rows, *columns):
    """Rows of float32 in float64, column sizes from 1e-4 to 1e4, in chunks of any length."""
    matrices = [
        (rng.standard_normal((rows, k)) * 10 ** rng.uniform(-4, 4, k)).astype(np.float32)
        for k in columns
    ]
    cuts = np.sort(rng.integers(0, rows, 5))
    parts = [np.split(m.astype(np.float64), cuts) for m in matrices]
    return [m.astype(np.float64) for m in matrices], list(zip(*parts, strict=True))


def assert_exact(found, x, z):
    """Rounding of sums in float64, far below one of float32."""
    assert found.dtype == np.float64
    assert (np.abs(found - x.T @ z) <= 1e-13 * (np.abs(x).T @ np.abs(z))).all()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 131])
def test_gram(rng, monkeypatch, size):
    monkeypatch.setattr(moments, "_PANEL", 16)
    (x,), parts = chunks(rng, 300, size)
    moment = GramMatrix(size)
    before = moment._sum
    for (part,) in parts:
        moment.add(part, np.zeros((len(part), 0)))
    total = moment.total()
    assert total is before  # summed up in place
    assert_exact(total, x, x)
    np.testing.assert_array_equal(total, total.T)


def test_directions_a_million_times_weaker_are_seen(rng):
    """Products in float32 would drown them: whitening would divide by noise."""
    basis = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    x = (rng.standard_normal((2000, 40)) * np.geomspace(1, 1e-6, 40)) @ basis
    rows = x.astype(np.float32).astype(np.float64)
    moment = GramMatrix(40)
    for start in range(0, 2000, 500):
        moment.add(rows[start : start + 500], rows[:0])
    expected = np.linalg.svd(rows, compute_uv=False)
    found = np.sqrt(np.linalg.eigvalsh(moment.total())[::-1])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(("first", "last"), [(0, 50), (0, 7), (7, 31), (31, 50), (49, 50)])
def test_bands(rng, first, last):
    (x, z), parts = chunks(rng, 200, 50, 13)
    band, cross = GramBand(50, first, last), CrossMoment(first, last, 13)
    for one, other in parts:
        band.add(one, other)
        cross.add(one, other)
    assert_exact(band.total(), x[:, first:last], x[:, first:])
    assert_exact(cross.total(), x[:, first:last], z)


def test_channels(rng):
    (x,), parts = chunks(rng, 250, 9)
    channels = Channels(9)
    for (part,) in parts:
        if len(part):
            channels.add(part.copy())
    found = channels.arrays()
    scale = np.abs(x).max(axis=0)
    np.testing.assert_allclose(found["mean"] / scale, x.mean(axis=0) / scale, atol=1e-14)
    np.testing.assert_allclose(found["mean_abs"], np.abs(x).mean(axis=0), rtol=1e-13)
    np.testing.assert_array_equal(found["low"], x.min(axis=0))
    np.testing.assert_array_equal(found["high"], x.max(axis=0))


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_a_matrix_that_does_not_fit_is_summed_up_in_bands(
    rng, monkeypatch, memory_bytes, collect, model_of, layers_of, noise
):
    monkeypatch.setattr(observers, "_LEAST_HEIGHT", 7)
    model = model_of(
        "float[N,S,20] x, int64[N,S] mask => float[N,S,5] y",
        "y = MatMul(x, w)",
        w=noise(rng, 20, 5),
    )
    data = [
        {
            "x": rng.standard_normal((2, 9, 20)).astype(np.float32),
            "mask": rng.integers(0, 2, (2, 9)),
        }
        for _ in range(60)
    ]
    found = collect(model, layers_of(model), data, memory_bytes=memory_bytes)["w:y"]
    x = np.concatenate([s["x"][s["mask"].astype(bool)] for s in data]).astype(np.float64)
    assert found.rows == len(x)
    assert_exact(found.gram, x, x)
    np.testing.assert_array_equal(found.gram, found.gram.T)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.mean_abs, np.abs(x).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.low, x.min(axis=0))
    np.testing.assert_array_equal(found.high, x.max(axis=0))
    assert found.sample.shape == (256, 20)


def test_what_bands_take_is_within_the_memory():
    x = ir.Value(name="x")
    for size in (512, 8192, 20_000, 60_000):
        reading = Reading("linear", x, False, size)
        for budget in (1 << 28, MEMORY_BYTES):
            height = observers.height_within(reading, budget)
            parts = reading.bands(height)
            assert sum(last - first for first, last in (p.band or (0, size) for p in parts)) == size
            most = max(observers.memory_of(part) for part in parts)
            assert most <= budget or height == observers._LEAST_HEIGHT
            # two passes are not made where one is enough
            assert (len(parts) == 1) == (observers.memory_of(reading) <= budget)
    assert observers.memory_of(Reading("linear", x, False, 8192)) < MEMORY_BYTES


def test_recurrent_layers_have_the_moments_of_their_input(rng, collect, model_of, noise):
    model = model_of(
        "float[S,N,6] x => float[S,1,N,4] y",
        "h = Sin(x) y = LSTM<hidden_size=4>(h, w, r)",
        w=noise(rng, 1, 16, 6),
        r=noise(rng, 1, 16, 4),
    )
    node = model.graph[1]
    layers = [
        Layer("w", "LSTM", "recurrent", node, 1, 0),
        Layer("r", "LSTM", "recurrent", node, 2, 0),
    ]
    data = [{"x": rng.standard_normal((7, 2, 6)).astype(np.float32)} for _ in range(3)]
    found = collect(model, layers, data)
    rows = np.concatenate([np.sin(s["x"]).reshape(-1, 6) for s in data]).astype(np.float64)
    np.testing.assert_allclose(found["w"].gram, rows.T @ rows, rtol=1e-5, atol=1e-5)
    assert found["w"].rows == 42
    assert found.reasons == {"r": "layers of the kind 'recurrent' are not measured"}


def test_squares_that_overflow_are_refused(rng, collect, model_of, layers_of, noise):
    model = model_of(
        "double[N,3] x => double[N,2] y",
        "y = MatMul(x, w)",
        w=noise(rng, 3, 2, dtype=np.float64),
    )
    with pytest.raises(InputError, match="'x' are too large to be squared"):
        collect(model, layers_of(model), [{"x": np.full((4, 3), 1e200)}])
