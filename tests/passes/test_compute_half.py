"""ComputeHalf: single layers, what is offered, what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, serialize
from onnxslim_rx.passbase import Candidate, Layer, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import Target, load_target
from onnxslim_rx_passes.compute_half import ComputeHalf
from tests.passes.halves import TARGET, in_half, model, types

Array = npt.NDArray[Any]

HALF_TARGET = dataclasses.replace(TARGET, computes=("float32", "float16"))
BRAIN_TARGET = dataclasses.replace(TARGET, computes=("float32", "bfloat16"))
MATMUL = "g (float[4, 40] x) => (float[4, 60] y) { y = MatMul(x, w) }"
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "MatMul": (MATMUL, {"w": (40, 60)}),
    "MatMul, left": (
        "g (float[60, 4] x) => (float[40, 4] y) { y = MatMul(w, x) }", {"w": (40, 60)},
    ),
    "MatMul, batched": (
        "g (float[3, 4, 40] x) => (float[3, 4, 60] y) { y = MatMul(x, w) }", {"w": (3, 40, 60)},
    ),
    "Gemm": (
        "g (float[4, 40] x) => (float[4, 60] y) { y = Gemm<transB=1, alpha=0.5>(x, w, b) }",
        {"w": (60, 40), "b": (60,)},
    ),
    "Conv": (
        "g (float[1, 8, 9, 9] x) => (float[1, 16, 7, 7] y) { y = Conv(x, w, b) }",
        {"w": (16, 8, 3, 3), "b": (16,)},
    ),
    "Conv, depthwise": (
        "g (float[1, 8, 9, 9] x) => (float[1, 8, 7, 7] y) { y = Conv<group=8>(x, w) }",
        {"w": (8, 1, 3, 3)},
    ),
    "ConvTranspose": (
        "g (float[1, 16, 5, 5] x) => (float[1, 8, 7, 7] y) { y = ConvTranspose(x, w) }",
        {"w": (16, 8, 3, 3)},
    ),
}  # fmt: skip


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def feed(found: ir.Model) -> dict[str, Array]:
    (x,) = found.graph.inputs
    assert x.shape is not None
    array = np.random.default_rng(6).standard_normal(x.shape.numpy())
    return {"x": array.astype(np.float16).astype(np.float32)}


def offered(found: ir.Model, target: Target, **options: Any) -> list[Candidate]:
    one = ComputeHalf(**{"min_elements": 16, **options})
    layers = [layer for layer in one.layers(found) if isinstance(layer, Layer)]
    return [c for layer in layers for c in one.candidates(layer, None, target)]


@pytest.mark.parametrize("case", CASES)
def test_a_layer_computes_with_half_weights_and_activations(case: str) -> None:
    text, shapes = CASES[case]
    found = model(text, weights(shapes))
    assert in_half(found) == ["w"]
    assert types(found) == ["Cast", f"{case.split(',')[0]}16", "Cast"]
    rounded = {n: a.astype(np.float16).astype(np.float32) for n, a in weights(shapes).items()}
    plain = model(text, rounded)
    expected, x = Runner(plain)(feed(plain))["y"], feed(plain)
    made = Runner(load(ir.to_proto(found)))(x)["y"]
    assert made.dtype == np.float32
    # what is left is the rounding of the result, and of sums where a kernel sums in half
    scale = np.abs(expected).max()
    np.testing.assert_allclose(made, expected, rtol=0, atol=2**-10 * scale)
    assert not {"w", "b"} & set(found.graph.initializers)


def test_the_error_that_is_predicted_is_that_of_rounding() -> None:
    plain = model(*_case("MatMul"))
    (candidate,) = offered(plain, HALF_TARGET)
    assert candidate.stages == (Stage("compute-half", {"type": "float16"}),)
    assert candidate.bytes == 2 * 40 * 60
    x, w = np.random.default_rng(1).standard_normal((1000, 40)), weights({"w": (40, 60)})["w"]
    rounded = x.astype(np.float16).astype(float) @ w.astype(np.float16).astype(float)
    lost = np.linalg.norm(rounded - x @ w) / np.linalg.norm(x @ w)
    # the bound is that of the worst place between two powers of two
    assert 0.5 * candidate.error < lost < candidate.error
    assert not candidate.folds
    assert ComputeHalf().applied(candidate.stages[0])


def _case(name: str, **more: Any) -> tuple[str, dict[str, Array]]:
    text, shapes = CASES[name]
    return text, weights(shapes) | more


def test_targets_say_whether_it_is_offered() -> None:
    found = model(*_case("MatMul"))
    assert offered(found, load_target("ort-cpu")) == []
    assert offered(found, load_target("portable")) == []
    assert len(offered(found, HALF_TARGET)) == 1
    assert len(offered(found, TARGET, type="float16")) == 1  # whoever asks gets it
    for name, opset, count in (("MatMul", 13, 1), ("MatMul", 12, 0), ("Conv", 21, 0)):
        found = model(*_case(name), opset=opset)
        assert len(offered(found, BRAIN_TARGET)) == count
        assert len(offered(found, BRAIN_TARGET, type="bfloat16")) == count
    (candidate,) = offered(model(*_case("Conv"), opset=22), BRAIN_TARGET)
    assert candidate.stages[0].options == {"type": "bfloat16"}


def test_bfloat16_is_refused_where_there_are_no_kernels() -> None:
    with pytest.raises(InputError, match="no kernel of MatMul, Gemm, Conv and ConvTranspose"):
        offered(model(*_case("MatMul")), TARGET, type="bfloat16")
    # which the runtime at hand confirms
    for name, opset in (("MatMul", 20), ("Gemm", 20), ("Conv", 22), ("ConvTranspose", 22)):
        found = model(*_case(name), opset=opset)
        one = ComputeHalf(type="bfloat16", min_elements=16)
        (layer,) = one.layers(found)
        assert isinstance(layer, Layer)
        (candidate,) = one.candidates(layer, None, BRAIN_TARGET)
        assert apply_treatments(found, [(layer, candidate.stages, None)], {one.name: one}) == []
        with pytest.raises(InputError, match=f"no CPU kernel for {name}"):
            Runner(found)


def test_what_does_not_fit_is_left(rng: np.random.Generator) -> None:
    for name, index in (("w", (0, 0)), ("b", (0,))):
        text, arrays = _case("Gemm")
        arrays[name][index] = 7e4
        found = model(text, arrays)
        assert offered(found, HALF_TARGET) == []
        (layer,) = ComputeHalf().layers(found)
        assert isinstance(layer, Layer)
        one, stage = ComputeHalf(), Stage("compute-half", {"type": "float16"})
        before = serialize(found)
        (skipped,) = apply_treatments(found, [(layer, (stage,), None)], {one.name: one})
        assert "beyond the range of float16" in skipped.why
        assert serialize(found) == before
        if name == "w":
            with pytest.raises(InputError, match="beyond the range"):
                one.transform(layer, stage, (arrays["w"],), None)


def test_what_is_refused_says_why() -> None:
    text = """g (float[4, 40] x) => (float[4, 40] y) {
        a = MatMul(x, w)
        y = MatMul(a, w)
    }"""
    half = "g (float16[4, 40] x) => (float16[4, 60] y) { y = MatMul(x, w) }"
    arrays = weights({"w": (40, 60)})
    cases: dict[str, tuple[ir.Model, dict[str, Any]]] = {
        "2 nodes share it": (model(text, weights({"w": (40, 40)})), {}),
        "is of type FLOAT16": (model(half, {"w": arrays["w"].astype(np.float16)}), {}),
        "opset 5 has no half": (model(MATMUL, arrays, opset=5), {}),
        "opset 17 has no bfloat16 here; 22": (model(*_case("Conv")), {"type": "bfloat16"}),
        "below 10000": (model(MATMUL, arrays), {"min_elements": 10_000}),
    }
    for why, (found, options) in cases.items():
        (layer,) = ComputeHalf(**options).layers(found)
        assert isinstance(layer, Skipped)
        assert why in layer.why
    done = model(MATMUL, arrays)
    in_half(done)
    assert not any(isinstance(layer, Layer) for layer in ComputeHalf().layers(done))


@pytest.mark.parametrize("options", [{"type": "float8"}, {"min_elements": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="compute-half"):
        ComputeHalf(**options)
