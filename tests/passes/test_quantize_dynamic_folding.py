"""Scales in front of rounded activations move into what makes them, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.passbase import Layer, LayerStatistics, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments, finish
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build

Array = npt.NDArray[Any]
K, N = 24, 17

# what makes x, by name; what folds counts the Mul that is left
FOLDED = {
    "layer norm": "x = LayerNormalization(i, k, l)",
    "layer norm, no bias": "x = LayerNormalization(i, k)",
    "skip layer norm": "x = com.microsoft.SkipLayerNormalization(i, i, k, l)",
    "rms norm": "x = SimplifiedLayerNormalization(i, k)",
    "constant": "s = Sigmoid(i) x = Mul(k, s)",
    "scalar": "s = Sigmoid(i) x = Mul(s, one)",
    "relu": "s = LayerNormalization(i, k, l) x = Relu(s)",
    "matmul": "x = MatMul(i, m)",
    "matmul and bias": "s = MatMul(i, m) x = Add(l, s)",
    "gemm": "x = Gemm(i, m, l)",
    "gemm, transposed": "x = Gemm<transB = 1>(i, m, l)",
    "gemm, one bias": "x = Gemm(i, m, one)",
    "two": "s = LayerNormalization(i, k, l) t = Sigmoid(i) x = Mul(t, s)",
}
KEPT = {
    "an input": "x = Identity(i)",
    "read elsewhere": "x = LayerNormalization(i, k, l) z = Relu(x)",
    "a graph output": "z = LayerNormalization(i, k, l) x = Identity(z)",
    "sigmoid": "s = LayerNormalization(i, k, l) x = Sigmoid(s)",
    "shared weight": "x = MatMul(i, m) z = MatMul(i, m)",
    "not constant": "x = Mul(i, i)",
    "sum": "s = LayerNormalization(i, k, l) x = Add(s, i)",
    "matrix": "s = Sigmoid(i) x = Mul(s, rows)",
}


def made(text: str, rng: np.random.Generator) -> ir.Model:
    constants = {
        "k": rng.uniform(0.5, 2, K),
        "l": rng.standard_normal(K),
        "m": rng.standard_normal((K, K)),
        "one": np.asarray(0.7),
        "rows": rng.standard_normal((4, K)),
        "w": rng.standard_normal((K, N)),
        "v": rng.standard_normal((K, N)),
    }
    used = {n: a.astype(np.float32) for n, a in constants.items() if _reads(text, n)}
    outputs = f"float[4,{N}] y, float[4,{N}] u" + (f", float[4,{K}] z" if "z =" in text else "")
    body = f"{text} y = MatMul(x, w) u = MatMul(x, v)"
    used |= {n: constants[n].astype(np.float32) for n in "wv"}
    return build(f"g (float[4,{K}] i) => ({outputs}) {{ {body} }}", used)


def _reads(text: str, name: str) -> bool:
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return name in words


def quantized(model: ir.Model, exponent: float, *, names: str = "wv") -> ir.Model:
    rng = np.random.default_rng(5)
    one = QuantizeDynamic(min_elements=1)
    x = rng.standard_normal((50, K)) * np.exp(rng.uniform(-2, 2, K))
    known = LayerStatistics(x.T @ x, None, 50, None, (), low=x.min(axis=0), high=x.max(axis=0))
    stages = [Stage(one.name, {"bits": 8, "method": "nearest", "smooth": exponent})]
    treatments = [
        (layer, stages, known)
        for layer in one.layers(model)
        if isinstance(layer, Layer) and layer.name in names
    ]
    assert not apply_treatments(model, treatments, {one.name: one})
    return model


def rows(model: ir.Model) -> list[tuple[int, ...]]:
    """Shapes of constants that a Mul in front of a rounding reads."""
    return [
        tuple(value.const_value.shape.numpy())
        for node in model.graph
        if node.op_type == "DynamicQuantizeLinear"
        for source in [node.inputs[0]]
        if source is not None and (maker := source.producer()) is not None
        if maker.op_type == "Mul" and maker.metadata_props.get("rx.by") == "quantize-dynamic"
        for value in maker.inputs
        if value is not None and value.const_value is not None
    ]


@pytest.mark.parametrize("case", FOLDED)
def test_scales_fold(case: str, rng: np.random.Generator) -> None:
    model = quantized(made(FOLDED[case], rng), 0.8)
    assert rows(model) == [(K,)]
    feeds = {"i": rng.standard_normal((4, K)).astype(np.float32)}
    before = Runner(model, optimize=False)(feeds)
    one = QuantizeDynamic(min_elements=1)
    finish(model, [[Stage(one.name, {"bits": 8})]], {one.name: one})
    assert rows(model) == []
    after = Runner(model, optimize=False)(feeds)
    for name, wanted in before.items():
        # an activation may fall on the other side of a half
        np.testing.assert_allclose(after[name], wanted, atol=0.02 * np.abs(wanted).max())
        assert np.linalg.norm(after[name] - wanted) < 3e-3 * np.linalg.norm(wanted)
    count = len(list(model.graph))
    finish(model, [[Stage(one.name, {"bits": 8})]], {one.name: one})
    assert len(list(model.graph)) == count


@pytest.mark.parametrize("case", KEPT)
def test_scales_stay(case: str, rng: np.random.Generator) -> None:
    model = quantized(made(KEPT[case], rng), 0.8)
    feeds = {"i": rng.standard_normal((4, K)).astype(np.float32)}
    before = Runner(model, optimize=False)(feeds)
    QuantizeDynamic().finish(model)
    assert rows(model) == [(K,)]
    after = Runner(model, optimize=False)(feeds)
    for name, wanted in before.items():
        np.testing.assert_array_equal(after[name], wanted)


def test_a_layer_beside_that_is_left_in_float_keeps_what_it_reads(rng: np.random.Generator) -> None:
    model = quantized(made(FOLDED["layer norm"], rng), 0.8, names="w")
    feeds = {"i": rng.standard_normal((4, K)).astype(np.float32)}
    before = Runner(model, optimize=False)(feeds)
    QuantizeDynamic().finish(model)
    after = Runner(model, optimize=False)(feeds)
    np.testing.assert_array_equal(after["u"], before["u"])
    assert rows(model) == [(K,)]


def test_integer_products_take_scales_into_their_own(rng: np.random.Generator) -> None:
    """Two in a row: the columns' scales of the first hold those of the second's channels."""
    model = quantized(made(FOLDED["matmul and bias"], rng), 0.8, names="wvm")
    assert len(rows(model)) == 2  # one in front of each of two activations
    feeds = {"i": rng.standard_normal((4, K)).astype(np.float32)}
    before = Runner(model, optimize=False)(feeds)
    QuantizeDynamic().finish(model)
    assert len(rows(model)) == 1  # the graph input's
    after = Runner(model, optimize=False)(feeds)
    for name, wanted in before.items():
        assert np.linalg.norm(after[name] - wanted) < 3e-3 * np.linalg.norm(wanted)
