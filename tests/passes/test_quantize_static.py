"""Static integers against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, Stage
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from tests.passes.conftest import build
from tests.passes.statics import Array, applied, carried_out, draws, run

TARGET = load_target("ort-cpu")
STAGE = Stage("quantize-static", {"activations": "u8", "method": "minmax", "bits": 8})


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape), np.float32)


def grid(values: Array) -> tuple[float, float]:
    """Step and zero point of unsigned bytes over the range of some values."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = float(np.float32((high - low) / 255))
    return step, float(np.rint(-low / step))


def rounded(values: Array, step: float, zero: float) -> Array:
    return np.asarray((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step)


def weight_of(model: ir.Model, name: str, axis: int) -> Array:
    """What the stored integers stand for, float64."""
    values, scales = (
        numbers(model, f"{name}{end}").astype(np.float64) for end in (".int8", ".scale")
    )
    others = [i for i in range(values.ndim) if i != axis]
    return np.asarray(values * np.expand_dims(scales, others))


def numbers(model: ir.Model, name: str) -> Array:
    tensor = constant(model.graph.initializers[name])
    assert tensor is not None
    return np.asarray(tensor.numpy())


def convolved(x: Array, weight: Array, groups: int) -> Array:
    """(B, C, L) and (M, C / groups, k), padding 1 at both ends."""
    x, per = np.pad(x, ((0, 0), (0, 0), (1, 1))), len(weight) // groups
    width = weight.shape[1]
    y = np.empty((len(x), len(weight), x.shape[2] - weight.shape[2] + 1))
    for m, filters in enumerate(weight):
        part = x[:, m // per * width :][:, :width]
        for place in range(y.shape[2]):
            window = part[:, :, place : place + weight.shape[2]]
            y[:, m, place] = np.einsum("bck,ck->b", window, filters)
    return y


@pytest.mark.parametrize(("groups", "filters"), [(1, 6), (2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize("activation", ["", "Relu", "Clip"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_that_of_the_integers(rng, groups, filters, activation, bias) -> None:
    weights = {"w": normal(rng, filters, 4 // groups, 3)}
    weights |= {"b": normal(rng, filters)} if bias else {}
    lines = f"c = Conv<group = {groups}, pads = [1,1]>(x, w{', b' if bias else ''})\n"
    if activation == "Clip":
        weights |= {"lo": np.float32(-0.25), "hi": np.float32(1)}
    lines += {"": "y = Identity(c)", "Relu": "y = Relu(c)", "Clip": "y = Clip(c, lo, hi)"}[
        activation
    ]
    model = build(f"g (float[2,4,9] x) => (float[2,{filters},9] y) {{ {lines} }}", weights)
    samples = draws(model, rng)
    made, refused = applied(model, samples)
    assert not refused
    seen = np.concatenate([sample["x"] for sample in samples])
    left = np.concatenate([run(model, sample)[0] for sample in samples])
    x = samples[0]["x"]
    own = weight_of(made, "w", 0)
    wanted = convolved(rounded(x, *grid(seen)), own, groups)
    # the bias makes up for what rounding adds to the mean of each output
    correction = 0.0 if groups == 4 else _mean_shift(seen, own - weights["w"], groups)
    offset = weights["b"].astype(np.float64) if bias else np.zeros(filters)
    wanted = rounded(wanted + (offset - correction)[:, None], *grid(left))
    found = run(made, samples[0], optimize=False)[0]
    step = grid(left)[0]
    assert np.abs(found - wanted).max() <= 1.01 * step
    assert np.mean(np.abs(found - wanted) > 0.01 * step) < 0.03  # what lay between two integers
    fast = run(made, samples[0])[0]
    assert np.abs(fast - wanted).max() <= 1.01 * step


def _mean_shift(seen: Array, lost: Array, groups: int) -> Array:
    """(M,): what is added to the mean of each output."""
    return np.asarray(convolved(seen.astype(np.float64), lost, groups).mean(axis=(0, 2)))


@pytest.mark.parametrize(
    ("attributes", "alpha", "beta"),
    [("transB = 0", 1, 1), ("transB = 1", 1, 1), ("transB = 1, alpha = -0.5, beta = 3.0", -0.5, 3)],
)
@pytest.mark.parametrize("shape", [None, (), (1,), (7,), (1, 7), (4, 1), (4, 7)])
def test_gemm(rng, attributes, alpha, beta, shape) -> None:
    weight = normal(rng, 11, 7)
    turned = "transB = 1" in attributes
    weights = {"w": weight.T.copy() if turned else weight}
    if shape is not None:
        weights["c"] = np.asarray(rng.standard_normal(shape), np.float32)
    operands = "x, w, c" if shape is not None else "x, w"
    text = f"g (float[4,11] x) => (float[4,7] y) {{ y = Gemm<{attributes}>({operands}) }}"
    model = build(text, weights)
    samples = draws(model, rng, 64)
    made = carried_out(model, samples)
    seen = np.concatenate([sample["x"] for sample in samples])
    own = weight_of(made, "w", 0 if turned else 1)
    own = own.T if turned else own
    assert np.abs(own - alpha * weight).max() < 0.02
    wanted = rounded(samples[0]["x"], *grid(seen)) @ own
    wanted -= seen.mean(axis=0, dtype=np.float64) @ (own - alpha * weight)
    wanted = wanted + beta * (weights["c"] if shape is not None else 0.0)
    # of a step of the bias
    half = 0.51 * grid(seen)[0] * np.abs(own).max() / 127
    for optimize in (False, True):
        found = run(made, samples[0], optimize=optimize)[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=half + 1e-5 * np.abs(wanted).max())


def test_a_bias_far_larger_than_its_weights_is_kept(rng) -> None:
    weight = normal(rng, 4, 3, 1)
    weight[0], weight[1] = 0.0, 1e-12
    bias = np.array([0.7, -300.0, 5.0, 0.0], np.float32)
    text = "g (float[B,3,5] x) => (float[B,4,5] y) { y = Conv(x, w, b) }"
    model = build(text, {"w": weight, "b": bias})
    samples = draws(model, rng)
    made = carried_out(model, samples)
    before, after = run(model, samples[0])[0], run(made, samples[0])[0]
    assert np.abs(after - before).max() < 1.5 * 310 / 255
    assert np.abs(numbers(made, "b.int32").astype(np.int64)).max() < 2**27


def test_activations_that_are_constant(rng) -> None:
    weight = normal(rng, 4, 3, 1)
    text = "g (float[B,3,5] x) => (float[B,4,5] y) { c = Conv(x, w)\nr = Relu(c)\ny = Conv(r, v) }"
    model = build(text, {"w": weight, "v": normal(rng, 4, 4, 1)})
    zeros = [{"x": np.zeros((1, 3, 5), np.float32)}]
    assert not run(carried_out(model, zeros), zeros[0])[0].any()
    ones = [{"x": np.full((1, 3, 5), 2, np.float32)}]
    before, after = run(model, ones[0])[0], run(carried_out(model, ones), ones[0])[0]
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_seven_bits(rng) -> None:
    model = build(
        "g (float[B,S,8] x) => (float[B,S,9] y) { y = MatMul(x, w) }", {"w": normal(rng, 8, 9)}
    )
    made = carried_out(model, draws(model, rng), bits=7)
    assert np.abs(numbers(made, "w.int8").astype(int)).max() in (62, 63, 64)


def test_sixteen_bits(rng) -> None:
    text = "g (float[B,4,8] x) => (float[B,4,8] y) { c = Conv(x, w)\nr = Relu(c)\ny = Conv(r, v) }"
    weights = {"w": normal(rng, 4, 4, 1), "v": normal(rng, 4, 4, 1)}
    model = build(text, weights, opset=21, ir_version=10)
    samples = draws(model, rng)
    made = carried_out(model, samples, activations="u16")
    coarse = carried_out(model, samples)
    x, y, z = (run(one, samples[0], optimize=False)[0] for one in (model, made, coarse))
    assert 0 < np.abs(y - x).max() < 0.7 * np.abs(z - x).max()


def test_weights_as_the_planner_sees_them(rng) -> None:
    weight = normal(rng, 8, 9)
    model = build("g (float[B,8] x) => (float[B,9] y) { y = MatMul(x, w) }", {"w": weight})
    one = QuantizeStatic()
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    (found,) = one.transform(layer, STAGE, (weight,), None)
    assert 0 < np.abs(found - weight).max() <= np.abs(weight).max() / 127
    assert one.applied(STAGE)
