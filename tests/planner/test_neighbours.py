"""Layers between others that are treated in the same way are timed without what these save them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import load
from onnxslim_rx.passbase import KEEP, Layer, Stage
from onnxslim_rx.planner import Choice, Unit
from onnxslim_rx.planner.cost.neighbours import Neighbours, core
from onnxslim_rx.runtime import Runner

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 8] x, float[8, 8] w) => (float[n, 8] y, float[n, 8] z) {
    a = MatMul(x, w)
    b = Relu(a)
    c = Add(b, x)
    d = MatMul(b, w)
    e = Add(b, d)
    f = Erf(e)
    y = MatMul(f, w)
    z = MatMul(e, w)
}"""


@pytest.fixture
def around():
    """What lies around the products of a network that a pass can treat, and the names of values."""
    model = ir.from_onnx_text(NETWORK)
    units = []
    for node in model.graph:
        if node.op_type == "MatMul":
            layer = Layer(str(node.outputs[0].name), "MatMul", "linear", node, 1, 0)
            stage = Stage("integers", {"bits": 8})
            choices = [Choice(KEEP, 0.0, 1, 1), Choice((stage,), 0.0, 1, 1)]
            units.append(Unit(layer, None, choices))
    values = {v.name: v for node in model.graph for v in (*node.inputs, *node.outputs) if v}
    return Neighbours(units), values


@pytest.mark.parametrize(
    ("name", "gives", "takes"),
    [
        ("x", False, True),  # an input of the model must be rounded
        ("a", True, True),
        ("b", True, True),
        ("c", False, False),  # one of its terms comes from outside; nobody reads it
        ("d", True, True),
        ("e", True, True),
        ("f", False, True),  # no runtime has Erf on integers
        ("y", True, False),
    ],
)
def test_what_lies_between_layers_of_one_pass(around, name, gives, takes):
    neighbours, values = around
    assert neighbours.gives(values[name], "integers") is gives
    assert neighbours.takes(values[name], "integers") is takes
    assert not neighbours.gives(values[name], "another")
    assert not neighbours.takes(values[name], "another")


PART = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 8] x, float[n, 8] r) => (float[n, 8] y)
<float s = {0.125}, uint8 z = {128}> {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    a = Add(xd, r)
    yq = QuantizeLinear(a, s, z)
    y = DequantizeLinear(yq, s, z)
}"""


@dataclasses.dataclass
class Part:
    """A layer on its own and what enters it."""

    model: ir.Model
    feeds: dict[str, np.ndarray]


@pytest.fixture
def part(rng):
    feeds = {name: rng.standard_normal((3, 8)).astype(np.float32) for name in "xr"}
    return Part(load(ir.to_proto(ir.from_onnx_text(PART))), feeds)


def test_conversions_at_the_ends_are_left_out(part):
    wanted = Runner(part.model)(part.feeds)["y"]
    model, feeds = core(part.model, part.feeds, [0, 1], [0])
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Add", "QuantizeLinear"]
    runner = Runner(model)
    (found,) = runner({name: feeds[name] for name in runner.inputs}).values()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal((found.astype(np.float32) - 128) * 0.125, wanted)


def test_only_those_that_neighbours_save(part):
    model, feeds = core(part.model, part.feeds, [1], [])
    assert model is part.model
    assert feeds is part.feeds
    model, _ = core(part.model, part.feeds, [], [0])
    assert [node.op_type for node in model.graph] == [
        *("QuantizeLinear", "DequantizeLinear", "Add", "QuantizeLinear"),
    ]


def test_halves_count_as_well(rng):
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 8] x) => (float[n, 8] y) {
        h = Cast<to = 10>(x)
        t = Tanh(h)
        y = Cast<to = 1>(t)
    }"""
    part = load(ir.to_proto(ir.from_onnx_text(text)))
    model, feeds = core(part, {"x": rng.standard_normal((2, 8)).astype(np.float32)}, [0], [0])
    assert [node.op_type for node in model.graph] == ["Tanh"]
    assert feeds["h"].dtype == np.float16
