"""Rewrites that help rounding are used where they are measured to."""

from __future__ import annotations

import numpy as np
import pytest

import onnxslim_rx as rx
from onnxslim_rx.aids import helpers
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


def test_only_passes_in_play_are_helped():
    static = QuantizeStatic()
    assert helpers({static.name: static}) == {"equalize": static}
    assert helpers({"quantize-weights": QuantizeWeights()}) == {}
