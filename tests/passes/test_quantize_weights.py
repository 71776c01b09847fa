"""QuantizeWeights: every kind of weight, against the grid's bound and the undone rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, size_bytes
from onnxslim_rx.passbase import Layer, Skipped
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_weights import QuantizeWeights

TARGET = load_target("ort-cpu")


def model(text, weights, *, opset=17, ir_version=8):
    """A graph in ONNX's text form with the given initializers."""
    found = ir.from_onnx_text(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]>\n{text}',
    )
    for name, array in weights.items():
        (value,) = {
            v for node in found.graph.all_nodes() for v in node.inputs if v and v.name == name
        }
        value.const_value = ir.tensor(array, name=name)
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        value.shape = ir.Shape(array.shape)
        found.graph.register_initializer(value)
    return load(ir.to_proto(found))


def quantize(found, form="cast-mul", method="auto"):
    """Treat every layer that offers the form; the layers."""
    one = QuantizeWeights(form=form, method=method, min_elements=1)
    treatments = [
        (layer, candidate.stages, None)
        for layer in one.layers(found)
        if isinstance(layer, Layer)
        for candidate in one.candidates(layer, None, TARGET)
    ]
    assert apply_treatments(found, treatments, {one.name: one}) == []
    return [layer for layer, *_ in treatments]


CASES = {
    "matmul": ("g (float[4, 40] x) => (float[4, 60] y) { y = MatMul(x, w) }", (40, 60), (1,)),
    "matmul-left": ("g (float[60, 4] x) => (float[40, 4] y) { y = MatMul(w, x) }", (40, 60), (0,)),
    "matmul-batched": (
        "g (float[3, 4, 40] x) => (float[3, 4, 60] y) { y = MatMul(x, w) }",
        (3, 40, 60),
        (0, 2),
    ),
    "gemm": ("g (float[4, 40] x) => (float[4, 60] y) { y = Gemm(x, w) }", (40, 60), (1,)),
    "gemm-transB": (
        "g (float[4, 40] x) => (float[4, 60] y) { y = Gemm<transB=1>(x, w) }",
        (60, 40),
        (0,),
    ),
    "conv": ("g (float[1, 8, 9, 9] x) => (float[1, 16, 7, 7] y) { y = Conv(x, w) }",
             (16, 8, 3, 3), (0,)),
    "conv-transpose": (
        "g (float[1, 16, 5, 5] x) => (float[1, 8, 7, 7] y) { y = ConvTranspose(x, w) }",
        (16, 8, 3, 3),
        (1,),
    ),
    "embedding": ("g (int64[7] x) => (float[7, 16] y) { y = Gather(w, x) }", (100, 16), (0,)),
}  # fmt: skip


def feed(found, rng):
    (x,) = found.graph.inputs
    if x.dtype == ir.DataType.INT64:
        return {"x": rng.integers(0, 100, x.shape.numpy())}
    return {"x": rng.standard_normal(x.shape.numpy()).astype(np.float32)}


@pytest.mark.parametrize("case", CASES)
def test_the_model_computes_with_the_rounded_weight(case, rng):
    text, shape, axes = CASES[case]
    weight = rng.standard_normal(shape).astype(np.float32)
    others = tuple(i for i in range(len(shape)) if i not in axes)
    # channels of very different size: one scale for all of them would lose the small ones
    sizes = np.expand_dims(10.0 ** rng.uniform(-3, 3, [shape[a] for a in axes]), others)
    weight = (weight * sizes).astype(np.float32)
    plain = model(text, {"w": weight})
    x = feed(plain, rng)
    found = model(text, {"w": weight})
    (layer,) = quantize(found, method="nearest")
    assert layer.name == "w"

    stored = found.graph.initializers["w.int8"].const_value.numpy()
    scale = found.graph.initializers["w.scale"].const_value.numpy()
    assert stored.dtype == np.int8
    assert scale.shape == tuple(n if i in axes else 1 for i, n in enumerate(shape))
    rounded = stored * scale
    # half a step, and the float32 rounding of the scale times 127
    assert (np.abs(weight - rounded) <= scale * (0.5 + 127 * 2.0**-23)).all()
    expected = Runner(model(text, {"w": rounded}))(x)["y"]
    np.testing.assert_array_equal(Runner(found)(x)["y"], expected)
    assert size_bytes(found) < 0.5 * size_bytes(plain)
    assert [node.op_type for node in found.graph][:2] == ["Cast", "Mul"]


def test_recurrent_weights_have_a_scale_for_each_gate_row(rng):
    text = "g (float[5, 1, 12] x) => (float[5, 1, 1, 16] y) { y = LSTM<hidden_size=16>(x, w, r) }"
    weights = {
        "w": rng.standard_normal((1, 64, 12)).astype(np.float32),
        "r": rng.standard_normal((1, 64, 16)).astype(np.float32),
    }
    found = model(text, weights)
    assert [layer.name for layer in quantize(found)] == ["w", "r"]
    assert found.graph.initializers["r.scale"].const_value.shape.numpy() == (1, 64, 1)
    x = rng.standard_normal((5, 1, 12)).astype(np.float32)
    before, after = Runner(model(text, weights))({"x": x})["y"], Runner(found)({"x": x})["y"]
    # gates squash: an error of 0.4% in the weights stays of that order
    assert np.abs(after - before).max() < 0.05


