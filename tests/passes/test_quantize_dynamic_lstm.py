"""LSTM on integers against the float operator with the rounded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build
from tests.passes.dynamic import Array

T, B, K, H = 7, 3, 13, 11
# inputs behind W and R, attributes, what there is of outputs
CASES = {
    "plain": ("", "", "y"),
    "bias, all outputs": ("b", "", "y, h, c"),
    "last state alone": ("b", "", ", h"),
    "lengths": ("b, n", "", "y, h"),
    "states, no bias": (", , s, t", "", "y, h, c"),
    "peepholes": ("b, , s, t, p", "", "y"),
    "reverse": ("b", 'direction = "reverse"', "y"),
    "both": ("b, n, s, t, p", 'direction = "bidirectional"', "y, h, c"),
    "clip": ("b", "clip = 0.5", "y"),
    "coupled": ("b", "input_forget = 1", "y"),
    "activations": ("b", 'activations = ["Sigmoid", "Relu", "Tanh"]', "y"),
}
SHAPES = {"y": "float[A,D,E,F]", "h": "float[D,E,F]", "c": "float[D,E,F]"}


def made(
    rng: np.random.Generator, more: str = "", attributes: str = "", outputs: str = "y",
    op: str = "LSTM",
) -> ir.Model:  # fmt: skip
    d, g = 1 + ("bidirectional" in attributes), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    constants = {
        "w": rng.standard_normal((d, g * H, K)) / 2,
        "r": rng.standard_normal((d, g * H, H)) / 2,
        "b": rng.standard_normal((d, 2 * g * H)) / 4,
        "p": rng.standard_normal((d, 3 * H)) / 4,
        "s": rng.standard_normal((d, B, H)) / 4,
        "t": rng.standard_normal((d, B, H)) / 4,
    }
    names = [name.strip() for name in more.split(",")]
    used = {n: a.astype(np.float32) for n, a in constants.items() if n in ("w", "r") or n in names}
    if "n" in names:
        used["n"] = np.array([7, 2, 5], np.int32)
    results = ", ".join(f"{SHAPES[n.strip()]} {n.strip()}" for n in outputs.split(",") if n.strip())
    given = f"hidden_size = {H}" + (f", {attributes}" if attributes else "")
    inputs = "x, w, r" + (f", {more}" if more else "")
    text = f"g (float[{T},{B},{K}] x) => ({results}) {{ {outputs} = {op}<{given}>({inputs}) }}"
    return build(text, used)


def units(model: ir.Model) -> list[Layer | Skipped]:
    return list(QuantizeDynamic(min_elements=1).layers(model))


def carried_out(
    model: ir.Model, stats: LayerStatistics | None = None, **options: Any
) -> list[Skipped]:
    one = QuantizeDynamic(min_elements=1)
    (layer,) = units(model)
    assert isinstance(layer, Layer)
    stage = Stage(one.name, {"bits": 8, "method": "clip", **options})
    return apply_treatments(model, [(layer, [stage], stats)], {one.name: one})


def known(x: Array) -> LayerStatistics:
    wide = x.reshape(-1, x.shape[-1]).astype(np.float64)
    own = LayerStatistics(wide.T @ wide, None, len(wide), wide[:20], x.shape)
    return LayerStatistics(None, None, 1, None, (), members=(own,))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [7, 8])
def test_it_computes_with_the_rounded_weights(
    case: str, bits: int, rng: np.random.Generator
) -> None:
    model, plain = (made(np.random.default_rng(8), *CASES[case]) for _ in range(2))
    (layer,) = units(plain)
    assert isinstance(layer, Layer)
    one = QuantizeDynamic(min_elements=1)
    stage = Stage(one.name, {"bits": bits, "method": "clip"})
    constants = [plain.graph.initializers[name] for name in ("w", "r")]
    arrays = tuple(v.const_value.numpy().astype(np.float64) for v in constants if v.const_value)
    for value, array in zip(constants, one.transform(layer, stage, arrays, None), strict=True):
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    assert not carried_out(model, bits=bits)
    assert [(n.domain, n.op_type) for n in model.graph] == [
        ("com.microsoft", "DynamicQuantizeLSTM")
    ]
    x = {"x": rng.standard_normal((T, B, K)).astype(np.float32)}
    wanted, found = Runner(plain)(x), Runner(model)(x)
    assert wanted.keys() == found.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        # inputs are rounded to 255 steps over their range, states likewise, step by step
        assert 0 < np.linalg.norm(found[name] - array) < 0.02 * np.linalg.norm(array)


def test_one_candidate_for_both_weights(rng: np.random.Generator) -> None:
    model, x = made(rng, "b"), rng.standard_normal((T, B, K)) * np.exp(rng.uniform(-2, 2, K))
    (layer,) = units(model)
    assert isinstance(layer, Layer)
    assert layer.name == "w + r"
    assert [value.name for value in layer.weights] == ["w", "r"]
    assert [member.name for member in layer.members] == ["w"]
    one = QuantizeDynamic(min_elements=1)
    (measured,) = one.candidates(layer, known(x), load_target("ort-cpu"))
    (blind,) = one.candidates(layer, None, load_target("ort-cpu"))
    assert [c.stages[0].options["method"] for c in (measured, blind)] == ["gptq", "clip"]
    assert measured.bytes == 4 * H * (K + H) + 5 * 2 * 4 * H
    assert not list(one.candidates(layer, None, load_target("portable")))
    before = Runner(model)({"x": x.astype(np.float32)})["y"]
    assert not carried_out(model, known(x), method="gptq")
    after = Runner(model)({"x": x.astype(np.float32)})["y"]
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


def test_inside_a_branch(rng: np.random.Generator) -> None:
    text = f"""g (bool c, float[{T},{B},{K}] x) => (float[A,1,{B},{H}] y) {{
        y = If (c) <
            then_branch = t () => (float[A,1,{B},{H}] a) {{ a = LSTM<hidden_size = {H}>(x, w, r) }},
            else_branch = e () => (float[A,1,{B},{H}] b) {{ b = LSTM<hidden_size = {H}>(x, v, r) }}
        > }}"""
    shapes = {"w": (1, 4 * H, K), "v": (1, 4 * H, K), "r": (1, 4 * H, H)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    assert all(
        "share" in one.why for one in units(build(text, weights)) if isinstance(one, Skipped)
    )
    weights["q"] = weights["r"]
    model = build(text.replace("(x, v, r)", "(x, v, q)"), weights)
    found = [layer for layer in units(model) if isinstance(layer, Layer)]
    assert [layer.name for layer in found] == ["w + r", "v + q"]
    one = QuantizeDynamic(min_elements=1)
    stage = Stage(one.name, {"bits": 8, "method": "clip"})
    feeds = {"c": np.array(True), "x": rng.standard_normal((T, B, K)).astype(np.float32)}
    before = Runner(model)(feeds)["y"]
    assert not apply_treatments(model, [(layer, [stage], None) for layer in found], {one.name: one})
    after = Runner(model)(feeds)["y"]
    assert 0 < np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


@pytest.mark.parametrize(
    ("model", "why"),
    [({"op": "GRU"}, "no kernel"), ({"op": "RNN"}, "no kernel"),
     ({"attributes": "layout = 1"}, "layout")],
)  # fmt: skip
def test_refusals(model: dict[str, str], why: str, rng: np.random.Generator) -> None:
    found = units(made(rng, **model))
    assert [why in one.why for one in found if isinstance(one, Skipped)] == [True, True]
    assert len(found) == 2


def test_a_small_weight_keeps_both_as_they_are(rng: np.random.Generator) -> None:
    found = list(QuantizeDynamic(min_elements=4 * H * K).layers(made(rng)))
    whys = {one.where: one.why for one in found if isinstance(one, Skipped)}
    assert "other weight" in whys["w"]
    assert whys.keys() == {"w", "r"}


def test_what_cannot_be_carried_out(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="no statistics"):
        carried_out(made(rng), method="gptq")
    model = made(rng)
    tensor = model.graph.initializers["r"].const_value
    assert tensor is not None
    array = tensor.numpy().copy()
    array[0, 0, 0] = np.inf
    model.graph.initializers["r"].const_value = ir.tensor(array, name="r")
    (layer,) = units(model)
    assert isinstance(layer, Layer)
    one = QuantizeDynamic(min_elements=1)
    assert not list(one.candidates(layer, None, load_target("ort-cpu")))
    assert "NaN" in carried_out(model)[0].why
