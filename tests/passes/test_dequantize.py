"""Dequantize: weights that are stored as integers become exactly what they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import SpooledTensor
from onnxslim_rx_passes import dequantize as module
from onnxslim_rx_passes.dequantize import Dequantize
from tests.passes.quantized import Inputs, dequantize, model, node, small_integers

RANGES = {
    np.int8: (-128, 127),
    np.uint8: (0, 255),
    np.int16: (-32768, 32767),
    np.uint16: (0, 65535),
    np.int32: (-(2**20), 2**20),
}
SMALL = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}


def linear(nodes, weights, **options):
    """`y = MatMul(x, w)` behind the nodes that make `w`, (8, 6)."""
    return model([*nodes, node("MatMul", "x w")], weights, **options)


def assert_weight(done, expected, rng, tolerance=1e-6):
    """The model holds `expected` as its only large constant, and computes with it."""
    (found,) = (array for array in done.constants.values() if array.size == expected.size)
    np.testing.assert_array_equal(found, expected)
    before, after = done.run({"x": rng.standard_normal((3, 8)).astype(np.float32)})
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * np.abs(before).max())


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_behind_dequantize_linear(dtype, axis, rng):
    low, high = RANGES[dtype]
    q = rng.integers(low, high + 1, (8, 6)).astype(dtype)
    count = () if axis is None else (q.shape[axis],)
    s = rng.uniform(1e-3, 1e-2, count).astype(np.float32)
    weights = {"q": q, "s": s}
    if dtype != np.int32:  # whose zero point must be 0
        weights["z"] = rng.integers(low // 2, high // 2, count).astype(dtype)
    given = {} if axis is None else {"axis": axis}
    made = node("DequantizeLinear", "q s z" if "z" in weights else "q s", "w", **given)
    done = dequantize(linear([made], weights))
    assert done.ops == ["MatMul"]
    around = (lambda a: a) if axis is None else (lambda a: np.expand_dims(a, 1 - axis % 2))
    zero = around(weights["z"].astype(np.int64)) if "z" in weights else 0
    expected = ((q.astype(np.int64) - zero) * around(s).astype(np.float64)).astype(np.float32)
    assert_weight(done, expected, rng)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("zeros", [False, True])
def test_behind_blockwise_dequantize_linear(dtype, axis, zeros, rng):
    low, high = SMALL[dtype]
    q = rng.integers(low, high + 1, (8, 6))
    shape = (4, 6) if axis == 0 else (8, 3)  # blocks of 2
    s = rng.uniform(0.01, 1, shape).astype(np.float32)
    z = rng.integers(low, high + 1, shape) if zeros else np.zeros(shape, int)
    weights = {"q": small_integers("q", q, dtype), "s": s}
    if zeros:
        weights["z"] = small_integers("z", z, dtype)
    names = "q s z" if zeros else "q s"
    made = node("DequantizeLinear", names, "w", axis=axis, block_size=2)
    opset = 25 if dtype in (TensorProto.INT2, TensorProto.UINT2) else 21
    done = dequantize(linear([made], weights, opset=opset))
    spread = [np.repeat(a, 2, axis) for a in (z, s.astype(np.float64))]
    assert_weight(done, ((q - spread[0]) * spread[1]).astype(np.float32), rng)


@pytest.mark.parametrize("order", ["c s", "s c"])
@pytest.mark.parametrize("zero", [None, "constant", "cast"])
def test_behind_a_product(order, zero, rng):
    q = rng.integers(-128, 128, (8, 6)).astype(np.int8)
    s = rng.uniform(0.01, 1, (8, 1)).astype(np.float32)
    nodes = [node("Cast", "q", "c", to=TensorProto.FLOAT)]
    weights = {"q": q, "s": s}
    if zero is not None:
        weights["z"] = np.int8(3) if zero == "cast" else np.float32(3)
        if zero == "cast":
            nodes.append(node("Cast", "z", "zf", to=TensorProto.FLOAT))
        nodes.append(node("Sub", f"c {'zf' if zero == 'cast' else 'z'}", "d"))
        order = order.replace("c", "d")
    done = dequantize(linear([*nodes, node("Mul", order, "w")], weights))
    assert "MatMul" in done.ops
    assert "Mul" not in done.ops
    expected = (q.astype(float) - (0 if zero is None else 3)) * s.astype(np.float64)
    assert_weight(done, expected.astype(np.float32), rng)


def test_arithmetic_on_wide_integers_is_no_weight():
    nodes = [node("Cast", "q", "c", to=TensorProto.FLOAT), node("Mul", "c s", "w")]
    done = dequantize(linear(nodes, {"q": np.ones((8, 6), np.int64), "s": np.float32(2)}))
    assert done.ops == ["Cast", "Mul", "MatMul"]
    assert done.reasons == []


def test_weights_in_half_where_half_holds_them(rng):
    q = rng.integers(-128, 128, (64, 32)).astype(np.int8)
    made = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w")]
    for scale, kept in ((0.01, np.float16), (1e3, np.float32), (1e-9, np.float32)):
        weights = {"q": q, "s": np.float32(scale)}
        done = dequantize(
            model(made, weights, inputs={"x": (np.float32, ["N", 64])}), dtype="float16"
        )
        (found,) = done.constants.values()
        assert found.dtype == kept
        assert done.ops == (["Cast"] if kept == np.float16 else []) + ["MatMul"]
        before, after = done.run({"x": rng.standard_normal((3, 64)).astype(np.float32)})
        assert np.linalg.norm(after - before) <= 1e-3 * np.linalg.norm(before)


def test_names_tell_what_the_weight_was_called(rng):
    q = rng.integers(-128, 128, (8, 6)).astype(np.int8)
    nodes = [node("DequantizeLinear", "fc.w_quantized s", "w")]
    done = dequantize(linear(nodes, {"fc.w_quantized": q, "s": np.float32(0.1)}))
    assert set(done.constants) == {"fc.w"}


def test_a_constant_that_the_graph_returns(rng):
    made = [node("DequantizeLinear", "q s", "y")]
    done = dequantize(model(made, {"q": np.arange(6, dtype=np.int8), "s": np.float32(0.5)}))
    assert done.ops == ["Identity"]
    before, after = done.run({"x": np.zeros((1, 8), np.float32)})
    np.testing.assert_array_equal(after, before)


def test_large_models_keep_their_weights_in_files(rng, monkeypatch):
    monkeypatch.setattr(module, "LARGE_BYTES", 1 << 20)
    q = rng.integers(-128, 128, (512, 600)).astype(np.int8)
    made = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w")]
    weights = {"q": q, "s": np.float32(0.5)}
    done = dequantize(model(made, weights, inputs={"x": (np.float32, ["N", 512])}))
    (value,) = done.after.graph.initializers.values()
    assert isinstance(value.const_value, SpooledTensor)
    np.testing.assert_array_equal(value.const_value.numpy(), q * np.float32(0.5))


REFUSED: dict[str, tuple[list[onnx.NodeProto], Inputs, str]] = {
    "scales that are fed": (
        [node("DequantizeLinear", "q t", "w"), node("MatMul", "x w")],
        {"t": (np.float32, [])},
        "a scale or zero point is no constant",
    ),
    "columns in another order": (
        [node("ms::MatMulNBits", "x q8 s8 - g", K=8, N=6, bits=4, block_size=16)],
        {},
        "its columns are in another order (g_idx)",
    ),
    "integers that are fed": (
        [node("ms::MatMulNBits", "x q9 s8", K=8, N=6, bits=4, block_size=16)],
        {"q9": (np.uint8, [6, 1, 8])},
        "it is no constant",
    ),
    "bits that are not known": (
        [node("ms::MatMulNBits", "x q8 s8", K=8, N=6, bits=5, block_size=16)],
        {},
        "blocks of 16 integers of 5 bits are not known",
    ),
    "scales that do not fit": (
        [node("ms::MatMulNBits", "x q8 s", K=8, N=6, bits=4, block_size=16)],
        {},
        "integers, scales or zero points do not fit its shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case):
    nodes, more, why = REFUSED[case]
    weights = {
        "q": np.ones((8, 6), np.int8),
        "s": np.float32(1),
        "q8": np.zeros((6, 1, 8), np.uint8),
        "s8": np.ones((6, 1), np.float32),
        "g": np.zeros(8, np.int32),
    }
    read = {name for one in nodes for name in one.input}
    inputs: Inputs = {"x": (np.float32, ["N", 8]), **more}
    kept = {k: v for k, v in weights.items() if k in read}
    done = dequantize(model(nodes, kept, inputs=inputs))
    assert done.ops == [one.op_type for one in nodes]
    assert set(done.constants) == set(kept)
    assert [reason.removeprefix("the weight: ") for reason in done.reasons] == [why]


def test_a_scale_that_callers_may_override_is_no_constant():
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w")]
    weights = {"q": np.ones((8, 6), np.int8), "s": np.float32(1)}
    inputs: Inputs = {"x": (np.float32, ["N", 8]), "s": (np.float32, [])}
    done = dequantize(model(nodes, weights, inputs=inputs))
    assert done.ops == ["DequantizeLinear", "MatMul"]


def test_an_unknown_type_is_refused():
    with pytest.raises(InputError, match="dtype = 'int8'"):
        Dequantize(dtype="int8")
