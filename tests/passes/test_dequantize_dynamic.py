"""Dequantize: activations that are rounded over their own range whenever the model runs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.passes.quantized import Inputs, dequantize, model, node


def integers(rng, *shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


def dynamic(*nodes):
    return [node("DynamicQuantizeLinear", "x", "q s z"), *nodes]


def column_scales(rng):
    return rng.uniform(0.01, 0.02, 6).astype(np.float32)


DYNAMIC = {
    "matmul": (
        dynamic(
            node("MatMulInteger", "q w z wz", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "s ws", "t"),
            node("Mul", "f t"),
        ),
        1,
    ),
    "matmul, scaled one after the other": (
        dynamic(
            node("MatMulInteger", "q w z wz", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "ws f", "g"),
            node("Mul", "g s"),
        ),
        1,
    ),
    "to float": (dynamic(node("ms::MatMulIntegerToFloat", "q w s ws z wz bias")), 2),
    "dynamic": ([node("ms::DynamicQuantizeMatMul", "x w ws wz bias")], 2),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_rounded_as_it_comes(name, rng):
    nodes, count = DYNAMIC[name]
    weights = {
        "w": rng.integers(0, 256, (8, 6)).astype(np.uint8),
        "ws": column_scales(rng),
        "wz": rng.integers(100, 150, 6).astype(np.uint8),
        "bias": rng.standard_normal(6).astype(np.float32),
    }
    read = {n for one in nodes for n in one.input}
    before = model(nodes, {k: v for k, v in weights.items() if k in read})
    x = {"x": rng.standard_normal((5, 8)).astype(np.float32)}
    done = dequantize(before)
    assert done.ops == ["MatMul", "Add"][:count]
    right, found = done.run(x)
    assert np.abs(found - right).max() <= 0.02 * np.abs(right).max()
    assert np.abs(found - right).max() > 0
    kept = dequantize(before, keep_activations=True)
    if name != "dynamic":  # which rounds inside
        np.testing.assert_allclose(kept.run(x)[1], right, rtol=1e-5, atol=1e-5)


def test_a_factor_by_row_stays_behind(rng):
    nodes = dynamic(
        node("MatMulInteger", "q w z", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "f rows", "g"),
        node("Mul", "g s"),
    )
    weights = {"w": integers(rng, 8, 6), "rows": rng.uniform(0.01, 0.02, (6, 1)).astype("f")}
    done = dequantize(model(nodes, weights, inputs={"x": (np.float32, [6, 8])}))
    assert done.ops == ["MatMul", "Mul"]
    right, found = done.run({"x": rng.standard_normal((6, 8)).astype(np.float32)})
    assert 0 < np.abs(found - right).max() <= 0.02 * np.abs(right).max()


def test_two_operands_that_are_rounded_as_they_come(rng):
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("DynamicQuantizeLinear", "b", "r t u"),
        node("MatMulInteger", "q r z u", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s t", "st"),
        node("Mul", "f st"),
    ]
    kinds: Inputs = {"x": (np.float32, ["N", 8]), "b": (np.float32, [8, 4])}
    done = dequantize(model(nodes, {}, inputs=kinds))
    assert done.ops == ["MatMul"]
    x = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("x", (5, 8)), ("b", (8, 4)))}
    right, found = done.run(x)
    assert 0 < np.abs(found - right).max() <= 0.03 * np.abs(right).max()


def test_a_convolution_that_is_rounded_as_it_comes(rng):
    nodes = dynamic(
        node("ConvInteger", "q w z", "i", pads=[1, 1, 1, 1]),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "t"),
        node("Mul", "f t"),
    )
    weights = {"w": integers(rng, 6, 3, 3, 3), "ws": np.array(0.01, np.float32)}
    done = dequantize(model(nodes, weights, inputs={"x": (np.float32, ["N", 3, 9, 9])}))
    assert done.ops == ["Conv"]
    right, found = done.run({"x": rng.standard_normal((2, 3, 9, 9)).astype(np.float32)})
    assert 0 < np.abs(found - right).max() <= 0.03 * np.abs(right).max()


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("by_gate", [False, True])
def test_a_recurrent_layer(direction, by_gate, rng):
    count, hidden = 1 + (direction == "bidirectional"), 5
    shape = (count, 4 * hidden) if by_gate else (count,)
    weights = {
        "w": integers(rng, count, 8, 4 * hidden),
        "r": integers(rng, count, hidden, 4 * hidden),
        "b": rng.standard_normal((count, 8 * hidden)).astype(np.float32),
        "ws": rng.uniform(0.001, 0.004, shape).astype(np.float32),
        "rs": rng.uniform(0.001, 0.004, shape).astype(np.float32),
        "wz": np.zeros(shape, np.int8),
        "rz": np.zeros(shape, np.int8),
    }
    names = "x w r b - - - - ws wz rs rz"
    made = node("ms::DynamicQuantizeLSTM", names, "y", hidden_size=hidden, direction=direction)
    done = dequantize(model([made], weights, inputs={"x": (np.float32, [4, 2, 8])}))
    assert done.ops == ["LSTM"]
    right, found = done.run({"x": rng.standard_normal((4, 2, 8)).astype(np.float32)})
    assert 0 < np.abs(found - right).max() <= 0.03


def test_attention(rng):
    weights = {
        "w": integers(rng, 8, 24),
        "bias": rng.standard_normal(24).astype(np.float32),
        "ws": np.float32(0.005),
        "wz": np.int8(0),
    }
    nodes = dynamic(node("ms::QAttention", "q w bias s ws - z wz", num_heads=2))
    done = dequantize(model(nodes, weights, inputs={"x": (np.float32, [2, 5, 8])}))
    assert done.ops == ["Attention"]
    right, found = done.run({"x": rng.standard_normal((2, 5, 8)).astype(np.float32)})
    assert 0 < np.abs(found - right).max() <= 0.03 * np.abs(right).max()


def test_embeddings_with_a_norm(rng):
    tables = {"word": 20, "pos": 6, "seg": 2}
    weights = {}
    for name, rows in (*tables.items(), ("gamma", 0), ("beta", 0)):
        shape = (rows, 8) if rows else (8,)
        weights[name] = rng.integers(0, 256, shape).astype(np.uint8)
        weights[f"{name}.s"], weights[f"{name}.z"] = np.float32(0.02), np.uint8(120)
    parts = ("word", "pos", "seg", "gamma", "beta")
    names = ["i", "j", *parts, "-", *(f"{p}.s" for p in parts), *(f"{p}.z" for p in parts)]
    made = node("ms::QEmbedLayerNormalization", " ".join(names), "y m")
    kinds = {"i": (np.int32, [2, 5]), "j": (np.int32, [2, 5])}
    done = dequantize(model([made], weights, inputs=kinds))
    assert done.ops == ["EmbedLayerNormalization"]
    feeds = {
        "i": rng.integers(0, 20, (2, 5)).astype(np.int32),
        "j": np.zeros((2, 5), np.int32),
    }
    right, found = done.run(feeds)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-4)


def test_a_product_without_its_scale_is_refused(rng):
    nodes = dynamic(
        node("MatMulInteger", "q w z", "i"), node("Cast", "i", "y", to=TensorProto.FLOAT)
    )
    done = dequantize(model(nodes, {"w": integers(rng, 8, 6)}))
    assert done.ops == ["DynamicQuantizeLinear", "MatMulInteger", "Cast"]
    assert done.reasons == ["no product with its scale follows"]
