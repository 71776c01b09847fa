"""Rewrites that help rounding are used where they are measured to."""

from __future__ import annotations

import numpy as np
import pytest

import onnxslim_rx as rx
from onnxslim_rx.aids import helpers
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import digest, serialize
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.conftest import build

TEXT = """g (float[1, 8, 12, 12] x) => (float[1, 64, 10, 10] y) {
    a = Conv <pads = [0, 0, 0, 0]> (x, w0)
    b = Relu(a)
    y = Conv(b, w1)
}"""


def network(rng, spread):
    """Two convolutions; what lies between has channels that differ by `spread`, and cancel it."""
    scale = np.logspace(0, np.log10(spread), 64)
    first = rng.standard_normal((64, 8, 3, 3)) * scale[:, None, None, None]
    second = rng.standard_normal((64, 64, 1, 1)) / scale[:, None, None]
    weights = {"w0": first.astype(np.float32), "w1": second.astype(np.float32)}
    return build(TEXT, weights)


@pytest.fixture
def data(rng):
    return [{"x": rng.standard_normal((1, 8, 12, 12)).astype(np.float32)} for _ in range(16)]


def optimized(model, data, **options):
    return rx.optimize(
        model,
        budget=rx.Budget(min_cosine=0.9, minimize="bytes"),
        calibration=data,
        only=("quantize-static",),
        options={"quantize-static": {"method": "minmax"}},
        progress=False,
        **options,
    )


def test_channels_are_equalized_where_that_pays(rng, data):
    model = network(rng, 1000.0)
    before = serialize(model)
    found = optimized(model, data)
    assert found.plan.also == ("equalize",)
    (note,) = (note for note in found.report.notes if "equalize" in note)
    assert "quantize-static" in note
    without = optimized(model, data, skip=("equalize",))
    assert without.plan.also == ()
    # channels that are a thousandth of others leave nothing in 8 bits
    assert len(found.plan.changes) > len(without.plan.changes)
    assert serialize(model) == before
    again = optimized(model, data, plan=rx.Plan.from_toml(found.plan.to_toml()))
    assert digest(again.model) == digest(found.model)


def test_not_where_channels_are_alike_already(rng, data):
    assert optimized(network(rng, 1.0), data).plan.also == ()


CLIPPED = """g (float[1, 8, 12, 12] x) => (float[1, 4, 10, 10] y) {
    a = Conv <pads = [0, 0, 0, 0]> (x, w0)
    b = Clip(a, low, high)
    c = Conv <group = 64, pads = [1, 1, 1, 1]> (b, w1)
    y = Conv(c, w2)
}"""


def clipped(rng, least):
    """Channels behind a Clip reach from `least` to what it cuts off; all are worth the same."""
    size = np.logspace(np.log10(least), 0, 64)
    weights = {
        "w0": rng.standard_normal((64, 8, 3, 3)) * size[:, None, None, None],
        "w1": rng.standard_normal((64, 1, 3, 3)) / size[:, None, None, None],
        "w2": rng.standard_normal((4, 64, 1, 1)),
    }
    bounds = {"low": np.float32(0), "high": np.float32(20)}
    return build(CLIPPED, {n: a.astype(np.float32) for n, a in weights.items()} | bounds)


def test_channels_are_raised_by_what_calibration_saw(rng, data):
    model = clipped(rng, 0.05)
    found = optimized(model, data)
    raises = found.plan.measured["equalize"]["raises"]
    assert set(raises) == {"b"}
    assert raises["b"].startswith("3")
    assert any("what calibration measured" in note for note in found.report.notes)
    plan = rx.Plan.from_toml(found.plan.to_toml())
    assert plan == found.plan
    again = optimized(model, data, plan=plan)
    assert serialize(again.model) == serialize(found.model)
    without = optimized(model, data, skip=("equalize",))
    assert without.plan.measured == {}


def test_not_raised_where_channels_fill_the_range(rng, data):
    assert optimized(clipped(rng, 1.0), data).plan.measured == {}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[measured.equalize.raises]", "[measured.unknown.raises]", "no pass 'unknown'"),
        ("[measured.equalize.raises]", "[measured.equalize.falls]", "no option 'falls'"),
        ("[measured.equalize.raises]", "[measured.quantize-static]", "no option"),
        ('b = "', 'b = "x', "a string of digits"),
        ('b = "', 'b = "1', "another model"),
    ],
)
def test_plans_that_were_tampered_with(rng, data, old, new, why):
    model = clipped(rng, 0.05)
    text = optimized(model, data).plan.to_toml()
    assert old in text
    with pytest.raises(InputError, match=why):
        optimized(model, data, plan=rx.Plan.from_toml(text.replace(old, new)))


def test_only_passes_in_play_are_helped():
    static = QuantizeStatic()
    assert helpers({static.name: static}) == {"equalize": static}
    assert helpers({"quantize-weights": QuantizeWeights()}) == {}
