"""Products in INT8 against the same arithmetic in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build
from tests.passes.dynamic import Array, K, N, carried_out, product, statistics, uneven


def weight_grid(weight: Array, limit: int) -> tuple[Array, Array]:
    """Integers (K, N) and the scale of each column, as they are stored."""
    scales = (np.abs(weight.astype(np.float64)).max(axis=0) / limit).astype(np.float32)
    return np.rint(weight / scales.astype(np.float64)), scales


def expected(x: Array, weight: Array, bits: int = 8) -> Array:
    """`X W` as ONNX defines DynamicQuantizeLinear, in float64; (K, N) weight as applied."""
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    step = np.float32((high - low) / np.float32(255.0)) or np.float32(1.0)
    zero = np.clip(np.rint(-low / step), 0, 255)
    rounded = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    integers, scales = weight_grid(weight, 2 ** (bits - 1) - 1)
    return np.asarray((rounded @ integers) * (np.float64(step) * scales.astype(np.float64)))


@pytest.mark.parametrize("bits", [7, 8])
def test_a_product_is_that_of_the_integers(rng: np.random.Generator, bits: int) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    text = f"g (float[B,S,{K}] x) => (float[B,S,{N}] y) {{ y = MatMul(x, w) }}"
    model = build(text, {"w": weight})
    assert not carried_out(model, bits)
    x = rng.standard_normal((2, 5, K)).astype(np.float32)
    found = Runner(model, optimize=False)({"x": x})["y"]
    np.testing.assert_allclose(found, expected(x, weight, bits), rtol=1e-5, atol=1e-5)
    assert np.abs(found - x @ weight).max() > 1e-3  # it is no float product


@pytest.mark.parametrize(
    "attributes", ["transB = 0", "transB = 1", "transB = 1, alpha = -0.5, beta = 3.0"]
)
@pytest.mark.parametrize("bias", [None, (N,), (1,), (4, N)])
def test_gemm(rng: np.random.Generator, attributes: str, bias: tuple[int, ...] | None) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    weights = {"w": weight.T.copy() if "transB = 1" in attributes else weight}
    if bias is not None:
        weights["c"] = rng.standard_normal(bias).astype(np.float32)
    operands = "x, w, c" if bias is not None else "x, w"
    text = f"g (float[4,{K}] x) => (float[4,{N}] y) {{ y = Gemm<{attributes}>({operands}) }}"
    model = build(text, weights)
    assert not carried_out(model)
    x = rng.standard_normal((4, K)).astype(np.float32)
    alpha, beta = (-0.5, 3.0) if "alpha" in attributes else (1.0, 1.0)
    wanted = alpha * expected(x, weight)
    wanted += beta * weights["c"] if bias is not None else 0.0
    found = Runner(model, optimize=False)({"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)


def test_activations_are_rounded_once_for_all_that_read_them(rng: np.random.Generator) -> None:
    weights = {name: rng.standard_normal((K, N)).astype(np.float32) for name in "uvw"}
    text = f"""g (float[B,{K}] x) => (float[B,{N}] y, float[B,{N}] z)
    {{ y = MatMul(x, u) a = MatMul(x, v) b = Relu(x) c = MatMul(b, w) z = Add(a, c) }}"""
    model = build(text, weights)
    assert not carried_out(model)
    rounding = [node for node in model.graph if node.op_type == "DynamicQuantizeLinear"]
    assert len(rounding) == 2
    x = rng.standard_normal((6, K)).astype(np.float32)
    found = Runner(model, optimize=False)({"x": x})
    np.testing.assert_allclose(found["y"], expected(x, weights["u"]), rtol=1e-5, atol=1e-5)
    wanted = expected(x, weights["v"]) + expected(np.maximum(x, 0), weights["w"])
    np.testing.assert_allclose(found["z"], wanted, rtol=1e-5, atol=2e-5)


def test_zeros_stay_zeros(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    weight[:, 3] = 0.0
    model = build(f"g (float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", {"w": weight})
    assert not carried_out(model)
    runner = Runner(model, optimize=False)
    assert not runner({"x": np.zeros((3, K), np.float32)})["y"].any()
    assert not runner({"x": np.ones((3, K), np.float32)})["y"][:, 3].any()


def test_what_is_left_of_a_weight_does_without_the_statistics_of_the_whole(
    rng: np.random.Generator,
) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    model = build(f"g (float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", {"w": weight})
    one = QuantizeDynamic(min_elements=1)
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    stats = statistics(rng.standard_normal((400, K + 3)).astype(np.float32))
    stage = Stage("quantize-dynamic", {"bits": 8})
    (stand_in,) = one.transform(layer, stage, (weight.astype(np.float64),), stats)
    integers, scales = weight_grid(weight, 127)
    np.testing.assert_allclose(stand_in, integers * scales.astype(np.float64), rtol=1e-12)
    assert len(list(one.candidates(layer, stats, load_target("ort-cpu")))) == 1


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        (f"(float16[B,{K}] x) => (float16[B,{N}] y) {{ y = MatMul(x, w) }}", {}, "float16"),
        (f"(float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", {"opset": 10}, "opset"),
        (
            f"(float[B,{K}] x, float[B,{K}] v) => (float[B,{N}] y, float[B,{N}] z)"
            "{ y = MatMul(x, w) z = MatMul(v, w) }",
            {},
            "share",
        ),
        (f"(float[{K},B] x) => (float[B,{N}] y) {{ y = Gemm<transA = 1>(x, w) }}", {}, "transp"),
    ],
)
def test_refusals(rng: np.random.Generator, text: str, options: dict[str, int], why: str) -> None:
    dtype = np.float16 if "float16" in text else np.float32
    weight = rng.standard_normal((K, N)).astype(dtype)
    (found,) = QuantizeDynamic(min_elements=1).layers(build(f"g {text}", {"w": weight}, **options))
    assert isinstance(found, Skipped)
    assert why in found.why


def test_what_is_not_finite_is_left_alone() -> None:
    weight = np.full((K, N), np.nan, np.float32)
    model = build(f"g (float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", {"w": weight})
    one = QuantizeDynamic(min_elements=1)
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    assert not list(one.candidates(layer, None, load_target("ort-cpu")))
    assert "NaN" in carried_out(model)[0].why


def test_options_outside_their_range() -> None:
    with pytest.raises(InputError, match="bits"):
        QuantizeDynamic(bits=4)
    with pytest.raises(InputError, match="method"):
        QuantizeDynamic(method="hqq")
    with pytest.raises(InputError, match="smooth"):
        QuantizeDynamic(smooth=1.5)
    with pytest.raises(InputError, match="min_elements"):
        QuantizeDynamic(min_elements=0)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"method": "hqq"}, "method"), ({"smooth": -0.1}, "smooth"), ({"bits": 5}, "bits"),
     ({"method": "gptq"}, "no statistics"), ({"smooth": 0.5}, "no statistics")],
)  # fmt: skip
def test_stages_out_of_range(rng: np.random.Generator, options: dict[str, Any], why: str) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    with pytest.raises(InputError, match=why):
        carried_out(product(weight), **options)


def test_a_stage_of_bits_alone_is_replayed_as_it_was(rng: np.random.Generator) -> None:
    weight, x = rng.standard_normal((K, N)).astype(np.float32), uneven(rng)
    model = product(weight)
    assert not carried_out(model, stats=statistics(x))
    stored = model.graph.initializers["w.int8"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), weight_grid(weight, 127)[0])
    assert "Mul" not in [node.op_type for node in model.graph][:2]
