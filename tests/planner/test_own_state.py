"""Models with state are judged as they are used: with the state that they gave themselves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import Samples, Stateful, load_data, split
from onnxslim_rx.ir import load
from onnxslim_rx.planner import Judge
from onnxslim_rx.plans import Budget
from onnxslim_rx.runtime import Runner

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[1, 6] x, float[1, 4] h0) => (float[1, 5] y, float[1, 4] hn) {
    a = MatMul(x, wx)
    b = MatMul(h0, wh)
    c = Add(a, b)
    hn = Tanh(c)
    y = MatMul(hn, wy)
}"""


@pytest.fixture
def weights(rng):
    shapes = {"wx": (6, 4), "wh": (4, 4), "wy": (4, 5)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def network(weights):
    model = ir.from_onnx_text(TEXT)
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name in weights:
                value.const_value = ir.tensor(weights[value.name], name=value.name)
                model.graph.register_initializer(value)
    return Runner(load(ir.to_proto(model)))


def outputs(weights, sequences):
    """Every output of a network that feeds itself, in float64."""
    found = []
    for sequence in sequences:
        h = np.zeros((1, 4))
        for x in sequence:
            h = np.tanh(x.astype(np.float64) @ weights["wx"] + h @ weights["wh"])
            found.append((h @ weights["wy"]).ravel())
    return np.array(found)


def cosine(a, b):
    both = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(1) / both))


def test_the_state_is_the_models_own(weights, rng):
    sequences = rng.standard_normal((3, 9, 1, 6)).astype(np.float32)
    changed = {**weights, "wh": weights["wh"] * np.float32(1.2)}
    original = network(weights)
    data = load_data(Stateful([{"x": one} for one in sequences]), original.inputs, original)
    budget = Budget(min_cosine=0.5, outputs=("y",))
    verdict = Judge(original, budget, data, None, careful=False)(network(changed))
    wanted = cosine(outputs(weights, sequences), outputs(changed, sequences))
    assert 1.0 - verdict.damage == pytest.approx(wanted, abs=1e-6)
    # what it would be with the original's state at each step is something else
    samples = [dict(data[i]) for i in range(len(data))]
    forced = Judge(original, budget, samples, None, careful=False)(network(changed))
    assert forced.damage != pytest.approx(verdict.damage, rel=0.05)


def test_steps_of_parts_follow_only_where_they_stay_together(weights, rng):
    original = network(weights)
    steps = [{"x": x} for x in rng.standard_normal((4, 1, 6)).astype(np.float32)]
    steps[2]["h0"] = np.zeros((1, 4), np.float32)  # a state that is given
    data = load_data(Stateful([steps] * 5), original.inputs, original)
    assert isinstance(data, Samples)
    assert data.steps is not None
    assert data.steps.state == {"h0": "hn"}
    assert data.steps.follow == [False, True, False, True] * 5
    parts = [(data[3:6], [False, False, True]), (data[::2], [False] * 10), (data[5:5], [])]
    for part, wanted in parts:
        steps_of_part = part.steps
        assert steps_of_part is not None
        assert steps_of_part.follow == wanted
    three = split(data, 0)
    for samples in (three.calibrate, three.select, three.confirm):
        assert isinstance(samples, Samples)
        assert samples.steps is not None
        assert samples.steps.follow == [False, True, False, True] * (len(samples) // 4)


def test_plain_samples_have_no_steps():
    assert Samples(lambda i: {}, range(3)).steps is None
