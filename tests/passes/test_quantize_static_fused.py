"""What ONNX Runtime makes of graphs with static integers: no floating point left inside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import serialize
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from tests.passes.conftest import build
from tests.passes.statics import Array, applied, carried_out, draws, fused, run

ENDS = Counter({"QuantizeLinear": 1, "DequantizeLinear": 1})
PADS = "pads = [1,1,1,1]"
LIMITS = {"lo": np.float32(0), "hi": np.float32(1.5)}


def kernel(rng: np.random.Generator, *shape: int) -> Array:
    fan = np.prod(shape[1:])
    return np.asarray(rng.standard_normal(shape) / np.sqrt(fan), np.float32)


def image(body: str, weights: dict[str, Array], outputs: str = "float[B,C,H,W] y") -> ir.Model:
    text = f"g (float[B,4,8,8] x) => ({outputs}) {{\n{body}\n}}"
    return build(text, weights)


def conv_relu_conv(rng: np.random.Generator) -> ir.Model:
    weights = {"w": kernel(rng, 6, 4, 3, 3), "b": kernel(rng, 6), "v": kernel(rng, 5, 6, 1, 1)}
    return image(f"a = Conv<{PADS}>(x, w, b)\nr = Relu(a)\ny = Conv(r, v)", weights)


def residual(rng: np.random.Generator) -> ir.Model:
    weights = {name: kernel(rng, 4, 4, 3, 3) for name in "uvw"} | LIMITS
    body = f"""a = Conv<{PADS}>(x, u)\nr = Relu(a)\nc = Conv<{PADS}>(r, v)\ns = Add(c, r)
    t = Clip(s, lo, hi)\ny = Conv<{PADS}>(t, w)"""
    return image(body, weights)


def separable(rng: np.random.Generator) -> ir.Model:
    weights = {"u": kernel(rng, 4, 1, 3, 3), "v": kernel(rng, 6, 4, 1, 1)} | LIMITS
    weights |= {"w": kernel(rng, 6, 3, 3, 3)}
    body = f"""a = Conv<group = 4, {PADS}>(x, u)\nr = Clip(a, lo, hi)\nb = Conv(r, v)
    y = Conv<group = 2, {PADS}>(b, w)"""
    return image(body, weights)


def pooled(rng: np.random.Generator) -> ir.Model:
    weights = {"u": kernel(rng, 4, 4, 3, 3), "v": kernel(rng, 6, 4, 1, 1), "b": kernel(rng, 6) + 9}
    body = f"""a = Conv<{PADS}>(x, u)\nm = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
    y = Conv(m, v, b)"""
    return image(body, weights)


def pools(rng: np.random.Generator) -> ir.Model:
    weights = {"u": kernel(rng, 4, 4, 3, 3), "v": kernel(rng, 6, 12, 1, 1)}
    weights |= {"w": kernel(rng, 6, 10), "b": kernel(rng, 10)}
    same = f"<kernel_shape = [3,3], {PADS}>"
    body = f"""a = Conv<{PADS}>(x, u)\nm = MaxPool{same}(a)\np = AveragePool{same}(a)
    k = Concat<axis = 1>(a, m, p)\nc = Conv(k, v)\nr = Relu(c)\ng = GlobalAveragePool(r)
    f = Flatten(g)\ny = Gemm(f, w, b)"""
    return image(body, weights, "float[B,10] y")


def squeezed(rng: np.random.Generator) -> ir.Model:
    weights = {"u": kernel(rng, 4, 4, 3, 3), "v": kernel(rng, 2, 4, 1, 1)}
    weights |= {"t": kernel(rng, 4, 2, 1, 1), "w": kernel(rng, 3, 4, 1, 1)}
    body = f"""a = Conv<{PADS}>(x, u)\ng = GlobalAveragePool(a)\nc = Conv(g, v)\nr = Relu(c)
    d = Conv(r, t)\ns = Sigmoid(d)\nm = Mul(a, s)\ny = Conv(m, w)"""
    return image(body, weights)


def moved(rng: np.random.Generator) -> ir.Model:
    weights = {"u": kernel(rng, 8, 4, 1, 1), "v": kernel(rng, 3, 4, 1, 1)}
    weights |= {"sizes": np.array([1, 1, 2, 2], np.float32)}
    body = """a = Conv(x, u)\np, q = Split<axis = 1>(a)\ns = Add(p, q)
    t = Transpose<perm = [0,1,3,2]>(s)\nz = Resize<mode = "nearest">(t, , sizes)
    y = Conv(z, v)"""
    return image(body, weights)


def leaky(rng: np.random.Generator) -> ir.Model:
    weights = {
        "u": kernel(rng, 4, 4, 1, 1),
        "v": kernel(rng, 4, 4, 1, 1),
        "w": kernel(rng, 3, 4, 1),
    }
    weights |= {"half": np.float32(-0.5), "shape": np.array([0, 4, -1])}
    body = """a = Conv(x, u)\nk = LeakyRelu(a)\nb = Conv(k, v)\nm = Mul(half, b)
    f = Reshape(m, shape)\ny = Conv(f, w)"""
    return image(body, weights, "float[B,3,N] y")


def products(rng: np.random.Generator) -> ir.Model:
    weights = {"w": kernel(rng, 16, 24), "b": kernel(rng, 24), "v": kernel(rng, 24, 7)}
    text = """g (float[2,S,16] x) => (float[2,S,7] y) {
        a = MatMul(x, w)\ns = Add(a, b)\nr = Relu(s)\ny = MatMul(r, v) }"""
    return build(text, weights)


CASES = {
    conv_relu_conv: {"QLinearConv": 2, **ENDS},
    residual: {"QLinearConv": 3, "QLinearAdd": 1, **ENDS},
    separable: {"QLinearConv": 3, **ENDS},
    pooled: {"QLinearConv": 2, "MaxPool": 1, **ENDS},
    pools: {
        **{"QLinearConv": 2, "MaxPool": 1, "QLinearAveragePool": 1, "QLinearConcat": 1},
        **{"QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1, "QuantizeLinear": 1},
    },
    squeezed: {
        **{"QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1},
        **ENDS,
    },
    moved: {
        **{"QLinearConv": 2, "Split": 1, "QLinearAdd": 1, "Transpose": 1, "Resize": 1},
        **ENDS,
    },
    leaky: {"QLinearConv": 3, "QLinearLeakyRelu": 1, "QLinearMul": 1, "Reshape": 1, **ENDS},
    # floating point between products: shapes are not known, so the bias is added on its own
    products: {"MatMulIntegerToFloat": 2, "Add": 1, "QuantizeLinear": 2, "DequantizeLinear": 1},
}
"""Models, and what ONNX Runtime makes of them."""


@pytest.mark.parametrize("make", CASES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_all_that_can_be_is_on_integers(make, method, rng, tmp_path: Path) -> None:
    model = make(rng)
    samples = draws(model, rng)
    made = carried_out(model, samples, method=method)
    assert fused(made, tmp_path) == Counter(CASES[make])
    everywhere = fused(made, tmp_path, "ALL")
    assert not everywhere.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"}
    before, after = run(model, samples[0])[0], run(made, samples[0])[0]
    assert np.linalg.norm(after - before) < 0.03 * np.linalg.norm(before)


@pytest.mark.parametrize("make", CASES, ids=lambda one: one.__name__)
def test_tidying_up_again_changes_nothing(make, rng) -> None:
    model = make(rng)
    made = carried_out(model, draws(model, rng))
    before = serialize(made)
    QuantizeStatic().finish(made)
    assert serialize(made) == before


@pytest.mark.parametrize("make", CASES, ids=lambda one: one.__name__)
def test_tidying_up_hardly_changes_what_is_computed(make, rng) -> None:
    model = make(rng)
    samples = draws(model, rng)
    loose, refused = applied(model, samples)
    assert not refused
    tidy = carried_out(model, samples)
    x, y, z = (run(one, samples[1], optimize=False)[0] for one in (model, loose, tidy))
    assert np.linalg.norm(z - x) < 1.5 * np.linalg.norm(y - x) + 0.01 * np.linalg.norm(x)


def test_signed_activations(rng, tmp_path: Path) -> None:
    # ONNX Runtime turns them to unsigned ones on x86, but for those that several nodes read
    model = conv_relu_conv(rng)
    made = carried_out(model, draws(model, rng), activations="s8")
    assert fused(made, tmp_path) == Counter(CASES[conv_relu_conv])


def test_ranges_found_in_different_ways_for_one_tensor(rng, tmp_path: Path) -> None:
    model = separable(rng)
    ways = {"u": "percentile", "v": "minmax", "w": "mse"}
    made = carried_out(model, draws(model, rng), methods=ways)
    assert fused(made, tmp_path) == Counter(CASES[separable])


def test_a_sum_is_on_integers_for_all_who_read_it(rng, tmp_path: Path) -> None:
    weights = {"u": kernel(rng, 4, 4, 1, 1), "v": kernel(rng, 4, 4, 1, 1)}
    body = "a = Conv(x, u)\ns = Add(a, a)\nb = Conv(s, v)\nt = Tanh(s)\ny = Add(b, t)"
    model = image(body, weights)
    found = fused(carried_out(model, draws(model, rng)), tmp_path)
    assert found["QLinearAdd"] == found["Tanh"] == found["Add"] == 1


def test_what_a_slice_leaves_out_is_not_cut_off(rng) -> None:
    weights = {"u": kernel(rng, 4, 4, 1, 1), "v": kernel(rng, 4, 1, 1, 1)}
    weights["u"][0] /= 100
    weights |= {"zero": np.array([0]), "one": np.array([1])}
    body = """a = Conv(x, u)\ns = Add(a, a)\nc = Slice(s, zero, one, one)\nb = Conv(c, v)
    y = Add(b, s)"""
    model = image(body, weights)
    samples = draws(model, rng)
    before = run(model, samples[0])[0]
    after = run(carried_out(model, samples), samples[0])[0]
    assert np.abs(before - after).max() < 0.03 * np.abs(before).max()


def test_products_of_known_shape_take_up_their_bias(rng, tmp_path: Path) -> None:
    weights = {"w": kernel(rng, 16, 24), "b": kernel(rng, 24), "v": kernel(rng, 24, 7)}
    text = """g (float[4,16] x) => (float[4,7] y) {
        a = MatMul(x, w)\ns = Add(b, a)\nr = Relu(s)\ny = MatMul(r, v) }"""
    model = build(text, weights)
    found = fused(carried_out(model, draws(model, rng)), tmp_path)
    assert found == Counter({"QuantizeLinear": 1, "QGemm": 1, "MatMulIntegerToFloat": 1})


def test_one_layer_alone_has_its_own_pairs(rng, tmp_path: Path) -> None:
    model = residual(rng)
    made = carried_out(model, draws(model, rng), only=["v"])
    found = fused(made, tmp_path)
    assert found["QLinearConv"] == 1
    assert found["Conv"] + found["FusedConv"] == 2
    assert found["Add"] == 1


def test_names_of_tensors_stay(rng) -> None:
    model = pools(rng)
    made = carried_out(model, draws(model, rng))
    names = {value.name for node in made.graph for value in node.outputs}
    assert {value.name for node in model.graph for value in node.outputs} <= names | {"a", "c", "y"}
    assert [value.name for value in made.graph.outputs] == ["y"]
