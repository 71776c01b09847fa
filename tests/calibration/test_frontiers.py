"""Where graphs are cut, and that every step stays inside the memory."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import blocks
from onnxslim_rx.calibration.frontiers import Measure, Route, plan_steps
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner


def graph_of(body):
    """A graph of square float matrices; what starts with w is a weight."""
    weights = sorted({word.strip("(),") for word in body.split() if word.strip("(),")[:1] == "w"})
    declared = ", ".join(["float[N,4] x", *(f"float[4,4] {name}" for name in weights)])
    graph = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g ({declared}) => (float[N,4] y) {{ {body} }}'
    ).graph
    for value in list(graph.inputs)[1:]:
        graph.inputs.remove(value)
        value.const_value = ir.tensor(np.ones((4, 4), np.float32), name=value.name)
        graph.register_initializer(value)
    return graph


def values_of(graph, names):
    made = {value.name: value for node in graph for value in node.outputs}
    made |= {value.name: value for value in graph.inputs}
    return [made[name] for name in names]


def names(values):
    return [value.name for value in values]


def plan(graph, costs, memory_bytes, size=lambda _: 1, uncuttable=()):
    """Keys of `costs` are names of tensors to measure, or several between spaces."""
    wanted = {
        key: Measure(tuple(values_of(graph, key.split())), cost) for key, cost in costs.items()
    }
    return plan_steps(graph, wanted, memory_bytes, size, uncuttable)


def assert_runs(graph, steps, wanted):
    """Every step finds what it reads, and each tensor is measured once."""
    saved = set(graph.inputs)
    by_name = {value.name: value for node in graph for value in node.outputs} | {
        value.name: value for value in graph.inputs
    }
    for step in steps:
        assert saved.issuperset(step.inputs)
        made = {value for node in step.nodes for value in node.outputs}
        known = made | set(step.inputs) | set(step.weights)
        assert all(value in known for node in step.nodes for value in node.inputs)
        together = {by_name[name] for key in step.measures for name in key.split()}
        assert together <= made | set(step.inputs) | set(graph.inputs)
        assert made.issuperset(step.saves)
        saved.update(step.saves)
    measured = [name for step in steps for name in step.measures]
    assert sorted(measured) == sorted(wanted)


CHAIN = " ".join(f"m{i} = MatMul(h{i}, w{i}) h{i + 1} = Relu(m{i})" for i in range(9))
CHAIN = f"h0 = Identity(x) {CHAIN} y = Identity(h9)"


@pytest.mark.parametrize("memory_bytes", [1, 150, 390, 1000, 10_000])
def test_steps_stay_inside_the_memory(memory_bytes):
    graph = graph_of(CHAIN)
    costs = {f"h{i}": 100 for i in range(9)}
    steps = plan(graph, costs, memory_bytes)
    assert_runs(graph, steps, costs)
    for step in steps:
        used = 100 * len(step.measures) + 2 * 64 * len(step.weights)
        assert used <= memory_bytes or len(step.measures) + len(step.weights) <= 1
    assert (len(steps) == 1) == (memory_bytes == 10_000)


def test_nodes_that_no_measurement_needs_do_not_run():
    graph = graph_of(CHAIN)
    (step,) = plan(graph, {"h2": 100}, 10_000)
    assert names(value for node in step.nodes for value in node.outputs) == [
        "h0", "m0", "h1", "m1", "h2",
    ]  # fmt: skip
    assert names(step.weights) == ["w0", "w1"]


def test_the_cut_is_where_the_frontier_is_narrow():
    body = "a = Sin(x) b = Cos(a) c = Add(a, b) d = Neg(c) e = Add(d, b) f = Sin(e) y = Neg(f)"
    body += " z = Neg(y)"
    graph = graph_of(body)
    sizes = {"a": 4, "b": 9, "c": 7, "d": 9, "e": 5, "f": 6, "y": 6, "z": 1}
    steps = plan(graph, dict.fromkeys("abcdefz", 10), 60, size=lambda value: sizes[value.name])
    assert [names(step.saves) for step in steps] == [["e"], []]  # behind e nothing else lives
    assert_runs(graph, steps, "abcdefz")


def test_what_lives_long_is_saved_once():
    body = "a = Sin(x) b = Cos(a) c = Neg(b) d = Neg(c) e = Neg(d) y = Add(e, a)"
    graph = graph_of(body)
    steps = plan(graph, dict.fromkeys("abcdey", 10), 1)
    assert_runs(graph, steps, "abcdey")
    assert [name for step in steps for name in names(step.saves)].count("a") == 1
    assert names(steps[-1].inputs) == ["e", "a"]


@pytest.mark.parametrize("memory_bytes", [100, 250])
def test_where_no_cut_is_possible_the_block_runs_several_times(memory_bytes):
    graph = graph_of(CHAIN)
    costs = {f"h{i}": 100 for i in range(9)}
    made = [value.name for node in graph for value in node.outputs]
    steps = plan(graph, costs, memory_bytes, uncuttable=made)
    assert_runs(graph, steps, costs)
    assert all(100 * len(step.measures) <= memory_bytes for step in steps)
    assert not any(step.saves for step in steps)


def test_a_cut_avoids_what_cannot_be_saved():
    graph = graph_of(CHAIN)
    costs = {f"h{i}": 100 for i in range(9)}
    steps = plan(graph, costs, 1, uncuttable=[f"m{i}" for i in range(9)])
    assert_runs(graph, steps, costs)
    assert {name for step in steps for name in names(step.saves)} == {f"h{i}" for i in range(8)}


@pytest.mark.parametrize("memory_bytes", [1, 390, 10_000])
def test_tensors_that_are_measured_together_are_there_together(memory_bytes):
    graph = graph_of(CHAIN)
    costs = {"h1 h7": 100, "x h3": 100, "h2 h2": 100, "h8 h0 m4": 100, "x": 100}
    steps = plan(graph, costs, memory_bytes)
    assert_runs(graph, steps, costs)
    assert (len(steps) > 1) == (memory_bytes < 10_000)
    # none is made in vain: the latest tells where the measurement is made
    place = {key: number for number, step in enumerate(steps) for key in step.measures}
    assert place["x"] <= place["h2 h2"] <= place["x h3"] <= place["h1 h7"] <= place["h8 h0 m4"]


def test_what_needs_no_sample_is_measured_first():
    graph = graph_of("a = Neg(w) h = MatMul(x, w) i = Sin(h) j = MatMul(a, a) y = Add(i, j)")
    steps = plan(graph, {"a": 10, "j": 10, "h": 10, "y j": 10}, 1)
    assert_runs(graph, steps, ["a", "j", "h", "y j"])
    assert not {"a", "j"} & {name for step in steps for name in names(step.saves)}
    assert [key for step in steps for key in step.measures] == ["a", "j", "h", "y j"]


def test_few_files_are_open_at_once():
    """A hundred tensors live in the middle; the cut goes round them."""
    many = 100
    body = " ".join(f"a{i} = Sin(x)" for i in range(many))
    body += " b0 = Add(a0, a0) "
    body += " ".join(f"b{i} = Add(b{i - 1}, a{i})" for i in range(1, many))
    graph = graph_of(f"{body} y = Neg(b{many - 1})")
    costs = {f"a{i}": 100 for i in range(many)} | {f"b{i}": 100 for i in range(many)}
    steps = plan(graph, costs, 100)
    assert_runs(graph, steps, costs)
    live = 0
    for number in range(len(steps)):
        later = {value for other in steps[number + 1 :] for value in other.inputs}
        made = {value for other in steps[: number + 1] for value in other.saves}
        live = max(live, len(later & made))
    assert 2 <= live <= 64


def test_a_step_that_does_not_load_alone_gets_another_frontier(monkeypatch, rng):
    graph = graph_of(CHAIN)
    model = ir.Model(graph, ir_version=8)
    layers = [
        Layer(f"w{i}", "MatMul", "linear", node, 1, 0)
        for i, node in enumerate(node for node in graph if node.op_type == "MatMul")
    ]
    data = [{"x": rng.standard_normal((5, 4)).astype(np.float32)}]
    expected = calibration.collect(model, layers, data)
    refused = []

    def picky(part):
        if {"m3", "h4"} & {value.name for value in part.graph.inputs}:
            refused.append(part)
            raise InputError("it needs what lies before")
        return Runner(part)

    monkeypatch.setattr(blocks, "Runner", picky)
    found = calibration.collect(model, layers, data, memory_bytes=1)
    assert refused
    for layer in layers:
        one, other = found[layer.name].gram, expected[layer.name].gram
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-12)


def test_a_model_that_does_not_load_says_so(monkeypatch, rng):
    graph = graph_of("h = MatMul(x, w) f = Frobnicate(h) y = MatMul(f, w)")
    layers = [Layer("w", "MatMul", "linear", graph[0], 1, 0)]
    layers.append(Layer("y", "MatMul", "linear", graph[2], 1, 0))
    data = [{"x": rng.standard_normal((5, 4)).astype(np.float32)}]
    with pytest.raises(InputError, match="Frobnicate"):
        calibration.collect(ir.Model(graph, ir_version=8), layers, data, memory_bytes=1)


def test_rounds_do_not_share_a_step():
    graph = graph_of("a = MatMul(x, w1) b = MatMul(a, w2) y = Relu(b)")
    a, b = values_of(graph, ["a", "b"])
    measures = {key: Measure((a, b), 1) for key in ("first", "second", "third")}
    made = (a.producer(),)
    for rounds, expected in (
        ({"first": 0, "second": 0, "third": 0}, [("first", "second", "third")]),
        ({"first": 0, "second": 0, "third": 1}, [("first", "second"), ("third",)]),
    ):
        route = Route(made, dict.fromkeys(measures, 1), rounds)
        steps = plan_steps(graph, measures, 1 << 30, lambda _: 1, (), route)
        assert [step.measures for step in steps] == expected
        # what runs for good is not saved, as nobody reads it later; the rest runs in each step
        assert [names(step.saves) for step in steps] == [[]] * len(steps)
        assert {len(step.nodes) for step in steps} == {2}
