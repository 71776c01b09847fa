"""Numbers that are not finite, tensors without elements, weights that are cut short."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from tests.native import nodes
from tests.native.operators import Array, model_of, need

F32 = np.float32
Inputs = list[tuple[str, Array | None]]
RAISED = (errors.Fail, errors.RuntimeException, errors.InvalidArgument, errors.InvalidGraph,
          errors.NotImplemented, errors.InvalidProtobuf)  # fmt: skip
REALS = [op for op in nodes.MAKERS if op != "QuantGather"]
LARGER: dict[str, dict[str, Any]] = {
    "QuantMatMul": {"m": 70, "n": 70, "act": "Relu"}, "LowRankMatMul": {"m": 70, "act": "Relu"},
    "QuantConv": {"side": 20, "act": "Relu"}, "ConvChain": {"side": 20, "act": "Relu"},
}  # fmt: skip


@pytest.fixture(params=nodes.DEVICES)
def device(request) -> str:
    need(request.param)
    return str(request.param)


def compare(node: nodes.Node, found: Array, given: Array) -> None:
    """Same kind of number everywhere: NaN, an infinity of that sign, or close."""
    exact = node.exact(given)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    np.testing.assert_array_equal(found[np.isinf(exact)], exact[np.isinf(exact)])
    known = np.isfinite(exact)
    assert known.any()
    finite = np.where(np.isfinite(given), given, 0)  # where it is finite, these took no part
    allowed = node.allowed(finite)
    assert (np.abs(found[known] - exact[known]) <= allowed[known]).all()


@pytest.mark.parametrize("larger", [False, True], ids=["small", "large_relu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", REALS)
def test_what_is_not_finite_goes_where_ieee_says(rng, device, op, value, larger):
    """One number reaches the results that it is a term of, and no other: tiles share nothing."""
    node = nodes.MAKERS[op](rng, **(LARGER[op] if larger else {}))
    opened = nodes.session(node, device)
    for _ in range(3):
        given = node.given.copy()
        given[tuple(rng.integers(0, given.shape))] = value
        compare(node, nodes.run(opened, given), given)


@pytest.mark.parametrize("op", REALS)
def test_infinities_of_both_signs_meet(rng, device, op):
    node = nodes.MAKERS[op](rng)
    given = node.given.copy()
    given[(0,) * given.ndim] = np.inf
    given[(0,) * (given.ndim - 1) + (1,)] = -np.inf
    compare(node, nodes.run(nodes.session(node, device), given), given)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_scales_that_are_not_finite(rng, device, scale):
    node = nodes.lookup(rng)
    scales = node.inputs[2][1]
    assert scales is not None
    scales[3, 1] = scale
    node.inputs = [*node.inputs[:2], ("scales", scales)]
    found = nodes.run(nodes.session(node, device), np.arange(12).reshape(3, 4))
    block = found.reshape(12, 40)[3, 16:32]
    assert not np.isfinite(block).any()  # 0 * inf is NaN
    assert np.isfinite(np.delete(found.reshape(12, 40), 3, axis=0)).all()
    assert np.isfinite(found.reshape(12, 40)[3, [*range(16), *range(32, 40)]]).all()


@pytest.mark.parametrize("op", nodes.MAKERS)
def test_no_rows_give_no_rows(rng, device, op):
    """Also after and before runs that have some."""
    node = nodes.MAKERS[op](rng)
    opened = nodes.session(node, device)
    wanted = nodes.run(opened, node.given)
    assert nodes.run(opened, node.given[:0]).shape == (0, *wanted.shape[1:])
    assert nodes.run(opened, node.given).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("bias", [False, True])
def test_sums_of_nothing_are_the_bias(rng, device, bias):
    values = rng.standard_normal(6).astype(F32)
    expected = np.broadcast_to(np.maximum(values, 0) if bias else np.zeros(6), (3, 6))
    a = np.zeros((3, 0), F32)
    extra: tuple[str, Array | None] = ("bias", values if bias else None)
    weight: Inputs = [("B", np.zeros((6, 0, 8), np.uint8)), ("scales", np.zeros((6, 0), F32))]
    inputs: Inputs = [("A", a), *weight, ("zeros", None), extra]
    given = {"K": 0, "N": 6, "bits": 4, "block_size": 16, "activation": "Relu"}
    opened = nodes.session(model_of("QuantMatMul", inputs, given, fed=("A",)), device)
    np.testing.assert_array_equal(nodes.run(opened, a), expected)
    for r in (0, 2):
        p, q = np.zeros((0, r), F32), np.ones((r, 6), F32)
        inputs = [("A", a), ("P", p), ("Q", q), extra]
        model = model_of("LowRankMatMul", inputs, {"activation": "Relu"}, fed=("A",))
        np.testing.assert_array_equal(nodes.run(nodes.session(model, device), a), expected)


def test_no_columns_and_no_channels(rng, device):
    given = {"K": 40, "N": 0, "bits": 4, "block_size": 16}
    a = np.ones((3, 40), F32)
    inputs: Inputs = [
        ("A", a),
        ("B", np.zeros((0, 3, 8), np.uint8)),
        ("scales", np.zeros((0, 3), F32)),
    ]
    opened = nodes.session(model_of("QuantMatMul", inputs, given, fed=("A",)), device)
    assert nodes.run(opened, a).shape == (3, 0)
    inputs = [("A", a), ("P", np.ones((40, 2), F32)), ("Q", np.ones((2, 0), F32))]
    opened = nodes.session(model_of("LowRankMatMul", inputs, {}, fed=("A",)), device)
    assert nodes.run(opened, a).shape == (3, 0)


@pytest.mark.parametrize("left", [0, 1, 100])
def test_packed_bytes_cut_short_are_refused(rng, device, left):
    """The tensor says a size that its bytes do not fill."""
    for op, name in (("QuantMatMul", "B"), ("QuantConv", "W"), ("QuantGather", "data")):
        model = onnx.load_model_from_string(nodes.MAKERS[op](rng).model())
        weight = next(one for one in model.graph.initializer if one.name == name)
        assert len(weight.raw_data) > left
        weight.raw_data = weight.raw_data[:left]
        with pytest.raises(RAISED):
            nodes.session(model.SerializeToString(), device)
