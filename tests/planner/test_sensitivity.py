"""Measured damages against what rewriting the model really costs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.ir import clone, load
from onnxslim_rx.passbase import (
    KEEP,
    Candidate,
    CompressionPass,
    Layer,
    Stage,
    weight_layers,
)
from onnxslim_rx.planner import (
    Choice,
    Unit,
    apply_plan,
    find_units,
    measure_damages,
    measure_latencies,
)
from onnxslim_rx.planner.cost import latency
from onnxslim_rx.planner.curves import probed, settle
from onnxslim_rx.planner.damage import prefixes, sensitivity
from onnxslim_rx.planner.damage.prefixes import Network, overridable
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
            # two stages add up, and between probes the curve
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


class Rounding(CompressionPass):
    """Stands in for passes that round activations: nothing happens to the weight."""

    name = "round"

    def layers(self, model):
        return weight_layers(model, {"linear": "linear"}, min_elements=1)

    def candidates(self, layer, stats, target):
        for bits in (3, 6):
            options = {"bits": bits}
            yield Candidate((Stage("round", options),), math.nan, 1, 1)

    def applied(self, stage):
        return True

    def apply(self, layer, stage, stats, tape):
        scale = 2.0 ** (2 - stage.options["bits"])
        step = tape.initializer(ir.tensor(np.float32(scale), name=f"{layer.name}.step"))
        rounded = tape.op("Round", [tape.op("Div", [layer.activation, step])])
        node = layer.node
        inputs = [tape.op("Mul", [rounded, step]), *node.inputs[1:]]
        return tape.op(node.op_type, inputs, {k: v.value for k, v in node.attributes.items()})


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_changes_activations_is_carried_out_to_be_measured(network, monkeypatch, everywhere):
    model, data = network
    monkeypatch.setattr(prefixes, "choose_cuts", cut_everywhere if everywhere else cut_nowhere)
    passes = {"round": Rounding()}
    found, _ = find_units(model, passes, {}, TARGET)
    measure_damages(model, found, passes, data, None)
    reference = Runner(model)
    for unit in found:
        for choice in unit.choices[1:]:
            rewritten, _ = apply_plan(
                model, [LayerPlan(unit.layer.name, choice.stages)], passes, {}
            )
            true = 1.0 - compare_runs(reference, Runner(rewritten), data).cosine()
            assert choice.damage == pytest.approx(true, rel=1e-3, abs=1e-7)
        coarse, fine = unit.choices[1:]
        assert coarse.damage > 4 * fine.damage > 0


def cut_everywhere(layout, probes, samples, most_bytes):
    return sorted({0, *(place for place in probes if layout.allows(place, most_bytes))})


def cut_nowhere(layout, probes, samples, most_bytes):
    return [0]


def damages(units):
    return np.array([choice.damage for unit in units for choice in unit.choices])


def test_damages_do_not_depend_on_where_the_network_is_cut(network, units, monkeypatch):
    model, data = network
    found, _ = units
    sessions = []
    init = Network.__init__

    def counting(self, *args):
        init(self, *args)
        sessions.append(self.sessions)

    monkeypatch.setattr(Network, "__init__", counting)
    results = []
    for cuts in (cut_nowhere, cut_everywhere):
        monkeypatch.setattr(prefixes, "choose_cuts", cuts)
        measure_damages(model, found, PASSES, data, None)
        results.append(damages(found))
    assert sessions == [1, 3]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-3, atol=1e-7)
    assert results[0].max() > 1e-3


W = {"w0": (8, 8), "w1": (8, 8), "w2": (8, 8)}
HEAD = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 8] x, bool flag) => """
NETWORKS = {
    "an output before the cut, and one that is an input": """(float[n, 8] a, float[n, 8] y) {
        a = MatMul(x, w0)
        b = Tanh(a)
        c = MatMul(b, w1)
        d = Add(c, b)
        y = MatMul(d, w2)
    }""",
    "a weight that two layers read, and one behind constants": """(float[n, 8] y) {
        a = MatMul(x, w0)
        b = Tanh(a)
        t = Transpose(w1)
        c = MatMul(b, t)
        d = Tanh(c)
        e = MatMul(d, w0)
        y = MatMul(e, w2)
    }""",
    "a sequence crosses the cut": """(float[n, 8] y) {
        a = MatMul(x, w0)
        b = Tanh(a)
        s = SequenceConstruct(a, b)
        c = MatMul(b, w1)
        zero = Constant <value = int64 {0}> ()
        d = SequenceAt(s, zero)
        e = Add(c, d)
        y = MatMul(e, w2)
    }""",
    "a branch reads what crosses the cut": """(float[n, 8] y) {
        a = MatMul(x, w0)
        b = Tanh(a)
        c = If (flag) <
            then_branch = one () => (float[n, 8] p) { p = MatMul(b, w1) },
            else_branch = two () => (float[n, 8] q) { q = Add(b, a) }
        >
        y = MatMul(c, w2)
    }""",
}


