"""Weights stored as integers: read as float64 numpy says, in parts, or refused with a reason."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.analysis import stored as module
from onnxslim_rx.analysis.constants import numbers, root_of
from onnxslim_rx.analysis.stored import (
    Stored,
    count_quantized,
    of_blocks,
    of_dequantize,
    of_product,
    stored,
)
from onnxslim_rx.ir import load
from tests.passes.conftest import build

FLOAT = ir.DataType.FLOAT


def value(array, name="q"):
    """An initializer that belongs to a graph."""
    tensor = ir.tensor(array, name=name)
    found = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    ir.Graph([], [], nodes=[], initializers=[found])
    return found


def read(found):
    """What was read; fails with the reason where nothing was."""
    assert isinstance(found, Stored), found
    return found.read()


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([None, 0, 1, -1]),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)
def test_any_shape_axis_and_block(rows, columns, axis, block, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    shape = [rows, columns]
    block = 0 if axis is None else block
    if axis is None:
        shape = []
    elif block:
        shape[axis] = -(-shape[axis] // block)
    else:
        shape = [shape[axis]]
    s, z = rng.uniform(0.1, 1, shape), rng.integers(-9, 9, shape)
    wide = [s, z]
    if axis is not None and block:
        wide = [np.repeat(a, block, axis).take(range(q.shape[axis]), axis) for a in wide]
    elif axis is not None:
        wide = [np.expand_dims(a, 1 - axis % 2) for a in wide]
    expected = (q - wide[1].astype(np.float64)) * wide[0]
    found = read(stored(value(q), s, z, ir.DataType.DOUBLE, axis=axis, block=block))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_some_rows_at_a_time(axis, rng, monkeypatch):
    q = rng.integers(-128, 128, (37, 10)).astype(np.int8)
    s = rng.uniform(0.1, 1, (19, 10) if axis == 0 else (37, 5))
    how = {"axis": axis, "block": 2}
    whole = read(stored(value(q), s, None, FLOAT, **how))
    monkeypatch.setattr(module, "_PART", 50)
    found = stored(value(q), s, None, FLOAT, **how)
    assert isinstance(found, Stored)
    assert len(list(found.parts())) == 8
    np.testing.assert_array_equal(found.read(), whole)


def test_a_number_is_rounded_once(rng):
    q = rng.integers(-(2**30), 2**30, 50).astype(np.int32)
    s = np.float32(1e-7)
    found = read(stored(value(q), np.asarray(s), None, ir.DataType.FLOAT16))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, (q * np.float64(s)).astype(np.float16))


def test_a_scalar_and_nothing():
    np.testing.assert_array_equal(
        read(stored(value(np.array(3, np.int8)), np.array(0.5), None, FLOAT)), np.float32(1.5)
    )
    empty = value(np.empty((0, 4), np.int8))
    assert read(stored(empty, np.array(0.5), None, FLOAT)).shape == (0, 4)


def test_floats_of_eight_bits():
    tensor = ir.tensor(
        np.array([1.0, -0.5, 448.0], ml_dtypes.float8_e4m3fn), dtype=ir.DataType.FLOAT8E4M3FN
    )
    one = value(np.zeros(3, np.int8))
    one.const_value = tensor
    found = read(stored(one, np.array(2.0), None, FLOAT))
    np.testing.assert_array_equal(found, np.array([2, -1, 896], "f"))


@pytest.mark.parametrize(
    ("q", "s", "more", "why"),
    [
        (np.ones((4, 6), np.int8), np.ones(5), {"axis": 1}, "scales or zero points do not fit"),
        (np.ones((4, 6), np.int8), np.ones(6), {"axis": 3}, "scales or zero points do not fit"),
        (np.ones((4, 6), np.int8), np.ones((4, 2)), {"axis": 1, "block": 2}, "do not fit"),
        (np.ones(6, np.int8), np.ones((1, 6)), {}, "do not fit"),
        (np.ones(6, np.float32), np.ones(()), {}, "it is of type FLOAT"),
        (np.ones(6, np.int8), None, {}, "a scale or zero point is no constant"),
    ],
)
def test_refused_with_the_reason(q, s, more, why):
    found = stored(value(q), s, None, FLOAT, **more)
    assert isinstance(found, str)
    assert why in found


def test_what_is_computed_is_no_constant():
    assert stored(ir.Value(name="x"), np.ones(()), None, FLOAT) == "it is no constant"


def test_keys_tell_weights_apart(rng):
    q = value(rng.integers(-9, 9, (4, 6)).astype(np.int8))
    one, same, other = (
        stored(q, np.asarray(scale), None, FLOAT) for scale in (0.5, np.float32(0.5), 0.25)
    )
    offset = stored(q, np.asarray(0.5), np.asarray(3), FLOAT)
    assert all(isinstance(found, Stored) for found in (one, same, other, offset))
    keys = [found.key for found in (one, same, other, offset) if isinstance(found, Stored)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def graph(text, weights, opset=21):
    """The nodes of a model by operator."""
    found = build(text, weights, opset=opset, ir_version=10)
    return {node.op_type: node for node in found.graph}


def test_output_type_of_dequantize_linear():
    text = """g (float16[N, 6] x) => (float16[N, 6] y) {
        w = DequantizeLinear <output_dtype = 10> (q, s)  y = Add(x, w) }"""
    found = graph(text, {"q": np.arange(6, dtype=np.int8), "s": np.float32(0.1)}, opset=23)
    weight = read(of_dequantize(found["DequantizeLinear"]))
    assert weight.dtype == np.float16
    np.testing.assert_array_equal(weight, (np.arange(6) * np.float64(np.float32(0.1))).astype("e"))


def test_no_product_of_a_cast():
    text = "g (float[N, 6] x) => (float[N, 6] y) { w = Add(x, s)  y = Mul(w, s) }"
    assert of_product(graph(text, {"s": np.float32(2)})["Mul"]) is None


def test_blocks_of_a_node_without_constants():
    made = ir.node("MatMulNBits", [ir.Value(name=n) for n in "xqs"], domain="com.microsoft")
    assert of_blocks(made) == "it is no constant"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r = Cast<to=1>(h)", np.array([1.5, 2.5, 3.5, 4.5], "f")),
        ("r = Identity(h)", np.array([1.5, 2.5, 3.5, 4.5], "e")),
        ("r = Reshape(h, shape)", np.array([[1.5, 2.5], [3.5, 4.5]], "e")),
        ("c = Cast<to=11>(h)  r = Reshape(c, shape)", np.array([[1.5, 2.5], [3.5, 4.5]])),
        ("r = Neg(h)", None),
    ],
)
def test_numbers_behind_nodes(text, expected):
    weights = {"h": np.array([1.5, 2.5, 3.5, 4.5], "e"), "shape": np.array([2, -1])}
    made = build(f"g (float[1] x) => (float[N] y) {{ {text}  y = Cast<to=1>(r) }}", weights)
    (last,) = (node for node in made.graph if node.outputs[0].name == "y")
    found = numbers(last.inputs[0])
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_the_root_of_a_view_is_the_constant():
    text = """g (float[1] x) => (float[N] y) {
        a = Reshape(w, shape)  b = Unsqueeze(a, axis)  t = Transpose(b)  y = Flatten(t) }"""
    weights = {"w": np.arange(6, dtype="f"), "shape": np.array([2, 3]), "axis": np.array([0])}
    by_name = {n.op_type: n.outputs[0] for n in build(text, weights).graph}
    root = root_of(by_name["Unsqueeze"])
    assert root is not None
    assert root.name == "w"
    assert root_of(by_name["Transpose"]) is None
    assert root_of(None) is None


def test_weights_are_counted_once(root):
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        w = DequantizeLinear(q, s)  h = MatMul(x, w)  y = MatMul(h, w) }"""
    weights = {"q": np.ones((8, 8), np.int8), "s": np.float32(0.1)}
    assert count_quantized(build(text, weights)) == 1
    assert count_quantized(load(root / "models" / "digits.onnx")) == 0
