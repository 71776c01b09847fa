"""Dequantize: pairs of QuantizeLinear and DequantizeLinear, and what lies between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.passes.quantized import Inputs, dequantize, model, node

S, Z = np.float32(0.05), np.uint8(128)
Q = node("QuantizeLinear", "x s z", "q")
LOW, HIGH = -128 * 0.05, 127 * 0.05


def given(**changed):
    return {"s": S, "z": Z, **changed}


@pytest.fixture
def wide(rng):
    """Numbers of which some saturate."""
    return {"x": (4 * rng.standard_normal((5, 8))).astype(np.float32)}


def test_what_saturates_stays_bounded(wide):
    done = dequantize(model([Q, node("DequantizeLinear", "q s z")], given()))
    assert done.ops == ["Clip"]
    right, found = done.run(wide)
    assert found.min() < right.min() + 0.03 < LOW + 0.06
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * S)
    np.testing.assert_allclose(found, np.clip(wide["x"], LOW, HIGH), rtol=1e-6)


def test_a_relu_that_saturation_replaced_comes_back(wide):
    done = dequantize(model([Q, node("DequantizeLinear", "q s z")], given(z=np.uint8(0))))
    right, found = done.run(wide)
    assert (found >= 0).all()
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * S)


@pytest.mark.parametrize(
    ("op_type", "scale", "zero", "ops"),
    [
        ("Sigmoid", 1 / 255, 0, ["Sigmoid"]),
        ("Softmax", 1 / 255, 0, ["Softmax"]),
        ("Tanh", 1 / 127, 128, ["Tanh"]),
        ("Tanh", 1 / 255, 128, ["Tanh", "Clip"]),
        ("Tanh", 1 / 128, 128, ["Tanh", "Clip"]),
        ("Relu", 1 / 255, 0, ["Relu", "Clip"]),
        ("Relu", 100.0, 0, ["Relu", "Clip"]),
        ("Sigmoid", 1 / 300, 0, ["Sigmoid", "Clip"]),
    ],
)
def test_what_is_proven_to_be_in_range_is_not_clipped(op_type, scale, zero, ops, wide):
    nodes = [
        node(op_type, "x", "a"),
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z"),
    ]
    done = dequantize(model(nodes, given(s=np.float32(scale), z=np.uint8(zero))))
    assert done.ops == ops
    right, found = done.run(wide)
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * scale)


def test_a_clamp_is_known_through_what_only_moves(wide):
    nodes = [
        node("Clip", "x low high", "a"),
        node("Transpose", "a", "t"),
        node("Concat", "t t", "c", axis=0),
        node("QuantizeLinear", "c s z", "q"),
        node("DequantizeLinear", "q s z"),
    ]
    bounds = {"low": np.float32(-1), "high": np.float32(6)}
    done = dequantize(model(nodes, given(**bounds)))
    assert done.ops == ["Clip", "Transpose", "Concat"]


MOVES = {
    "reshape": ([node("Reshape", "q shape", "m")], {"shape": np.array([-1, 4])}),
    "transpose": ([node("Transpose", "q", "m")], {}),
    "slice": ([node("Slice", "q one four one", "m")],
              {"one": np.array([1]), "four": np.array([4])}),
    "gather": ([node("Gather", "q rows", "m", axis=1)], {"rows": np.array([3, 1])}),
    "two in a row": ([node("Transpose", "q", "t"), node("Unsqueeze", "t axis", "m")],
                     {"axis": np.array([0])}),
    "concat": ([node("Transpose", "q", "t"), node("Transpose", "t", "u"),
                node("Concat", "q u", "m", axis=1)], {}),
    "split": ([node("Split", "q", "a m", axis=1, num_outputs=2)], {}),
    "max pool": ([node("Unsqueeze", "q axis", "u"),
                  node("MaxPool", "u", "m", kernel_shape=[2], strides=[2])],
                 {"axis": np.array([0])}),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_integers_that_are_only_moved(case, wide):
    nodes, weights = MOVES[case]
    done = dequantize(model([Q, *nodes, node("DequantizeLinear", "m s z")], given(**weights)))
    assert not any("Quantize" in one for one in done.ops)
    right, found = done.run(wide)
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * S)


def test_a_mean_of_what_is_in_range_is_in_range(rng):
    nodes = [
        node("Sigmoid", "x", "a"),
        node("AveragePool", "a", "p", kernel_shape=[3], pads=[1, 1], count_include_pad=1),
        node("QuantizeLinear", "p s z", "q"),
        node("DequantizeLinear", "q s z"),
    ]
    scales = given(s=np.float32(1 / 255), z=np.uint8(0))
    done = dequantize(model(nodes, scales, inputs={"x": (np.float32, [1, 2, 8])}))
    assert done.ops == ["Sigmoid", "AveragePool"]
    right, found = done.run({"x": rng.standard_normal((1, 2, 8)).astype(np.float32)})
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 / 255)


@pytest.mark.parametrize("keep", [False, True])
def test_rows_of_a_stored_table(keep, rng):
    q = rng.integers(0, 256, (10, 6)).astype(np.uint8)
    nodes = [node("Gather", "w x", "m"), node("DequantizeLinear", "m s z")]
    before = model(nodes, given(w=q), inputs={"x": (np.int64, ["N"])})
    done = dequantize(before, keep_activations=keep)
    assert done.ops == ["Gather"]
    right, found = done.run({"x": np.arange(10)})
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_that_is_rounded_at_every_run(axis, rng):
    count = () if axis is None else ((8, 6)[axis],)
    weights = {
        "w": rng.standard_normal((8, 6)).astype(np.float32),
        "s": rng.uniform(0.01, 0.05, count).astype(np.float32),
        "z": np.zeros(count, np.int8),
    }
    along = {} if axis is None else {"axis": axis}
    nodes = [
        node("QuantizeLinear", "w s z", "q", **along),
        node("DequantizeLinear", "q s z", "r", **along),
        node("MatMul", "x r"),
    ]
    done = dequantize(model(nodes, weights))
    assert done.ops == ["MatMul"]
    right, found = done.run({"x": rng.standard_normal((5, 8)).astype(np.float32)})
    np.testing.assert_array_equal(found, right)


def test_pairs_rounded_as_they_come():
    nodes = [node("DynamicQuantizeLinear", "x", "q t u"), node("DequantizeLinear", "q t u")]
    done = dequantize(model(nodes, {}))
    assert done.ops == ["Identity"]


def test_an_input_of_integers_is_still_dequantized():
    nodes = [node("Transpose", "x", "t"), node("DequantizeLinear", "t s z")]
    before = model(nodes, given(), inputs={"x": (np.uint8, ["N", 8])})
    assert dequantize(before).ops == ["Transpose", "DequantizeLinear"]


def test_an_output_of_integers_is_still_quantized():
    before = model([node("QuantizeLinear", "x s z", "y")], given(), outputs={"y": np.uint8})
    assert dequantize(before).ops == ["QuantizeLinear"]


def test_a_pair_of_com_microsoft(wide):
    nodes = [node("ms::QuantizeLinear", "x s z", "q"), node("ms::DequantizeLinear", "q s z")]
    done = dequantize(model(nodes, given(s=np.float32(0.001), z=np.uint16(30000))))
    assert done.ops == ["Clip"]
    right, found = done.run(wide)
    np.testing.assert_allclose(found, right, rtol=0, atol=0.00051)


def test_activations_stay_rounded_where_asked(wide):
    done = dequantize(model([Q, node("DequantizeLinear", "q s z")], given()), keep_activations=True)
    assert done.ops == ["QuantizeLinear", "DequantizeLinear"]


def test_what_moves_stays_rounded_where_asked():
    nodes = [Q, node("Transpose", "q", "t"), node("DequantizeLinear", "t s z")]
    done = dequantize(model(nodes, given()), keep_activations=True)
    assert done.ops == ["QuantizeLinear", "Transpose", "DequantizeLinear"]


REFUSED: dict[str, tuple[str, dict[str, Any], Inputs, str]] = {
    "other scales": ("q t z", {"t": np.float32(0.1)}, {}, "scales or zero points differ"),
    "other zero points": ("q s u", {"u": np.uint8(3)}, {}, "scales or zero points differ"),
    "scales that are fed": ("q t z", {}, {"t": (np.float32, [])},
                            "a scale or zero point is no constant"),
    "no scale": ("q s z", {"s": np.float32(0)}, {}, "a scale is not positive"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case):
    names, weights, inputs, why = REFUSED[case]
    kinds: Inputs = {"x": (np.float32, ["N", 8]), **inputs}
    done = dequantize(model([Q, node("DequantizeLinear", names)], given(**weights), inputs=kinds))
    assert done.ops == ["QuantizeLinear", "DequantizeLinear"]
    assert done.reasons == [why]


def test_activations_with_several_scales_are_refused():
    scales = {"s": np.full(8, 0.1, np.float32), "z": np.zeros(8, np.uint8)}
    done = dequantize(model([Q, node("DequantizeLinear", "q s z")], scales))
    assert done.reasons == ["what is computed has several scales"]


def test_a_pair_around_a_subgraph(wide):
    inner = model(
        [node("DequantizeLinear", "q s z", "r")], {}, inputs={}, outputs={"r": np.float32}
    ).graph
    other = model([node("Identity", "x", "r")], {}, inputs={}, outputs={"r": np.float32}).graph
    nodes = [Q, node("If", "c", "y", then_branch=inner, else_branch=other)]
    kinds: Inputs = {"x": (np.float32, ["N", 8]), "c": (np.bool_, [])}
    done = dequantize(model(nodes, given(), inputs=kinds))
    assert "DequantizeLinear" not in done.ops
    for choice in (True, False):
        right, found = done.run({**wide, "c": np.array(choice)})
        np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * S)


def test_old_opsets_have_bounds_as_attributes(wide):
    before = model([Q, node("DequantizeLinear", "q s z")], given(), opset=10)
    done = dequantize(before)
    assert done.ops == ["Clip"]
    right, found = done.run(wide)
    np.testing.assert_allclose(found, right, rtol=0, atol=0.5001 * S)


def test_half_precision(wide):
    scales = {"s": np.float16(0.05), "z": Z}
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("QuantizeLinear", "h s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Cast", "d", "y", to=TensorProto.FLOAT),
    ]
    done = dequantize(model(nodes, scales))
    assert done.ops == ["Cast", "Clip", "Cast"]
    right, found = done.run(wide)
    np.testing.assert_allclose(found, right, rtol=2e-3, atol=0.51 * float(S))
