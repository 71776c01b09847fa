"""QuantizeWeights per channel: methods, and the errors of outputs that they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant, serialize
from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics, Stage
from onnxslim_rx.quant import dequantize, quantize_symmetric
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._factors import factorize
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.conftest import build

Array = npt.NDArray[Any]
TARGET = load_target("ort-cpu")
K, N = 45, 38
LINEAR = {
    "matmul": (f"(float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", (K, N), 1),
    "left": (f"(float[{K},B] x) => (float[{N},B] y) {{ y = MatMul(w, x) }}", (N, K), 0),
    "gemm": (f"(float[B,{K}] x) => (float[B,{N}] y) {{ y = Gemm<transB=1>(x, w) }}", (N, K), 0),
    "gemm, both": (
        f"(float[{K},B] x) => (float[B,{N}] y) {{ y = Gemm<transA=1, transB=1>(x, w) }}",
        (N, K),
        0,
    ),
}
GROUPED = "(float[B,10,H,W] x) => (float[B,20,Y,X] y) { y = Conv<group=5>(x, w) }"
CONV = "(float[B,5,H,W] x) => (float[B,{M},Y,X] y) {{ y = Conv<{attributes}>(x, w) }}"


def inputs(rng: np.random.Generator, rows: int = 500, k: int = K) -> Array:
    """Correlated, with channels of different sizes."""
    mixed = rng.standard_normal((rows, k // 3)) @ rng.standard_normal((k // 3, k))
    x = (mixed + 0.3 * rng.standard_normal((rows, k))) * rng.uniform(0.2, 3.0, k)
    return x.astype(np.float32)


def known(x: Array, *, patches: bool = False) -> LayerStatistics:
    wide = x.astype(np.float64)
    return LayerStatistics(wide.T @ wide, None, len(x), x, x.shape, patches=patches)


def weight(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def quantizer(**options: Any) -> QuantizeWeights:
    return QuantizeWeights(**{"min_elements": 1, "form": "cast-mul", **options})


def only_layer(one: QuantizeWeights | FactorizeGemm, model: ir.Model) -> Layer:
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    return layer


def offered(model: ir.Model, stats: LayerStatistics | None, **options: Any) -> list[Candidate]:
    one = quantizer(**options)
    return list(one.candidates(only_layer(one, model), stats, TARGET))


def carried_out(model: ir.Model, stage: Stage, stats: LayerStatistics | None) -> Array:
    """What the weight becomes."""
    one = quantizer()
    assert not apply_treatments(model, [(only_layer(one, model), [stage], stats)], {one.name: one})
    made = {str(name): value.const_value for name, value in model.graph.initializers.items()}
    integers, scale = made["w.int8"], made["w.scale"]
    assert integers is not None
    assert scale is not None
    return np.asarray(integers.numpy() * scale.numpy().astype(np.float64))


def patches_of(x: Array, kernel: tuple[int, ...], stride: int) -> Array:
    """(positions, C kernel), zeros at the edges for a padding of 1; independent of the package."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = (
        (size - k) // stride + 1 for size, k in zip(padded.shape[2:], kernel, strict=True)
    )
    return np.stack(
        [
            padded[
                b,
                :,
                stride * i : stride * i + kernel[0],
                stride * j : stride * j + kernel[1],
            ].reshape(-1)
            for b in range(len(x))
            for i in range(rows)
            for j in range(columns)
        ]
    )