def with_weights(text, arrays):
    model = ir.from_onnx_text(HEAD + text)
    for name, array in arrays.items():
        values = {
            v for node in model.graph.all_nodes() for v in node.inputs if v and v.name == name
        }
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        model.graph.register_initializer(value)
        for old in values:
            old.replace_all_uses_with(value)
    return load(ir.to_proto(model))


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_other_weights_behind_a_cut_give_what_the_whole_model_gives(text, rng, monkeypatch):
    monkeypatch.setattr(prefixes, "choose_cuts", cut_everywhere)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in W.items()}
    model = with_weights(text, arrays)
    layers = [
        Layer(str(value.name), "MatMul", "linear", value.uses()[0].node, value.uses()[0].idx, 0)
        for value in model.graph.initializers.values()
        if value.name in W
    ]
    samples = [
        {"x": rng.standard_normal((n, 8)).astype(np.float32), "flag": np.array(n % 2 == 0)}
        for n in (1, 2, 5)
    ]
    network = Network(model, layers, [1, 1, 1], samples, None)
    for number in network.order:
        network.move_to(number)
        name = layers[number].name
        other = {**arrays, name: arrays[name] * 0.5}
        for changed in ({}, {name: other[name]}):
            reference = Runner(with_weights(text, {**arrays, **changed}), optimize=False)
            weights = {layers[number].weight: other[name]} if changed else {}
            for index, sample in enumerate(samples):
                wanted = reference({n: sample[n] for n in reference.inputs})
                found = network.run(index, weights)
                assert found.keys() == wanted.keys()
                for output, array in wanted.items():
                    np.testing.assert_allclose(found[output], array, rtol=1e-4, atol=1e-5)
    assert sorted(network.order) == [0, 1, 2]


def test_a_second_call_probes_nothing_and_damaged_entries_are_probed_again(
    network, units, tmp_path, monkeypatch
):
    model, data = network
    found, _ = units
    measure_damages(model, found, PASSES, data, None, cache=tmp_path)
    first = damages(found)
    (path,) = (tmp_path / "sensitivity").iterdir()

    def refuse(*args):
        raise AssertionError("probed again")

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "Network", refuse)
        measure_damages(model, found, PASSES, data, None, cache=tmp_path)
        np.testing.assert_array_equal(damages(found), first)
        for other in (data[:20], [{"x": sample["x"] * 2} for sample in data]):
            with pytest.raises(AssertionError, match="probed again"):
                measure_damages(model, found, PASSES, other, None, cache=tmp_path)
    path.write_text('{"a": "b", "c": NaN}')
    measure_damages(model, found, PASSES, data, None, cache=tmp_path)
    np.testing.assert_array_equal(damages(found), first)
    assert len(path.read_text()) > 50


@pytest.mark.parametrize(("seconds", "expected"), [(120.0, 32), (0.0, 8)])
def test_slow_models_are_probed_on_fewer_samples(network, units, monkeypatch, seconds, expected):
    model, data = network
    found, _ = units
    monkeypatch.setattr(sensitivity, "_SECONDS", seconds)
    seen = []
    init = Network.__init__

    def counting(self, model, layers, probes, samples, outputs):
        seen.append(len(samples))
        init(self, model, layers, probes, samples, outputs)

    monkeypatch.setattr(Network, "__init__", counting)
    measure_damages(model, found, PASSES, data * 3, None)
    assert seen == [expected]


