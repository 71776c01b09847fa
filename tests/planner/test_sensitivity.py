"""Measured damages against what rewriting the model really costs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.ir import clone, load
from onnxslim_rx.passbase import Layer
from onnxslim_rx.planner import apply_plan, find_units, measure_damages, measure_latencies
from onnxslim_rx.planner.prefixes import overridable
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx.verify import compare_runs
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_weights import QuantizeWeights

PASSES = {p.name: p for p in (FactorizeGemm(), QuantizeWeights())}
TARGET = load_target("ort-cpu")
TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 96] x) => (float[n, 80] y) {
    a = MatMul(x, w0)
    b = Relu(a)
    c = Gemm<transB=1>(b, w1)
    d = Tanh(c)
    e = Add(d, b)
    y = MatMul(e, w2)
}"""


@pytest.fixture
def network(rng):
    """Three linear layers with a skip connection, and data with an uneven spectrum."""
    model = ir.from_onnx_text(TEXT)
    for name, shape in (("w0", (96, 128)), ("w1", (128, 128)), ("w2", (128, 80))):
        (value,) = {v for node in model.graph for v in node.inputs if v and v.name == name}
        # a spectrum that falls, as in trained networks
        u, s, vt = np.linalg.svd(rng.standard_normal(shape) / np.sqrt(shape[0]))
        array = (u[:, : len(s)] * (s * np.logspace(0, -2, len(s)))) @ vt[: len(s)]
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        model.graph.register_initializer(value)
    scale = np.logspace(0, -1.5, 96)
    data = [{"x": (rng.standard_normal((6, 96)) * scale).astype(np.float32)} for _ in range(24)]
    return load(ir.to_proto(model)), data


@pytest.fixture
def units(network):
    model, data = network
    layers = {
        layer.name: layer
        for one in PASSES.values()
        for layer in one.layers(model)
        if isinstance(layer, Layer)
    }
    stats = collect(model, list(layers.values()), data)
    found, skipped = find_units(model, PASSES, stats, TARGET)
    assert [unit.layer.name for unit in found] == ["w0", "w1", "w2"]
    assert skipped == []
    measure_damages(model, found, PASSES, data, None)
    return found, stats


def test_each_layer_can_be_kept_and_offers_ranks_forms_and_chains(units):
    for unit in units[0]:
        kinds = {tuple(stage.pass_name for stage in c.stages) for c in unit.choices}
        assert kinds == {
            (),
            ("quantize-weights",),
            ("factorize-gemm",),
            ("factorize-gemm", "quantize-weights"),
        }
        assert unit.choices[0].damage == 0.0
        assert all(c.damage > 0 for c in unit.choices[1:])
        assert all(c.bytes < unit.choices[0].bytes for c in unit.choices[1:])


def test_predicted_damage_is_what_the_rewritten_model_loses(network, units):
    model, data = network
    found, stats = units
    reference = Runner(model)
    seen = 0
    for unit in found:
        for choice in unit.choices[1:]:
            plan = LayerPlan(unit.layer.name, choice.stages)
            rewritten, refused = apply_plan(model, [plan], PASSES, stats)
            assert refused == []
            true = 1.0 - compare_runs(reference, Runner(rewritten), data).cosine()
            if true < 1e-6:
                continue
            seen += 1
            # eight of the samples stand for all, two stages add up, and between probes the curve
            # is a straight line: within a factor of two and a half on this network (measured)
            assert true / 2.5 <= choice.damage <= true * 2.5, str(choice)
    assert seen > 12


def test_the_model_whose_weights_can_be_overridden_is_the_same_model(network):
    model, data = network
    layers = [
        layer for layer in PASSES["quantize-weights"].layers(model) if isinstance(layer, Layer)
    ]
    copy, names = overridable(model, layers)
    runner = Runner(copy)
    assert list(runner.inputs) == ["x"]
    np.testing.assert_allclose(
        runner(data[0])["y"], Runner(model)(data[0])["y"], rtol=1e-5, atol=1e-6
    )
    zero = np.zeros((128, 80), np.float32)
    assert not runner({**data[0], names[layers[2].weight]: zero})["y"].any()
    assert set(clone(model).graph.initializers) == {"w0", "w1", "w2"}  # the original is untouched


def test_no_choice_that_is_slower_than_the_layer_was_stays(units):
    found, _ = units
    measure_latencies(found, PASSES, TARGET)
    for unit in found:
        assert unit.choices[0].stages == ()
        assert all(choice.relative_latency <= 1.0 for choice in unit.choices)
        assert any(choice.folds and choice.stages for choice in unit.choices)
