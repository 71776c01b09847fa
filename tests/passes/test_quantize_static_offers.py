"""Static integers: what is offered, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skip, Skipped, Stage
from onnxslim_rx.quant import Tally
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.conftest import build
from tests.passes.statics import Array, carried_out, draws, run

TARGET = load_target("ort-cpu")
STAGE = Stage("quantize-static", {"activations": "u8", "method": "minmax", "bits": 8})


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape), np.float32)


REFUSED = {
    "y = Gemm<transA = 1>(x, w)": ("float[8,4]", "is transposed"),
    "y = MatMul(w, x)": ("float[8,4]", "a constant matrix on the right"),
    "a = MatMul(x, w)\nb = MatMul(x, w)\ny = Add(a, b)": ("float[4,8]", "2 nodes share it"),
    "y = ConvTranspose(x, k)": ("float[1,8,5]", "no kernel on integers"),
    "b = ReduceMean<axes = [0, 2], keepdims = 0>(x)\ny = Conv(x, k, b)": (
        "float[1,8,5]",
        "its bias is computed",
    ),
    "m = ReduceMin<keepdims = 0>(x)\nc = Conv(x, k)\ny = Clip(c, m)": (
        "float[1,8,5]",
        "bounds of its Clip",
    ),
    "c = Conv(x, k)\ny = Clip(c, one)": ("float[1,8,5]", "do not include 0"),
}


@pytest.mark.parametrize(("body", "given"), REFUSED.items())
def test_refusals(rng, body, given) -> None:
    shape, why = given
    weights = {"w": normal(rng, 8, 8), "k": normal(rng, 8, 8, 3), "one": np.float32(1)}
    read = re.findall(r"\w+", body)
    weights = {name: array for name, array in weights.items() if name in read}
    model = build(f"g ({shape} x) => (float[M,N] y) {{ {body} }}", weights)
    found = list(QuantizeStatic().layers(model))
    assert len(found) == 1
    assert isinstance(found[0], Skipped)
    assert why in found[0].why


@pytest.mark.parametrize(
    ("opset", "options", "why"),
    [(12, {}, "opset 12 has no scales"), (17, {"activations": "u16"}, "opset 17 has no 16 bits")],
)
def test_old_opsets(rng, opset, options, why) -> None:
    model = build(
        "g (float[4,8] x) => (float[4,8] y) { y = MatMul(x, w) }",
        {"w": normal(rng, 8, 8)},
        opset=opset,
    )
    (found,) = QuantizeStatic(**options).layers(model)
    assert isinstance(found, Skipped)
    assert why in found.why


def test_other_types_and_subgraphs(rng) -> None:
    model = build(
        "g (float16[4,8] x) => (float16[4,8] y) { y = MatMul(x, w) }",
        {"w": normal(rng, 8, 8).astype(np.float16)},
    )
    (found,) = QuantizeStatic().layers(model)
    assert isinstance(found, Skipped)
    assert "not for float16" in found.why
    body = """g (float[4,8] x, bool c) => (float[4,8] y) { y = If(c) <
        then_branch = t () => (float[4,8] a) { a = MatMul(x, w) },
        else_branch = e () => (float[4,8] b) { b = Identity(x) }> }"""
    (found,) = QuantizeStatic().layers(build(body, {"w": normal(rng, 8, 8)}))
    assert isinstance(found, Skipped)
    assert "subgraph" in found.why


def test_names_are_those_of_other_passes(rng) -> None:
    weights = {"u": normal(rng, 8, 4, 3, 3), "v": normal(rng, 8, 1, 3, 3), "w": normal(rng, 8, 16)}
    text = """g (float[B,4,8,8] x) => (float[B,16] y) { a = Conv(x, u)\nb = Conv<group = 8>(a, v)
        g = GlobalAveragePool(b)\nf = Flatten(g)\ny = Gemm(f, w) }"""
    model = build(text, weights)
    mine = [one.name for one in QuantizeStatic().layers(model) if isinstance(one, Layer)]
    others = QuantizeWeights(min_elements=1).layers(model)
    assert mine == ["u", "v", "w"]
    assert [one.name for one in others if isinstance(one, Layer)] == ["u", "w"]


def histogram(values: Array) -> Any:
    tally = Tally()
    tally.add(values)
    return tally.histogram()


def test_candidates_say_what_to_expect(rng) -> None:
    weight = normal(rng, 12, 6, 3, 3)
    text = "g (float[B,6,8,8] x) => (float[B,12,6,6] y) { y = Conv(x, w) }"
    model = build(text, {"w": weight})
    samples = draws(model, rng, 32)
    (layer,) = QuantizeStatic().layers(model)
    assert isinstance(layer, Layer)
    stats = collect(model, [layer], samples, ranges=True)[layer.name]
    found = list(QuantizeStatic().candidates(layer, stats, TARGET))
    assert {one.stages[0].options["method"] for one in found} == {
        *("mse", "percentile", "percentile-99.95"),
    }
    assert [one.error for one in found] == sorted(one.error for one in found)
    for one in found:
        assert one.bytes == weight.size + 8 * 12
        assert not one.follows
        assert not one.folds
        method = str(one.stages[0].options["method"])
        made = carried_out(model, samples, method=method)
        pairs = [(run(model, s)[0], run(made, s)[0]) for s in samples]
        lost = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in pairs))
        error = lost / math.sqrt(sum(float(np.sum(a**2)) for a, _ in pairs))
        assert 0.8 * error < one.error < 1.25 * error


def test_without_ranges_nothing_is_offered(rng) -> None:
    model = build(
        "g (float[B,6,8] x) => (float[B,5,8] y) { y = Conv(x, w) }", {"w": normal(rng, 5, 6, 1)}
    )
    one = QuantizeStatic()
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    bare = LayerStatistics(gram=None, counts=None, rows=4, sample=None, shape=(1, 6, 8))
    half = dataclasses.replace(bare, entering=histogram(normal(rng, 9)))
    for stats in (None, bare, half):
        assert not list(one.candidates(layer, stats, TARGET))
        assert isinstance(one.apply(layer, STAGE, stats, ir.tape.Tape()), Skip)


@pytest.mark.parametrize("bad", ["w", "c"])
def test_weights_that_are_not_finite(rng, bad) -> None:
    weight = normal(rng, 5, 6)
    bias = np.full(6, np.inf if bad == "c" else 1, np.float32)
    weight[1, 1] = np.nan if bad == "w" else 0
    text = "g (float[B,5] x) => (float[B,6] y) { y = Gemm(x, w, c) }"
    model = build(text, {"w": weight, "c": bias})
    (layer,) = QuantizeStatic().layers(model)
    assert isinstance(layer, Layer)
    stats = LayerStatistics(
        gram=None, counts=None, rows=4, sample=None, shape=(1, 5), entering=histogram(weight[:1])
    )
    assert not list(QuantizeStatic().candidates(layer, stats, TARGET))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"activations": "u4"}, "activations = 'u4'"),
        ({"method": "guess"}, "method = 'guess'"),
        ({"method": "mse-99"}, "method = 'mse-99'"),
        ({"method": "percentile-many"}, "method = 'percentile-many'"),
        ({"method": "percentile-101"}, "method = 'percentile-101'"),
        ({"bits": 6}, "bits = 6"),
        ({"min_elements": 0}, "min_elements = 0"),
    ],
)
def test_options_out_of_range(options, text) -> None:
    with pytest.raises(InputError, match=text):
        QuantizeStatic(**options)
