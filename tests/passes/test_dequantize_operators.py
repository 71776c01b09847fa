"""Dequantize: operators on integers, one by one, against ONNX Runtime's own kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.quantized import dequantize, model, node

STEP = 0.05
"""Of what the operators return."""


def scales(**given):
    """Scales and zero points by name: `a=(0.1, 3)` becomes `as` and `az`."""
    found = {}
    for name, (scale, zero) in given.items():
        found[f"{name}s"] = np.asarray(scale, np.float32)
        if zero is not None:
            found[f"{name}z"] = np.asarray(zero, np.int8 if name == "w" else np.uint8)
    return found


def between(operator, *, inputs="a", **extra):
    """A model whose inputs are quantized, and whose output is dequantized, around `operator`."""
    nodes = [node("QuantizeLinear", f"{x} {x}s {x}z", f"{x}q") for x in inputs]
    nodes += [operator, node("DequantizeLinear", "yq ys yz", "y")]
    shape = extra.pop("shape", (3, 8))
    kinds = {x: (np.float32, list(shape)) for x in inputs}
    kinds.update(extra.pop("more", {}))
    given = scales(a=(0.02, 128), b=(0.03, 120), y=(STEP, 128))
    weights = {k: v for k, v in given.items() if k[0] in (*inputs, "y")}
    return model(nodes, {**weights, **extra.pop("weights", {})}, inputs=kinds, **extra)


def integers(rng, *shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


def cases(rng):
    """Operator, the floating-point one, and what else the model has."""
    dense = {"w": integers(rng, 8, 6), **scales(w=(0.01, 0))}
    columns = {"w": integers(rng, 8, 6), **scales(w=(rng.uniform(0.005, 0.01, 6), [0] * 6))}
    kernel = {
        "w": integers(rng, 6, 3, 3, 3),
        "bias": rng.integers(-999, 999, 6).astype(np.int32),
        **scales(w=(rng.uniform(0.005, 0.01, 6), [0] * 6)),
    }
    image = {"shape": (2, 3, 9, 9)}
    conv = "aq as az w ws wz ys yz"
    gemm_bias = {"c": rng.integers(-999, 999, 6).astype(np.int32)}
    turned = {**columns, "w": np.ascontiguousarray(columns["w"].T)}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}
    return {
        "matmul": ("QLinearMatMul", conv, {}, "MatMul", {"weights": dense}),
        "matmul by column": ("QLinearMatMul", conv, {}, "MatMul", {"weights": columns}),
        "matmul of two": ("QLinearMatMul", "aq as az bq bs bz ys yz", {}, "MatMul",
                          {"inputs": "ab", "shape": (2, 8, 8)}),
        "conv": ("QLinearConv", f"{conv} bias", {"pads": [1, 1, 1, 1]}, "Conv",
                 {"weights": kernel, **image}),
        "conv of com.microsoft": ("ms::QLinearConv", conv, {"strides": [2, 2]}, "Conv",
                                  {"weights": {k: kernel[k] for k in ("w", "ws", "wz")}, **image}),
        "gemm": ("ms::QGemm", "aq as az w ws wz c ys yz", {"alpha": 0.5}, "Gemm",
                 {"weights": {**columns, **gemm_bias}}),
        "gemm turned": ("ms::QGemm", "aq as az w ws wz c ys yz", {"transB": 1}, "Gemm",
                        {"weights": {**turned, **gemm_bias}}),
        "add": ("ms::QLinearAdd", "aq as az bq bs bz ys yz", {}, "Add", {"inputs": "ab"}),
        "mul": ("ms::QLinearMul", "aq as az bq bs bz ys yz", {}, "Mul", {"inputs": "ab"}),
        "add of a constant": ("ms::QLinearAdd", "aq as az w ws wz ys yz", {}, "Add",
                              {"weights": {"w": rng.integers(0, 255, 8).astype(np.uint8),
                                           "ws": np.float32(0.02), "wz": np.uint8(100)}}),
        "sigmoid": ("ms::QLinearSigmoid", "aq as az ys yz", {}, "Sigmoid", {}),
        "leaky relu": ("ms::QLinearLeakyRelu", "aq as az ys yz", {"alpha": 0.2}, "LeakyRelu", {}),
        "softmax": ("ms::QLinearSoftmax", "aq as az ys yz", {"axis": -1, "opset": 13}, "Softmax",
                    {}),
        "average pool": ("ms::QLinearAveragePool", "aq as az ys yz", pool, "AveragePool", image),
        "global pool": ("ms::QLinearGlobalAveragePool", "aq as az ys yz", {"channels_last": 0},
                        "GlobalAveragePool", image),
        "concat": ("ms::QLinearConcat", "ys yz aq as az bq bs bz", {"axis": 1}, "Concat",
                   {"inputs": "ab"}),
        "where": ("ms::QLinearWhere", "c aq as az bq bs bz ys yz", {}, "Where",
                  {"inputs": "ab", "more": {"c": (np.bool_, [3, 8])}}),
    }  # fmt: skip


NAMES = list(cases(np.random.default_rng(0)))


def made(name, rng):
    """The model of a case, the operator in floating point, and what goes in."""
    op_type, inputs, attributes, floating, extra = cases(rng)[name]
    before = between(node(op_type, inputs, "yq", **attributes), **extra)
    feeds = {}
    for value in before.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32)
        feeds[value.name] = array > 0 if value.name == "c" else array
    return before, floating, feeds


@pytest.mark.parametrize("name", NAMES)
def test_the_same_where_activations_stay_rounded(name, rng):
    before, floating, feeds = made(name, rng)
    done = dequantize(before, keep_activations=True)
    assert floating in done.ops
    assert not any(one.startswith("Q") and one != "QuantizeLinear" for one in done.ops)
    right, found = done.run(feeds)
    assert np.ptp(right) > 2 * STEP or name == "softmax"
    # kernels on integers round once more: to the neighbour, in a few places
    np.testing.assert_allclose(found, right, rtol=0, atol=1.01 * STEP)
    assert (np.abs(found - right) > 0.01 * STEP).mean() < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_in_floating_point_but_for_what_was_rounded(name, rng):
    before, floating, feeds = made(name, rng)
    done = dequantize(before)
    assert not any("Quantize" in one or one.startswith("QL") for one in done.ops)
    right, found = done.run(feeds)
    # inputs were off by up to half a step of 0.02 or 0.03, and sums add that up
    assert 0 < np.abs(found - right).max() <= 3 * STEP
    assert floating in done.ops


def test_gemm_that_returns_floats(rng):
    weights = {"w": integers(rng, 8, 6), **scales(w=(0.01, 0), a=(0.02, 128))}
    nodes = [
        node("QuantizeLinear", "a as az", "aq"),
        node("ms::QGemm", "aq as az w ws wz"),
    ]
    before = model(nodes, weights, inputs={"a": (np.float32, [3, 8])})
    done = dequantize(before, keep_activations=True)
    right, found = done.run({"a": rng.standard_normal((3, 8)).astype(np.float32)})
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


REFUSED = {
    "channels last": (
        node("ms::QLinearGlobalAveragePool", "aq as az ys yz", "yq", channels_last=1),
        "its channels come last",
    ),
    "an older softmax": (
        node("ms::QLinearSoftmax", "aq as az ys yz", "yq", axis=1, opset=12),
        "it is that of opset 12",
    ),
    "an operator that is not known": (
        node("ms::QLinearReduceMean", "aq as az ys yz", "yq", axes=[1], keepdims=1),
        "QLinearReduceMean is not known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case):
    made, why = REFUSED[case]
    done = dequantize(between(made, shape=(2, 3, 9, 9)))
    assert done.ops == ["QuantizeLinear", made.op_type, "DequantizeLinear"]
    assert done.reasons == [why]