def unit_of(errors, method="m"):
    stages = [Stage("p", {"method": method, "rank": rank}) for rank in range(len(errors))]
    choices = [Choice((stage,), e, 1, 1) for stage, e in zip(stages, errors, strict=True)]
    layer = Layer("w", "MatMul", "linear", ir.node("MatMul", []), 1, 0)
    return Unit(layer, None, [Choice(KEEP, 0.0, 1, 1), *choices])


def test_a_power_law_is_told_from_three_probes():
    unit = unit_of(np.linspace(0.05, 0.8, 11))
    asked = []

    def damage(choice):
        asked.append(choice.error)
        return 0.3 * choice.error**2

    settle(unit, damage)
    assert len(asked) == 3
    np.testing.assert_allclose(
        [c.damage for c in unit.choices], [0.3 * c.error**2 for c in unit.choices], rtol=1e-6
    )


def test_choices_without_a_predicted_error_are_all_probed():
    unit = unit_of([np.nan, np.nan, 0.1, np.nan])
    assert len(probed(unit)["p m"]) == 4
    settle(unit, lambda choice: float(choice.stages[0].options["rank"]))
    assert [c.damage for c in unit.choices] == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_beyond_a_probe_that_fails_nothing_is_promised():
    unit = unit_of([0.1, 0.2, 0.3, 0.4, 0.5])
    settle(unit, lambda choice: np.inf if choice.error > 0.4 else choice.error)
    assert np.isfinite([c.damage for c in unit.choices]).tolist() == [True] * 4 + [False] * 2


def test_of_a_slow_network_the_methods_of_a_pass_share_probes():
    choices = [Choice(KEEP, 0.0, 100, 100)]
    for method, errors in (("a", (0.1, 0.2, 0.4)), ("b", (0.15, 0.3, 0.8))):
        choices += [
            Choice((Stage("cut", {"method": method, "rank": n}),), error, 50, 50)
            for n, error in enumerate(errors)
        ]
    unit = Unit(unit_of([]).layer, None, choices)
    alone, together = probed(unit), probed(unit, joint=True)
    assert [len(found) for found in alone.values()] == [3, 3]
    assert [len(found) for found in together.values()] == [3]
    settle(unit, lambda choice: 0.5 * choice.error**2, joint=True)
    for choice in choices[1:]:
        assert choice.damage == pytest.approx(0.5 * choice.error**2, rel=1e-9)


@pytest.mark.parametrize(("base", "expected"), [(0.020, [1.0, 0.8]), (0.010, [1.0, 1.0])])
def test_a_saving_of_next_to_nothing_is_none(base, expected):
    choices = [Choice((Stage("p", {"rank": n}),), 0.1, 1, 1, folds=False) for n in (1, 2)]
    unit = Unit(unit_of([]).layer, None, [Choice(KEEP, 0.0, 1, 1), *choices])
    ratios = {choice.stages: ratio for choice, ratio in zip(choices, (0.9, 0.8), strict=True)}
    latency._settle(unit, base, ratios, TARGET, slower=False)
    assert [choice.relative_latency for choice in unit.choices[1:]] == expected


def test_what_is_slower_stays_only_where_size_counts():
    choices = [Choice((Stage("p", {"rank": n}),), 0.1, 1, 1, folds=False) for n in (1, 2)]
    ratios = {choice.stages: ratio for choice, ratio in zip(choices, (1.5, 0.8), strict=True)}
    kept = []
    for slower in (True, False):
        unit = Unit(unit_of([]).layer, None, [Choice(KEEP, 0.0, 1, 1), *choices])
        latency._settle(unit, 1.0, ratios, TARGET, slower=slower)
        kept.append([choice.relative_latency for choice in unit.choices[1:]])
    assert kept == [[1.5, 0.8], [0.8]]
