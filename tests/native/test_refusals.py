"""Bad input to operators ends in an error of ONNX Runtime that says what was found."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from onnxslim_rx.runtime import native
from tests.native.operators import DOMAIN, Blocks, model_of, need, run, session_of

F32 = np.float32
# What a kernel refuses when it is made, the runtime raises as an error of its own.
REFUSED = (
    errors.InvalidArgument, errors.Fail, errors.InvalidGraph, errors.RuntimeException,
    errors.NotImplemented,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _library():
    need("cpu")


def product(rng, *, changed=(), without=(), constant=True, **attributes):
    """A QuantMatMul whose inputs and attributes a test spoils."""
    weight = Blocks(rng, 6, 40, bits=4, block=16, zeros=True, dtype=F32)
    inputs = {"A": rng.standard_normal((3, 40)).astype(F32), "B": weight.data,
              "scales": weight.scales, "zeros": weight.zeros,
              "bias": np.zeros(6, F32), "residual": np.zeros((3, 6), F32)}  # fmt: skip
    inputs.update(changed)
    given = {"K": 40, "N": 6, "bits": 4, "block_size": 16, "activation": ""} | attributes
    given = {key: value for key, value in given.items() if key not in without}
    fed = ("A", "residual") if constant else ("A", "B", "residual")
    return run("QuantMatMul", list(inputs.items()), given, fed)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"bits": 3}, "bits: found 3; expected 2, 4 or 8"),
        ({"bits": -4}, "bits: found -4"),
        ({"bits": 2**40 + 4}, "bits: found"),
        ({"block_size": 0}, "block_size: found 0; expected 8 to"),
        ({"block_size": 12}, "block_size: found 12; expected a multiple of 8"),
        ({"block_size": 2**40}, "block_size: found"),
        ({"block_size": 32}, r"expected \(6, 2, 16\)"),
        ({"K": -1}, "K: found -1"),
        ({"K": 2**31}, "K: found 2147483648"),
        ({"K": 60}, r"expected \(6, 4, 8\)"),
        ({"N": 7}, r"expected \(7, 3, 8\)"),
        ({"N": 1.5}, "N has another type"),
        ({"activation": "Tanh"}, "Tanh is none of"),
        ({"activation": 3}, "activation has another type"),
        ({"clip_min": 2.0, "clip_max": 1.0}, "clip_min and clip_max: found 2 and 1"),
        ({"clip_min": float("nan")}, "clip_min and clip_max"),
    ],
)
def test_attribute_out_of_range_is_refused(rng, attributes, message):
    with pytest.raises(REFUSED, match=message):
        product(rng, **attributes)


@pytest.mark.parametrize("name", ["K", "N", "bits", "block_size"])
def test_missing_attribute_is_named(rng, name):
    with pytest.raises(REFUSED, match=f"the attribute {name} is missing"):
        product(rng, without=(name,))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "A",
            np.zeros((3, 39), F32),
            r"A: found the shape \(3, 39\); expected its last size to be 40",
        ),
        ("A", np.zeros((), F32), r"A: found the shape \(\)"),
        ("B", np.zeros((6, 3, 7), np.uint8), r"found the shape \(6, 3, 7\); expected \(6, 3, 8\)"),
        ("B", np.zeros((5, 3, 8), np.uint8), r"found the shape \(5, 3, 8\); expected \(6, 3, 8\)"),
        ("B", np.zeros((6, 24), np.uint8), "(6, 24).; expected 3 sizes"),
        ("scales", np.zeros((6, 2), F32), r"scales: found the shape \(6, 2\); expected \(6, 3\)"),
        ("zeros", np.zeros((6, 3), np.uint8), r"zero_points: .*expected \(6, 2\)"),
        ("bias", np.zeros(5, F32), r"bias: found the shape \(5\); expected \(6\)"),
        ("bias", np.zeros((1, 6), F32), r"bias: found the shape \(1, 6\); expected \(6\)"),
        ("residual", np.zeros((3, 1), F32), r"residual: .*expected \(3, 6\)"),
    ],
)
def test_shape_that_contradicts_is_refused(rng, name, array, message):
    with pytest.raises(REFUSED, match=message):
        product(rng, changed={name: array})


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("A", np.zeros((3, 40), np.float64)),
        ("A", np.zeros((3, 40), np.float16)),
        ("B", np.zeros((6, 3, 8), np.int8)),
        ("scales", np.zeros((6, 3), np.float64)),
        ("residual", np.zeros((3, 6), np.int32)),
    ],
)
def test_type_that_the_operator_lacks_is_refused(rng, name, array):
    with pytest.raises(REFUSED):
        product(rng, changed={name: array})


def test_weight_from_outside_is_refused(rng):
    with pytest.raises(REFUSED, match="the input B must be a constant initializer"):
        product(rng, constant=False)


def test_missing_input_is_refused(rng):
    with pytest.raises(REFUSED):
        product(rng, changed={"scales": None})


def test_message_names_the_node(rng):
    with pytest.raises(REFUSED, match="QuantMatMul node: "):
        product(rng, bits=5)


def test_newer_version_of_the_domain_is_refused(rng):
    x = np.zeros((2, 3), F32)
    inputs = [("A", x), ("P", np.zeros((3, 1), F32)), ("Q", np.zeros((1, 4), F32))]
    session_of(model_of("LowRankMatMul", inputs, {}, fed=("A",)))
    with pytest.raises(REFUSED):
        session_of(model_of("LowRankMatMul", inputs, {}, fed=("A",), version=1001))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ((40, 5), (6, 7), r"found the shapes \(40, 5\) and \(6, 7\); expected"),
        ((40, 5), (5,), "expected .K, R. and .R, N."),
        ((39, 5), (5, 7), "expected its last size to be 39"),
    ],
)
def test_factors_that_do_not_fit_are_refused(p, q, message):
    inputs = [("A", np.zeros((2, 40), F32)), ("P", np.zeros(p, F32)), ("Q", np.zeros(q, F32))]
    with pytest.raises(REFUSED, match=message):
        run("LowRankMatMul", inputs, {}, ("A",))


def convolution(rng, x=(1, 4, 6, 6), **attributes):
    weight = Blocks(rng, 6, 18, bits=4, block=16, zeros=False, dtype=F32)
    inputs = [("X", np.zeros(x, F32)), ("W", weight.data), ("scales", weight.scales)]
    given = {"bits": 4, "block_size": 16, "channels": 4, "kernel_shape": [3, 3], "group": 2}
    return run("QuantConv", inputs, given | attributes, ("X",))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"x": (1, 3, 6, 6)}, "expected 4 sizes with 4 channels"),
        ({"x": (1, 4, 6)}, "expected 4 sizes"),
        ({"x": (1, 4, 2, 6)}, "the kernel reaches over 3 pixels; found 2 with the pads"),
        ({"kernel_shape": [3]}, r"expected \(6, 1, 8\)"),
        ({"kernel_shape": [3, 3, 3]}, "kernel_shape: found 3 numbers; expected 1 or 2"),
        ({"kernel_shape": [3, 0]}, "kernel_shape: found 0; expected 1 to"),
        ({"strides": [0, 1]}, "strides: found 0; expected 1 to"),
        ({"strides": [1]}, "strides: found 1 numbers; expected 2"),
        ({"pads": [0, 0]}, "pads: found 2 numbers; expected 4"),
        ({"pads": [0, -1, 0, 0]}, "pads: found -1; expected 0 to"),
        ({"pads": [2**40, 0, 0, 0]}, "pads: found"),
        ({"dilations": [1, 2**33]}, "dilations: found"),
        ({"group": 3}, "group: found 3; expected a divisor of the 4 channels"),
        ({"group": 0}, "group: found 0"),
        ({"group": 4, "kernel_shape": [6, 3]}, "found 6 filters; expected a multiple of the 4"),
        ({"channels": 2**31 - 1, "group": 1}, "a filter has"),
    ],
)
def test_convolution_that_contradicts_is_refused(rng, attributes, message):
    with pytest.raises(REFUSED, match=message):
        convolution(rng, **attributes)


def chain(x=(1, 4, 6, 6), weights=((3, 4, 1, 1), (5, 3, 3, 3)), **attributes):
    given = {"stages": 2, "kernel_shapes": [1, 1, 3, 3], "strides": [1] * 4, "pads": [0] * 8,
             "dilations": [1] * 4, "groups": [1, 1]}  # fmt: skip
    arrays = [(f"W{i}", np.zeros(shape, F32)) for i, shape in enumerate(weights)]
    inputs = [("X", np.zeros(x, F32)), ("bias", None), *arrays]
    return run("ConvChain", inputs, given | attributes, ("X",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages: found 0"),
        ({"stages": 17}, "stages: found 17; expected 1 to 16"),
        ({"stages": 3}, "kernel_shapes: found 4 numbers; expected 2 for each of the 3 stages"),
        ({"pads": [0] * 4}, "pads: found 4 numbers"),
        ({"weights": ((3, 4, 1, 1),)}, "found 1 weights"),
        ({"weights": ((3, 4, 1, 1), (5, 2, 3, 3))}, "stage 1 reads 2 channels; stage 0 writes 3"),
        ({"weights": ((3, 4, 1, 1), (5, 3, 1, 3))}, "expected a kernel of 3 by 3"),
        ({"weights": ((3, 4, 1, 1), (5, 3, 9))}, "stage 1: .*expected 4 sizes"),
        ({"groups": [1, 2]}, "a multiple of 2 filters"),
        ({"groups": [1, 0]}, "groups: found 0"),
        ({"x": (1, 5, 6, 6)}, "expected 3 or 4 sizes with 4 channels"),
        ({"x": (1, 4, 6)}, "expected 4 sizes, because a stage has a height"),
        ({"x": (1, 4, 2, 2)}, "the kernel reaches over 3 pixels"),
    ],
)
def test_chain_that_contradicts_is_refused(options, message):
    with pytest.raises(REFUSED, match=message):
        chain(**options)


def test_table_that_contradicts_is_refused(rng):
    table = Blocks(rng, 5, 40, bits=4, block=16, zeros=False, dtype=F32, flat=True)
    inputs = [("data", table.data), ("indices", np.zeros(2, np.int64)), ("scales", table.scales)]
    given = {"columns": 41, "bits": 4, "block_size": 16}
    with pytest.raises(REFUSED, match=r"found the shape \(5, 20\); expected \(5, 21\)"):
        run("QuantGather", inputs, given, ("indices",))


def test_session_works_after_it_refused(rng):
    x = rng.standard_normal((2, 3)).astype(F32)
    inputs = [("A", x), ("P", np.ones((3, 1), F32)), ("Q", np.ones((1, 4), F32))]
    session = session_of(model_of("LowRankMatMul", inputs, {}, fed=("A",)))
    for _ in range(3):
        with pytest.raises(errors.InvalidArgument, match="expected its last size to be 3"):
            session.run(None, {"A": np.zeros((2, 4), F32)})
        assert session.run(None, {"A": x})[0].shape == (2, 4)


def test_unknown_device_is_refused_with_its_name():
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(f"{DOMAIN}.device", "opencl:99:0")
    with pytest.raises(REFUSED, match="opencl:99:0"):
        options.register_custom_ops_library(str(native.library_path()))