@pytest.mark.parametrize("case", LINEAR)
def test_outputs_lose_what_is_promised_and_less_than_to_nearest(
    case: str, rng: np.random.Generator
) -> None:
    text, shape, axis = LINEAR[case]
    w, x = weight(rng, *shape), inputs(rng)
    feeds = {"x": x if text.startswith("(float[B") else x.T.copy()}
    stats = known(x)
    (candidate,) = offered(build(f"g {text}", {"w": w}), stats)
    assert candidate.stages[0].options["method"] == "gptq"
    model = build(f"g {text}", {"w": w})
    exact = Runner(model)(feeds)["y"].astype(np.float64)
    nearest = dequantize(quantize_symmetric(w, (axis,)))
    plain = Runner(build(f"g {text}", {"w": nearest.astype(np.float32)}))(feeds)["y"]
    one, layer = quantizer(), only_layer(quantizer(), model)
    (stand_in,) = one.transform(layer, candidate.stages[0], (w.astype(np.float64),), stats)
    stored = carried_out(model, candidate.stages[0], stats)
    np.testing.assert_allclose(stand_in, stored, rtol=1e-12)
    lost = np.linalg.norm(Runner(model)(feeds)["y"] - exact) / np.linalg.norm(exact)
    assert candidate.error == pytest.approx(lost, rel=1e-3)
    assert lost < 0.75 * np.linalg.norm(plain - exact) / np.linalg.norm(exact)
    assert one.follows_data(candidate.stages[0])


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 2), 2), ((1, 1), 1)])
def test_convolutions_are_rounded_under_their_patches(
    kernel: tuple[int, int], stride: int, rng: np.random.Generator
) -> None:
    w = weight(rng, 61, 5, *kernel)
    text = "g " + CONV.format(M=61, attributes=f"strides=[{stride},{stride}], pads=[1,1,1,1]")
    x = np.cumsum(weight(rng, 3, 5, 9, 8), axis=-1)
    stats = known(patches_of(x, kernel, stride), patches=True)
    (candidate,) = offered(build(text, {"w": w}), stats)
    assert candidate.stages[0].options["method"] == "gptq"
    model = build(text, {"w": w})
    exact = Runner(model)({"x": x})["y"].astype(np.float64)
    carried_out(model, candidate.stages[0], stats)
    lost = np.linalg.norm(Runner(model)({"x": x})["y"] - exact) / np.linalg.norm(exact)
    assert candidate.error == pytest.approx(lost, rel=1e-3)
    (other,) = offered(build(text, {"w": w}), stats, method="nearest")
    assert candidate.error < 0.9 * other.error


@pytest.mark.parametrize(
    ("text", "shape", "side"),
    [
        (GROUPED, (20, 2, 3, 3), 90),
        (CONV.format(M=10, attributes="strides=[1,1]"), (10, 5, 3, 3), 5),
        ("(float[B,5,H,W] x) => (float[B,7,Y,X] y) { y = ConvTranspose(x, w) }", (5, 7, 3, 3), 5),
        (f"(float[B,{K}] x) => (float[B,{N}] y) {{ y = MatMul(x, w) }}", (K, N), K + 1),
        (f"(float[3,B,{K}] x) => (float[3,B,{N}] y) {{ y = MatMul(x, w) }}", (3, K, N), K),
        ("(int64[B] x) => (float[B,20] y) { y = Gather(w, x) }", (50, 20), None),
    ],
)
def test_others_are_clipped(
    text: str, shape: tuple[int, ...], side: int | None, rng: np.random.Generator
) -> None:
    stats = None if side is None else known(inputs(rng, k=side), patches="Conv" in text)
    w = weight(rng, *shape)
    (candidate,) = offered(build(f"g {text}", {"w": w}), stats)
    assert dict(candidate.stages[0].options) == {"bits": 8, "form": "cast-mul", "method": "clip"}
    stored = carried_out(build(f"g {text}", {"w": w}), candidate.stages[0], stats)
    lost = np.linalg.norm(stored - w) / np.linalg.norm(w)
    assert candidate.error == pytest.approx(lost, rel=1e-4)
    (other,) = offered(build(f"g {text}", {"w": w}), None, method="nearest")
    assert lost <= other.error
    assert not quantizer().follows_data(candidate.stages[0])


def test_a_stage_without_a_method_is_replayed_to_the_same_bytes(rng: np.random.Generator) -> None:
    text, shape, axis = LINEAR["matmul"]
    w = weight(rng, *shape)
    model = build(f"g {text}", {"w": w})
    stage = Stage("quantize-weights", {"bits": 8, "form": "cast-mul"})
    stored = carried_out(model, stage, known(inputs(rng)))
    np.testing.assert_array_equal(stored, dequantize(quantize_symmetric(w, (axis,))))
    named = build(f"g {text}", {"w": w})
    carried_out(named, Stage(stage.pass_name, {**stage.options, "method": "nearest"}), None)
    assert bytes(serialize(model)) == bytes(serialize(named))


@pytest.mark.parametrize("bits", [3, 6])
def test_fewer_bits(bits: int, rng: np.random.Generator) -> None:
    text, shape, _ = LINEAR["gemm"]
    w, stats = weight(rng, *shape), known(inputs(rng))
    (found,) = offered(build(f"g {text}", {"w": w}), stats, bits=bits)
    (plain,) = offered(build(f"g {text}", {"w": w}), stats, bits=bits, method="nearest")
    assert found.error < 0.7 * plain.error
    model = build(f"g {text}", {"w": w})
    carried_out(model, found.stages[0], stats)
    integers = constant(model.graph.initializers["w.int8"])
    assert integers is not None
    assert np.abs(integers.numpy().astype(int)).max() <= 2 ** (bits - 1)