def test_tied_weights_stay_tied(rng):
    text = """g (float[4, 40] x) => (float[4, 40] y) {
        a = MatMul(x, w)
        y = MatMul(a, w)
    }"""
    found = model(text, {"w": rng.standard_normal((40, 40)).astype(np.float32)})
    quantize(found)
    first, second = (node for node in found.graph if node.op_type == "MatMul")
    assert first.inputs[1] is second.inputs[1]
    assert len(found.graph.initializers) == 2


def test_weights_of_a_branch_are_stored_in_the_branch(rng):
    text = """g (bool[] c, float[4, 40] x) => (float[4, 60] y) {
        y = If (c) <
            then_branch = t () => (float[4, 60] a) { a = MatMul(x, w) },
            else_branch = e () => (float[4, 60] b) { b = MatMul(x, v) }
        >
    }"""
    weights = {k: rng.standard_normal((40, 60)).astype(np.float32) for k in ("w", "v")}
    found = model(text, weights)
    assert len(quantize(found)) == 2
    x = rng.standard_normal((4, 40)).astype(np.float32)
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": x}
        before = Runner(model(text, weights))(feeds)["y"]
        after = Runner(found)(feeds)["y"]
        assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


def test_dequantize_linear_is_the_same_weight_in_another_form(rng):
    text, shape, _ = CASES["matmul"]
    weight = rng.standard_normal(shape).astype(np.float32)
    x = {"x": rng.standard_normal((4, 40)).astype(np.float32)}
    cast, dequantize = model(text, {"w": weight}), model(text, {"w": weight})
    quantize(cast)
    quantize(dequantize, "dequantize-linear")
    assert dequantize.graph.node(0).op_type == "DequantizeLinear"
    a = Runner(cast, optimize=False)(x)["y"]
    b = Runner(dequantize, optimize=False)(x)["y"]
    np.testing.assert_array_equal(a, b)


def test_dequantize_linear_is_offered_where_it_exists_only(rng):
    text, shape, _ = CASES["matmul"]
    weight = {"w": rng.standard_normal(shape).astype(np.float32)}
    one = QuantizeWeights(form="dequantize-linear", min_elements=1)
    offered = {}
    for opset in (12, 13):
        (layer,) = one.layers(model(text, weight, opset=opset))
        assert isinstance(layer, Layer)
        offered[opset] = len(list(one.candidates(layer, None, TARGET)))
    assert offered == {12: 0, 13: 1}


def test_half_precision_weights_keep_their_type(rng):
    text = "g (float16[4, 40] x) => (float16[4, 60] y) { y = MatMul(x, w) }"
    weight = (0.02 * rng.standard_normal((40, 60))).astype(np.float16)
    found = model(text, {"w": weight})
    quantize(found)
    scale = found.graph.initializers["w.scale"].const_value.numpy()
    assert scale.dtype == np.float16
    x = {"x": rng.standard_normal((4, 40)).astype(np.float16)}
    before, after = Runner(model(text, {"w": weight}))(x)["y"], Runner(found)(x)["y"]
    assert after.dtype == np.float16
    norm = np.linalg.norm(before.astype(float))
    assert np.linalg.norm(after.astype(float) - before.astype(float)) < 0.02 * norm


def test_a_second_run_finds_nothing(rng):
    text, shape, _ = CASES["conv"]
    found = model(text, {"w": rng.standard_normal(shape).astype(np.float32)})
    quantize(found)
    again = list(QuantizeWeights(min_elements=1).layers(found))
    assert ["already quantized" in s.why for s in again if isinstance(s, Skipped)] == [True]


def test_weights_too_small_to_pay_get_no_candidate(rng):
    text = "g (float[4, 8] x) => (float[4, 9] y) { y = MatMul(x, w) }"
    found = model(text, {"w": rng.standard_normal((8, 9)).astype(np.float32)})
    assert quantize(found) == []


def test_weights_that_are_not_finite_get_no_candidate(rng):
    text, shape, _ = CASES["conv"]
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[0, 0, 0, 0] = np.inf
    assert quantize(model(text, {"w": weight})) == []


def test_opset_6_cannot_broadcast_the_scale(rng):
    text, shape, _ = CASES["matmul"]
    found = model(text, {"w": rng.standard_normal(shape).astype(np.float32)}, opset=6)
    (layer,) = QuantizeWeights(min_elements=1).layers(found)
    assert isinstance(layer, Skipped)
    assert "opset 6" in layer.why


@pytest.mark.parametrize("options", [{"bits": 1}, {"form": "qdq"}, {"min_elements": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="quantize-weights"):
        QuantizeWeights(**options)
