"""Layers cut out of their network, and what timings say of choices that were not timed."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.linalg import whitened_svd
from onnxslim_rx.passbase import KEEP, CompressionPass, Layer, LayerStatistics, Skip, Stage
from onnxslim_rx.planner import Choice, Unit, measure_latencies
from onnxslim_rx.planner.cost import latency
from onnxslim_rx.planner.cost.entering import Activations
from onnxslim_rx.planner.cost.isolate import Region, isolate, structure, treat
from onnxslim_rx.planner.cost.timing import time_choices
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm

TARGET = load_target("ort-cpu")
IMPORTS = '<ir_version: 8, opset_import: ["": 17]>'


def network(text, weights):
    """A model in which `weights` are constants."""
    model = ir.from_onnx_text(IMPORTS + text)
    for name, array in weights.items():
        old = {v for node in model.graph.all_nodes() for v in node.inputs if v and v.name == name}
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        model.graph.register_initializer(value)
        for one in old:
            one.replace_all_uses_with(value)
    return load(ir.to_proto(model))


def node_of(model, op):
    return next(node for node in model.graph.all_nodes() if node.op_type == op)


def layer_at(node, kind, weight, activation, **more):
    return Layer(node.inputs[weight].name, node.op_type, kind, node, weight, activation, **more)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def cases(rng):
    """By name: a model, a layer of it, a sample."""
    found = {}
    model = network(
        """g (float[n, s] x, int64[n, s] ids) => (float[n, s, 6] y) {
            e = Gather(table, ids)
            axes = Constant <value = int64[1] {2}> ()
            u = Unsqueeze(x, axes)
            y = Add(e, u)
        }""",
        {"table": normal(rng, 50, 6)},
    )
    ids = rng.integers(0, 50, (2, 7))
    found["embedding"] = (
        model,
        layer_at(node_of(model, "Gather"), "embedding", 0, 1),
        {"x": normal(rng, 2, 7), "ids": ids},
    )
    model = network(
        """g (float[s, n, 5] x, float[1, n, 4] h, float[1, n, 4] c, int32[n] lens)
        => (float[s, 1, n, 4] z, float[1, n, 4] last) {
            a = Tanh(x)
            h0 = Neg(h)
            y, yh, last = LSTM<hidden_size = 4>(a, W, R, B, lens, h0, c)
            z = Relu(y)
        }""",
        {"W": normal(rng, 1, 16, 5), "R": normal(rng, 1, 16, 4), "B": normal(rng, 1, 32)},
    )
    sample = {"x": normal(rng, 6, 3, 5), "h": normal(rng, 1, 3, 4), "c": normal(rng, 1, 3, 4)}
    sample["lens"] = np.array([6, 2, 4], np.int32)
    found["recurrent"] = model, layer_at(node_of(model, "LSTM"), "recurrent", 1, 0), sample
    model = network(
        """g (float[1, 3, H, W] x) => (float[1, 8, P, Q] y) {
            a = Relu(x)
            c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(a, k, b)
            y = Sigmoid(c)
        }""",
        {"k": normal(rng, 8, 3, 3, 3), "b": normal(rng, 8)},
    )
    found["conv"] = (
        model,
        layer_at(node_of(model, "Conv"), "conv", 1, 0),
        {"x": normal(rng, 1, 3, 9, 11)},
    )
    model = network(
        """g (float[s, 16] x, bool[s, s] mask) => (float[s, 16] y) {
            q0 = MatMul(x, wq)
            k0 = MatMul(x, wk)
            shape = Shape(x)
            q = Reshape(q0, shape)
            k = Transpose(k0)
            scores = MatMul(q, k)
            some = Where(mask, scores, low)
            p = Softmax(some)
            a = MatMul(p, x)
            y = Add(a, q)
        }""",
        {"wq": normal(rng, 16, 16), "wk": normal(rng, 16, 16), "low": np.float32(-1e4)},
    )
    nodes = {node.outputs[0].name: node for node in model.graph}
    region = tuple(nodes[name] for name in ("q0", "k0", "q", "k", "scores", "some", "p"))
    constants = tuple(nodes[name].inputs[1] for name in ("q0", "k0"))
    layer = layer_at(nodes["q0"], "linear", 1, 0, region=region, constants=constants)
    mask = np.tril(np.ones((5, 5), bool))
    found["attention"] = model, layer, {"x": normal(rng, 5, 16), "mask": mask}
    model = network(
        """g (float[n, 8] x, bool flag) => (float[n, 8] y) {
            a = Tanh(x)
            y = If (flag) <
                then_branch = one () => (float[n, 8] p) { t = Transpose(w) p = MatMul(a, t) },
                else_branch = two () => (float[n, 8] q) { q = Neg(a) }
            >
        }""",
        {"w": normal(rng, 8, 8)},
    )
    node = node_of(model, "MatMul")
    layer = Layer("w", "MatMul", "linear", node, 1, 0)
    found["branch"] = model, layer, {"x": normal(rng, 3, 8), "flag": np.array(True)}
    return found


NAMES = ("embedding", "recurrent", "conv", "attention", "branch")


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_on_its_own_computes_what_it_computes_in_the_network(cases, name):
    model, layer, sample = cases[name]
    region = Region.of(layer)
    activations = Activations(model, sample)
    activations.prepare([region])
    feeds = activations.entering(region, None)
    alone = Runner(isolate(model, region, feeds, zeros=False))
    if name == "branch":  # what lies in it cannot be seen from outside
        weight = model.graph.initializers["w"].const_value.numpy()
        np.testing.assert_allclose(alone(feeds)["p"], feeds["a"] @ weight.T, rtol=1e-4, atol=1e-5)
        return
    whole = ir.from_proto(ir.to_proto(model))
    made = {v.name: v for node in whole.graph for v in node.outputs}
    for value in (*region.inputs, *region.outputs):
        if value.name in made and not made[value.name].is_graph_output():
            whole.graph.outputs.append(made[value.name])
    reference = sample | Runner(whole, optimize=False)(sample)
    for key, array in feeds.items():
        assert (array.dtype, array.shape) == (reference[key].dtype, reference[key].shape)
        if array.dtype.kind != "f":  # floats of equal size serve each other
            np.testing.assert_array_equal(array, reference[key])
    found = alone({key: reference[key] for key in alone.inputs})
    assert found.keys() == {value.name for value in region.outputs}
    for key, array in found.items():
        np.testing.assert_allclose(array, reference[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_zero_are_of_the_same_size_and_type(cases, name):
    model, layer, sample = cases[name]
    region = Region.of(layer)
    activations = Activations(model, sample)
    activations.prepare([region])
    feeds = activations.entering(region, None)
    real = isolate(model, region, feeds, zeros=False)
    zero = isolate(model, region, feeds)
    for key, value in real.graph.initializers.items():
        one, other = value.const_value, zero.graph.initializers[key].const_value
        assert one is not None
        assert other is not None
        assert (other.dtype, other.shape) == (one.dtype, one.shape)
    assert structure(real) == structure(zero)
    runner = Runner(zero)
    runner({key: feeds[key] for key in runner.inputs})


def test_without_a_model_numbers_are_made_up(cases):
    _, embedding, _ = cases["embedding"]
    stats = LayerStatistics(None, None, 1, None, (2, 7))
    feeds = Activations(None, None).entering(Region.of(embedding), stats)
    assert feeds["ids"].shape == (2, 7)
    assert feeds["ids"].dtype == np.int64
    assert 0 <= feeds["ids"].min() <= feeds["ids"].max() < 50
    _, recurrent, _ = cases["recurrent"]
    stats = LayerStatistics(None, None, 1, None, (6, 3, 5))
    with pytest.raises(InputError, match="size of 'lens' is not known"):
        Activations(None, None).entering(Region.of(recurrent), stats)
    for size, name in (((3,), "lens"), ((1, 3, 4), "h0"), ((1, 3, 4), "c")):
        (value,) = (v for v in recurrent.node.inputs if v.name == name)
        value.shape = ir.Shape(size)
    feeds = Activations(None, None).entering(Region.of(recurrent), stats)
    assert feeds["lens"].tolist() == [6, 6, 6]
    assert feeds["lens"].dtype == np.int32


def product(rng, k=64, n=48, name="w", dtype=np.float32):
    text = "g (float[r, K] x) => (float[r, N] y) { a = Tanh(x) b = MatMul(a, w) y = Relu(b) }"
    if dtype == np.float16:
        text = text.replace("float[", "float16[")
    text = text.replace(" w)", f" {name})").replace("K", str(k)).replace("N", str(n))
    return network(text, {name: rng.standard_normal((k, n)).astype(dtype)})


def alone_of(model, rows=4):
    node = node_of(model, "MatMul")
    region = Region.of(layer_at(node, "linear", 1, 0))
    weight = node.inputs[1].const_value.numpy()
    return isolate(model, region, {"a": np.zeros((rows, len(weight)), weight.dtype)})


def test_structure_tells_sizes_and_types_apart_but_not_names(rng):
    base = structure(alone_of(product(rng)))
    assert structure(alone_of(product(rng, name="other"))) == base
    others = [
        alone_of(product(rng, n=47)),
        alone_of(product(rng), rows=5),
        alone_of(product(rng, dtype=np.float16)),
    ]
    assert len({base, *map(structure, others)}) == 4


def test_structure_sees_attributes_and_small_integers(cases):
    model, layer, sample = cases["conv"]
    feeds = {"a": sample["x"]}
    base = structure(isolate(model, Region.of(layer), feeds))
    layer.node.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    assert structure(isolate(model, Region.of(layer), feeds)) != base


def unit_for(model, ranks, stats):
    factorize = FactorizeGemm()
    layer = next(one for one in factorize.layers(model) if isinstance(one, Layer))
    assert layer.weight.shape is not None
    k, n = layer.weight.shape.numpy()
    choices = [Choice(KEEP, 0.0, 4 * k * n, 2 * k * n)]
    for rank in ranks:
        stage = Stage(factorize.name, {"method": "whitened-svd", "rank": rank})
        size = rank * (k + n)
        choices.append(Choice((stage,), 0.1, 4 * size, 2 * size, folds=False))
    return Unit(layer, stats, choices)


@pytest.fixture
def thin(rng):
    """A layer whose low ranks are much faster, and a sample."""
    model = product(rng, 512, 512)
    gram = np.full((512, 512), np.nan)  # reading it would fail
    stats = LayerStatistics(gram, None, 100, None, (32, 512))
    return unit_for(model, (16, 32, 48, 64), stats), model, {"x": normal(rng, 32, 512)}


PASSES = {"factorize-gemm": FactorizeGemm()}


def test_candidates_are_timed_without_decompositions(thin):
    unit, model, sample = thin
    measure_latencies([unit], PASSES, TARGET, model=model, sample=sample)
    assert unit.latency_ms > 0
    ranks = {c.stages[0].options["rank"]: c.relative_latency for c in unit.choices if c.stages}
    assert set(ranks) == {16, 32, 48, 64}
    assert ranks[16] < 0.8
    assert all(c.latency_ms <= unit.latency_ms for c in unit.choices)


def test_zeros_need_no_gram_matrix():
    p, q = whitened_svd(np.zeros((5, 7), np.float32), np.full((5, 5), np.nan), 3)
    assert (p.shape, q.shape) == ((5, 3), (3, 7))
    assert not (p @ q).any()
    with pytest.raises(ValueError, match="rank 6"):
        whitened_svd(np.zeros((5, 7)), np.eye(5), 6)


def test_a_second_run_times_nothing_and_equal_layers_share(thin, rng, tmp_path, monkeypatch):
    unit, model, sample = thin
    measure_latencies([unit], PASSES, TARGET, model=model, sample=sample, cache=tmp_path)
    first = [(str(c), c.latency_ms) for c in unit.choices]

    def refuse(*args, **options):
        raise AssertionError("timed again")

    again = product(rng, 512, 512, name="second")
    other = unit_for(again, (16, 32, 48, 64), unit.stats)
    with monkeypatch.context() as patch:
        patch.setattr(latency, "time_interleaved", refuse)
        measure_latencies([other], PASSES, TARGET, model=again, sample=sample, cache=tmp_path)
        assert [(str(c), c.latency_ms) for c in other.choices] == first
        shorter = {"x": sample["x"][:8]}
        with pytest.raises(AssertionError, match="timed again"):
            measure_latencies([other], PASSES, TARGET, model=again, sample=shorter, cache=tmp_path)
    (path,) = (tmp_path / "latency").iterdir()
    path.write_text("{")
    third = unit_for(again, (16, 32, 48, 64), unit.stats)
    measure_latencies([third], PASSES, TARGET, model=again, sample=sample, cache=tmp_path)
    assert len(third.choices) == 5


@dataclasses.dataclass(frozen=True)
class Picky(CompressionPass):
    """Refuses weights of zero, and makes layers three times as slow."""

    name: ClassVar[str] = "picky"

    def layers(self, model):
        return PASSES["factorize-gemm"].layers(model)

    def apply(self, layer, stage, stats, tape):
        if not layer.weight.const_value.numpy().any():
            raise ValueError("a weight of zeros")
        if stage.options.get("refuse"):
            return Skip("never")
        results = [tape.op("MatMul", list(layer.node.inputs)) for _ in range(3)]
        return tape.op(
            "Sum", [tape.op("Neg", [one]) if i else one for i, one in enumerate(results)]
        )


def test_slow_and_refused_choices_are_dropped_also_where_zeros_are_refused(thin):
    unit, model, sample = thin
    own = [
        Choice((Stage("picky", {"refuse": refuse}),), 0.0, 1, 1, folds=False)
        for refuse in (False, True)
    ]
    unit.choices = [unit.choices[0], *own]
    region = Region.of(unit.layer)
    real = isolate(model, region, {"a": sample["x"]}, zeros=False)
    slow = treat(real, unit.layer, own[0].stages, None, {"picky": Picky()})
    assert [node.op_type for node in slow.graph].count("Neg") == 2
    with pytest.raises(InputError, match="never"):
        treat(real, unit.layer, own[1].stages, None, {"picky": Picky()})
    measure_latencies([unit], {"picky": Picky()}, TARGET, model=model, sample=sample)
    assert [choice.stages for choice in unit.choices] == [KEEP]


def choices_of(flops, method="m"):
    stages = [Stage("p", {"method": method, "rank": rank}) for rank in range(len(flops))]
    found = [Choice((s,), 0.1, 1, f, folds=False) for s, f in zip(stages, flops, strict=True)]
    return [Choice(KEEP, 0.0, 1, 1), *found]


def timed_by(law, asked):
    def measure(many):
        asked.append([int(stages[0].options["rank"]) for stages in many])
        return {stages: law(int(stages[0].options["rank"])) for stages in many}

    return measure


def test_ranks_between_timed_ones_are_interpolated_in_operations():
    flops = [100 + 7 * i * i for i in range(11)]
    asked: list[list[int]] = []
    found = time_choices(choices_of(flops), timed_by(lambda r: flops[r] / 1000, asked), 1.05)
    assert asked == [[0, 2, 5, 8, 10]]
    ratios = {int(stages[0].options["rank"]): ratio for stages, ratio in found.items()}
    np.testing.assert_allclose([ratios[r] for r in range(11)], [f / 1000 for f in flops])


def test_between_slow_and_fast_everything_is_timed():
    asked: list[list[int]] = []
    law = timed_by(lambda rank: 0.5 if rank < 7 else 2.0, asked)
    found = time_choices(choices_of(range(100, 1200, 100)), law, 1.05)
    assert asked == [[0, 2, 5, 8, 10], [6, 7]]
    fast = {int(s[0].options["rank"]) for s, ratio in found.items() if ratio <= 1.05}
    assert fast == set(range(7))


def test_what_operations_do_not_tell_apart_is_timed():
    asked: list[list[int]] = []
    time_choices(choices_of([5] * 9), timed_by(lambda _: 0.5, asked), 1.05)
    assert asked == [list(range(9))]


def test_nothing_is_said_of_ranks_beyond_those_that_could_be_timed():
    found = time_choices(choices_of(range(1, 12)), lambda many: dict.fromkeys(many[1:4], 0.5), 1.05)
    assert sorted(int(s[0].options["rank"]) for s in found) == list(range(2, 9))
    assert time_choices(choices_of(range(1, 12)), lambda many: {}, 1.05) == {}