def test_factors_are_rounded_under_what_enters_them(rng: np.random.Generator) -> None:
    """As `transform` says and as the model that is built stores them."""
    text, shape, _ = LINEAR["matmul"]
    w, stats = weight(rng, *shape), known(inputs(rng))
    first, second = FactorizeGemm(min_elements=1), quantizer()
    model = build(f"g {text}", {"w": w})
    cut = Stage(first.name, {"method": "whitened-svd", "rank": 9})
    rounding = Stage(second.name, {"bits": 8, "form": "cast-mul", "method": "gptq"})
    layer = only_layer(first, model)
    factors = first.transform(layer, cut, (w.astype(np.float64),), stats)
    wanted = second.transform(layer, rounding, factors, stats)
    to_nearest = Stage(second.name, {"bits": 8, "form": "cast-mul"})
    plain = second.transform(layer, to_nearest, factors, stats)
    passes = {first.name: first, second.name: second}
    assert not apply_treatments(model, [(layer, [cut, rounding], stats)], passes)
    stored = sorted(
        (
            (constant(value), constant(model.graph.initializers[f"{str(name)[:-5]}.scale"]))
            for name, value in model.graph.initializers.items()
            if str(name).endswith(".int8")
        ),
        key=lambda pair: pair[0].shape.numpy() != (K, 9) if pair[0] is not None else True,
    )
    for (integers, scale), factor in zip(stored, wanted, strict=True):
        assert integers is not None
        assert scale is not None
        np.testing.assert_allclose(integers.numpy() * scale.numpy(), factor, rtol=1e-5)
    p, q = factorize(w, "whitened-svd", 9, stats)
    x = stats.sample
    assert x is not None

    def lost(pair: tuple[Array, ...]) -> float:
        return float(np.linalg.norm(x @ (pair[0] @ pair[1] - p @ q)))

    assert lost(wanted) < 0.8 * lost(plain)


def test_a_method_that_needs_statistics_says_so(rng: np.random.Generator) -> None:
    text, shape, _ = LINEAR["matmul"]
    w = weight(rng, *shape)
    stage = Stage("quantize-weights", {"bits": 8, "form": "cast-mul", "method": "gptq"})
    with pytest.raises(InputError, match="no statistics of its inputs"):
        carried_out(build(f"g {text}", {"w": w}), stage, None)
    # what is left of a weight after another treatment does without
    cut = carried_out(build(f"g {text}", {"w": w}), stage, known(inputs(rng, k=K + 4)))
    clip = Stage(stage.pass_name, {**stage.options, "method": "clip"})
    np.testing.assert_array_equal(cut, carried_out(build(f"g {text}", {"w": w}), clip, None))
    assert offered(build(f"g {text}", {"w": w}), None, method="gptq") == []


def test_a_method_that_there_is_not(rng: np.random.Generator) -> None:
    text, shape, _ = LINEAR["matmul"]
    stage = Stage("quantize-weights", {"bits": 8, "form": "cast-mul", "method": "hqq"})
    with pytest.raises(InputError, match="method = 'hqq'"):
        carried_out(build(f"g {text}", {"w": weight(rng, *shape)}), stage, None)


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ({"method": "clip", "group": 0, "form": None}, {"cast-mul", "dequantize-linear"}),
        ({"method": "nearest"}, {"cast-mul"}),
        ({"method": "gptq", "form": None, "bits": 4}, {"nbits"}),
        ({"method": "hqq", "group": 0, "form": None}, set()),
    ],
)
def test_which_methods_are_of_channels(
    options: dict[str, Any], forms: set[str], rng: np.random.Generator
) -> None:
    model = build(
        "g (float[B,64] x) => (float[B,64] y) { y = MatMul(x, w) }", {"w": weight(rng, 64, 64)}
    )
    found = offered(model, known(inputs(rng, k=64)), max_row_error=9.0, **options)
    assert {candidate.stages[0].options["form"] for candidate in found} == forms
    assert all(c.stages[0].options["method"] == options["method"] for c in found)


def test_damage_is_measured_in_the_graph_where_activations_are_rounded_too() -> None:
    one = quantizer()
    assert one.applied(Stage(one.name, {"bits": 8, "form": "dequantize-linear"}))
    assert not one.applied(Stage(one.name, {"bits": 8, "form": "cast-mul"}))
    blocks = Stage(one.name, {"bits": 4, "group": 32, "form": "dequantize-linear"})
    assert not one.applied(blocks)
