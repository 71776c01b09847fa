"""FactorizeRecurrent: W and R of LSTM, GRU and RNN, against ONNX Runtime's own operators."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, load, serialize
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.pipeline import clean
from onnxslim_rx.planner.carry_out import apply_plan
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes.factorize_recurrent import FactorizeRecurrent
from onnxslim_rx_passes.quantize_weights import QuantizeWeights

TARGET = load_target("ort-cpu")
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, K, H = 6, 3, 7, 5
ONE = FactorizeRecurrent(min_elements=1, min_saving=0.0)


def value(name, shape, dtype=ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def recurrent(
    rng,
    op="LSTM",
    *,
    direction="forward",
    bias=True,
    lengths=False,
    initial=False,
    peepholes=False,
    outputs=None,
    opset=17,
    sizes=(K, H),
    dtype=ir.DataType.FLOAT,
    rank=None,
    **attributes,
) -> ir.Model:
    """A model of one operator; `rank`: that of its weights."""
    k, h = sizes
    d, g = (2 if direction == "bidirectional" else 1), GATES[op]
    kind = dtype.numpy()
    initializers = []

    def weight(name, *shape):
        array = rng.standard_normal(shape) * 0.5
        if rank is not None and len(shape) == 3:
            joint = rng.standard_normal((d * g * h, rank)) @ rng.standard_normal((rank, shape[2]))
            array = joint.reshape(shape) * 0.3
        made = value(name, shape, dtype)
        made.const_value = ir.tensor(array.astype(kind), name=name)
        initializers.append(made)
        return made

    batch_first = attributes.get("layout", 0)
    x = value("x", (B, T, k) if batch_first else ("T", "B", k), dtype)
    inputs = [x]
    operands: list[Any] = [x, weight("W", d, g * h, k), weight("R", d, g * h, h)]
    operands.append(weight("bias", d, 2 * g * h) if bias else None)
    operands.append(value("lengths", ("B",), ir.DataType.INT32) if lengths else None)
    state = (B, d, h) if batch_first else (d, "B", h)
    operands.append(value("h0", state, dtype) if initial else None)
    if op == "LSTM":
        operands.append(value("c0", state, dtype) if initial else None)
        operands.append(weight("P", d, 3 * h) if peepholes else None)
    inputs += [v for v in operands[1:] if v is not None and v.const_value is None]
    while operands[-1] is None:
        operands.pop()
    attributes |= {"hidden_size": h} | ({"direction": direction} if direction else {})
    every = ("Y", "Y_h", "Y_c")[: 3 if op == "LSTM" else 2]
    node = ir.node(op, operands, attributes, num_outputs=len(every), name="layer")
    for made, name in zip(node.outputs, every, strict=True):
        made.name = name if outputs is None or name in outputs else ""
        made.type = ir.TensorType(dtype)
        steps = (B, T, d, h) if batch_first else ("T", d, "B", h)
        made.shape = ir.Shape(steps if name == "Y" else state)
    graph = ir.Graph(
        inputs,
        [made for made in node.outputs if made.name],
        nodes=[node],
        initializers=initializers,
        opset_imports={"": opset},
        name="g",
    )
    return load(onnx.load_from_string(serialize(ir.Model(graph, ir_version=8))))


def feeds(model, rng, sizes=(T, B)):
    found = {}
    for one in model.graph.inputs:
        dims = [{"T": sizes[0], "B": sizes[1]}.get(str(d), d) for d in one.shape]
        if one.name == "lengths":
            found[one.name] = np.array([sizes[0], 0, sizes[0] // 2][: sizes[1]], dtype=np.int32)
        else:
            found[one.name] = rng.standard_normal([int(d) for d in dims]).astype(one.dtype.numpy())
    return found


def layers(model, one=ONE) -> dict[str, Layer]:
    return {layer.name: layer for layer in one.layers(model) if isinstance(layer, Layer)}


def refusals(model, one=ONE) -> dict[str, str]:
    return {layer.where: layer.why for layer in one.layers(model) if isinstance(layer, Skipped)}


def treat(model, name, rank, stats=None, method="svd"):
    """Treat one weight in a copy, and check the copy."""
    copy = clone(model)
    stage = Stage(ONE.name, {"method": method, "rank": rank})
    assert apply_treatments(copy, [(layers(copy)[name], (stage,), stats)], {ONE.name: ONE}) == []
    onnx.checker.check_model(serialize(copy), full_check=True)
    return copy


def dense(model, name, rank):
    """The model with what the factors stand for in the place of the weight."""
    copy = clone(model)
    layer = layers(copy)[name]
    stage = Stage(ONE.name, {"method": "svd", "rank": rank})
    weight = tensor_of(layer.weight).numpy()
    (product,) = ONE.restore(layer, ONE.transform(layer, stage, (weight.astype("d"),), None))
    assert product.shape == weight.shape
    layer.weight.const_value = ir.tensor(product.astype(weight.dtype), name=name)
    return copy


def close(left, right, given, tolerance=2e-5):
    a, b = Runner(left)(given), Runner(right)(given)
    assert list(a) == list(b)
    for name, array in a.items():
        assert (b[name].shape, b[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(b[name], array, rtol=0, atol=tolerance, err_msg=name)


CASES: list[dict[str, Any]] = [
    {"op": op, "direction": direction} | more
    for op in GATES
    for direction in ("forward", "reverse", "bidirectional")
    for more in (
        dict[str, Any](),
        {"lengths": True, "initial": True},
        *([{"peepholes": True}] if op == "LSTM" else []),
        *([{"linear_before_reset": 1, "lengths": True}] if op == "GRU" else []),
    )
] + [
    {"op": "LSTM", "peepholes": True, "lengths": True, "initial": True,
     "direction": "bidirectional"},
    {"op": "LSTM", "bias": False, "outputs": ["Y"]},
    {"op": "LSTM", "outputs": ["Y_c"], "direction": "bidirectional"},
    {"op": "LSTM", "outputs": ["Y_h", "Y_c"], "lengths": True},
    {"op": "LSTM", "input_forget": 1},
    {"op": "LSTM", "clip": 0.3},
    {"op": "GRU", "clip": 0.3, "linear_before_reset": 1},
    {"op": "GRU", "bias": False, "linear_before_reset": 1},
    {"op": "RNN", "clip": 0.3, "outputs": ["Y_h"]},
    {"op": "RNN", "activations": ["Relu"]},
    {"op": "GRU", "activations": ["Softsign", "Relu"]},
    {"op": "LSTM", "activations": ["Sigmoid", "Relu", "tanh"]},
    {
        "op": "LSTM",
        "direction": "bidirectional",
        "activations": ["Sigmoid", "Tanh", "Softsign", "Sigmoid", "Softsign", "Tanh"],
    },
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_the_steps_written_out_are_those_of_the_restored_weight(case, rng):
    model = recurrent(rng, **case)
    after = treat(model, "R", 2)
    assert [v.name for v in after.graph.outputs] == [v.name for v in model.graph.outputs]
    assert case["op"] not in {node.op_type for node in after.graph}
    close(dense(model, "R", 2), after, feeds(model, rng))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_full_rank_is_exact_and_a_lower_one_as_restored(op, direction, rng):
    model = recurrent(rng, op, direction=direction, lengths=True, initial=True)
    given = feeds(model, rng)
    assert list(layers(model)) == ["W", "R"]
    close(model, treat(model, "R", H), given)
    close(model, treat(model, "W", min(K, tensor_of(layers(model)["W"].weight).size // K)), given)
    narrow = treat(model, "W", 2)
    assert [node.op_type for node in narrow.graph] == ["MatMul", op]
    assert narrow.graph.initializers["W"].shape.numpy()[-1] == 2
    close(dense(model, "W", 2), narrow, given)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 14, 18, 22])
def test_opsets(opset, rng):
    model = recurrent(rng, opset=opset, lengths=True, clip=0.5, direction="bidirectional")
    given = feeds(model, rng)
    close(dense(model, "W", 3), treat(model, "W", 3), given)
    if opset < 9:
        assert "no Scan" in refusals(model)["R"]
    else:
        close(dense(model, "R", 3), treat(model, "R", 3), given)


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_transposed_time_first(op, rng):
    """ONNX Runtime has no kernel for it: the steps written out are compared with time first."""
    seed = int(rng.integers(1 << 30))
    options = {"op": op, "initial": True, "direction": "bidirectional", "lengths": True}
    first = recurrent(np.random.default_rng(seed), layout=1, **options)
    last = recurrent(np.random.default_rng(seed), **options)
    given = feeds(last, rng)
    turned = {k: v if k == "lengths" else np.swapaxes(v, 0, 1) for k, v in given.items()}
    right = Runner(dense(last, "R", 2))(given)
    found = Runner(treat(first, "R", 2))(turned)
    np.testing.assert_allclose(found["Y"], right["Y"].transpose(2, 0, 1, 3), atol=2e-5)
    for state in [name for name in right if name != "Y"]:
        np.testing.assert_allclose(found[state], right[state].swapaxes(0, 1), atol=2e-5)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (9, 1)])
def test_sizes_of_one(sizes, rng):
    model = recurrent(rng, "GRU", direction="reverse", lengths=True, sizes=(1, 3))
    given = feeds(model, rng, sizes)
    close(model, treat(model, "W", 1), given)
    close(model, treat(model, "R", 3), given)


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_factors_have_the_type_of_the_weight(dtype, rng):
    model = recurrent(rng, dtype=dtype, initial=True)
    for name in ("W", "R"):
        after = treat(model, name, 2)
        kinds = {v.dtype for v in after.graph.initializers.values() if v.dtype.is_floating_point()}
        assert kinds == {dtype}
    # there are no such kernels of LSTM; what it becomes runs everywhere
    exact = recurrent(np.random.default_rng(1), initial=True)
    narrow = recurrent(np.random.default_rng(1), initial=True, dtype=dtype)
    given = feeds(exact, rng)
    found = Runner(treat(narrow, "R", 2))({k: v.astype(dtype.numpy()) for k, v in given.items()})
    right = Runner(dense(exact, "R", 2))(given)
    np.testing.assert_allclose(found["Y"], right["Y"], atol=5e-3)


def plan(name, rank, quantized=False, method="svd"):
    stages = [Stage("factorize-recurrent", {"method": method, "rank": rank})]
    if quantized:
        stages.append(Stage("quantize-weights", {"bits": 8, "form": "cast-mul"}))
    return LayerPlan(name, tuple(stages), 0.0, 0.0)


def quantized(model) -> set[str]:
    """Names of the stored integers."""
    return {str(v.name) for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8}


PASSES = {"factorize-recurrent": ONE, "quantize-weights": QuantizeWeights(min_elements=1)}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("order", [("W", "R"), ("R", "W")])
def test_both_weights_of_one_operator_in_one_plan(op, direction, order, rng):
    model = recurrent(rng, op, direction=direction, lengths=True)
    after, skipped = apply_plan(model, [plan(name, 2) for name in order], PASSES, {})
    assert skipped == []
    onnx.checker.check_model(serialize(after), full_check=True)
    close(dense(dense(model, "W", 2), "R", 2), after, feeds(model, rng))
    assert op not in {node.op_type for node in after.graph}
    assert layers(after) == {}  # no factor is cut again


@pytest.mark.parametrize("treated", ["W", "R"])
def test_a_chain_rounds_the_factors_and_nothing_else(treated, rng):
    model = recurrent(rng, direction="bidirectional", rank=2)
    after, skipped = apply_plan(model, [plan(treated, 2, quantized=True)], PASSES, {})
    assert skipped == []
    stored = quantized(after)
    assert stored
    assert all(name.startswith(treated) for name in stored)
    assert len(stored) == (2 if treated == "W" else 4)
    close(model, after, feeds(model, rng), 0.05)


@pytest.mark.parametrize("order", [("W", "R"), ("R", "W")])
def test_two_chains_on_one_operator(order, rng):
    model = recurrent(rng, rank=2, direction="bidirectional")
    plans = [plan(name, 2, quantized=True) for name in order]
    after, skipped = apply_plan(model, plans, PASSES, {})
    assert skipped == []
    assert len(quantized(after)) == 6
    close(model, after, feeds(model, rng), 0.1)


@pytest.mark.parametrize("treated", ["W", "R"])
def test_the_other_weight_is_found_by_name_to_be_rounded(treated, rng):
    other = {"W": "R", "R": "W"}[treated]
    model = recurrent(rng, rank=2)
    rounding = LayerPlan(other, plan("", 1, quantized=True).stages[1:], 0.0, 0.0)
    after, skipped = apply_plan(model, [plan(treated, 2), rounding], PASSES, {})
    assert skipped == []
    assert quantized(after) == {f"{other}.int8"}
    close(model, after, feeds(model, rng), 0.05)


def test_the_input_is_whitened_and_the_state_is_not(rng):
    model = recurrent(rng, sizes=(24, 16), direction="bidirectional")
    scale = np.logspace(0, -2, 24).astype(np.float32)
    data = [{"x": rng.standard_normal((T, B, 24)).astype("f") * scale} for _ in range(20)]
    found = layers(model)
    assert [m.name for m in found["R"].members] == ["W"]
    stats = collect(model, [found["W"]], data)["W"]
    of_state = LayerStatistics(None, None, stats.rows, None, stats.shape, members=(stats,))
    one = FactorizeRecurrent(min_elements=1, rank=6)
    (w,) = one.candidates(found["W"], stats, TARGET)
    (r,) = one.candidates(found["R"], of_state, TARGET)
    assert w.stages[0].options == {"method": "whitened-svd", "rank": 6}
    assert r.stages[0].options == {"method": "svd", "rank": 6}
    assert w.bytes == 4 * 6 * (24 + 2 * 4 * 16)
    assert r.bytes == 4 * 2 * 6 * (16 + 4 * 16)
    errors = {}
    x = np.concatenate([d["x"].reshape(-1, 24) for d in data]).astype(np.float64)
    weight = tensor_of(found["W"].weight).numpy().astype(np.float64)
    for method in ("svd", "whitened-svd"):
        stage = Stage(one.name, {"method": method, "rank": 6})
        (product,) = one.restore(found["W"], one.transform(found["W"], stage, (weight,), stats))
        right = np.einsum("xk,dgk->xdg", x, weight)
        errors[method] = np.linalg.norm(np.einsum("xk,dgk->xdg", x, product) - right)
        errors[method] /= np.linalg.norm(right)
    assert errors["whitened-svd"] < 0.7 * errors["svd"]
    assert errors["whitened-svd"] == pytest.approx(w.error, abs=0.02)


def test_the_error_of_the_state_is_that_of_its_weight(rng):
    model = recurrent(rng, direction="bidirectional", sizes=(8, 16))
    layer = layers(model)["R"]
    (candidate,) = FactorizeRecurrent(min_elements=1, rank=5).candidates(layer, None, TARGET)
    weight = tensor_of(layer.weight).numpy().astype(np.float64)
    tails = [
        np.sum(np.linalg.svd(w)[1][5:] ** 2) / np.sum(w**2) for w in weight
    ]  # of each direction
    assert candidate.error == pytest.approx(np.sqrt(np.mean(tails)), rel=1e-6)


def test_ladders_descend_and_save(rng):
    model = recurrent(rng, sizes=(96, 64), direction="bidirectional")
    for layer in layers(model).values():
        offers = list(FactorizeRecurrent().candidates(layer, None, TARGET))
        ranks = [int(c.stages[0].options["rank"]) for c in offers]
        assert len(ranks) >= 2
        assert ranks == sorted(ranks, reverse=True)
        assert [c.error for c in offers] == sorted(c.error for c in offers)
        assert all(c.bytes <= 0.9 * tensor_of(layer.weight).nbytes for c in offers)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activations": ["Sigmoid", "Tanh", "HardSigmoid"]}, "HardSigmoid has parameters"),
        ({"activations": ["Sigmoid", "Tanh"]}, "2 activations"),
        ({"opset": 8}, "no Scan"),
    ],
)
def test_what_cannot_be_written_out_is_refused(options, reason, rng):
    model = recurrent(rng, **options)
    assert reason in refusals(model)["R"]
    assert list(layers(model)) == ["W"]


@pytest.mark.parametrize("name", ["W", "bias", "P"])
def test_computed_constants_are_refused(name, rng):
    model = recurrent(rng, peepholes=True)
    model.graph.inputs.append(model.graph.initializers[name])
    assert "are computed" in refusals(model)["R"]
    assert list(layers(model)) == ([] if name == "W" else ["W"])


def test_a_weight_that_two_nodes_read_is_refused(rng):
    model = recurrent(rng)
    node = model.graph.node(0)
    second = ir.node("LSTM", node.inputs, node.attributes, num_outputs=3, name="second")
    model.graph.append(second)
    assert set(refusals(model)) == {"W", "R"}
    assert "2 nodes share it" in refusals(model)["W"]


def test_weights_that_are_not_finite_and_ranks_that_do_not_fit(rng):
    for name, rank in itertools.product(("W", "R"), (0, 8)):
        model = recurrent(rng)
        stage = Stage(ONE.name, {"method": "svd", "rank": rank})
        (refused,) = apply_treatments(model, [(layers(model)[name], (stage,), None)], PASSES)
        assert "does not fit" in refused.why
        layer = layers(model)[name]
        broken = tensor_of(layer.weight).numpy().copy()
        broken[0, 0, 0] = np.nan
        layer.weight.const_value = ir.tensor(broken)
        assert list(ONE.candidates(layer, None, TARGET)) == []
        stage = Stage(ONE.name, {"method": "svd", "rank": 2})
        (refused,) = apply_treatments(model, [(layer, (stage,), None)], PASSES)
        assert "NaN or infinity" in refused.why
        assert [node.op_type for node in model.graph] == ["LSTM"]


def test_whitening_without_statistics_is_refused(rng):
    one = FactorizeRecurrent(method="whitened-svd", min_elements=1)
    model = recurrent(rng, sizes=(20, 20))
    with pytest.raises(InputError, match="no statistics"):
        list(one.candidates(layers(model)["W"], None, TARGET))


BRANCH = """g (float[T, B, 7] x, bool c) => (float[T, 1, B, 5] y) {
    y = If (c) <
        then_branch = t () => (float[T, 1, B, 5] p) { p, ph, pc = LSTM<hidden_size=5>(x, W, R) },
        else_branch = e () => (float[T, 1, B, 5] q) { q, qh, qc = LSTM<hidden_size=5>(x, V, S) }
    >
}"""


def test_in_a_branch_the_input_is_treated_and_the_state_refused(build_model, rng):
    shapes = {"W": (1, 20, 7), "R": (1, 20, 5), "V": (1, 20, 7), "S": (1, 20, 5)}
    weights = {n: (rng.standard_normal(s) * 0.5).astype("f") for n, s in shapes.items()}
    model = build_model(BRANCH, weights)
    assert list(layers(model)) == ["W", "V"]
    assert "lies in a subgraph" in refusals(model)["R"]
    after = treat(treat(model, "W", 7), "V", 7)
    for c in (True, False):
        x = rng.standard_normal((T, B, 7)).astype("f")
        close(model, after, {"x": x, "c": np.array(c)})


def test_a_real_model_with_state(assets, rng):
    """Silero's LSTM: in branches as it comes, in the main graph once cleaned."""
    model = clean(load(assets / "models" / "silero_vad_16k_op15.onnx")).model
    found = layers(model, FactorizeRecurrent())
    assert {layer.weight_index for layer in found.values()} == {1, 2}
    given = {
        "input": rng.standard_normal((2, 576)).astype("f") * 0.1,
        "state": rng.standard_normal((2, 2, 128)).astype("f") * 0.1,
        "sr": np.array(16000),
    }
    plans = [plan(name, 128) for name in found]
    after, skipped = apply_plan(model, plans, PASSES, {})
    assert skipped == []
    close(model, after, {k: v for k, v in given.items() if k in Runner(model).inputs}, 1e-4)
