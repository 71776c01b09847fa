"""Static integers in graphs drawn at random, beside foreign pairs, and in real models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxslim_rx.ir import load, nodes, serialize
from onnxslim_rx.passbase import PassContext
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from onnxslim_rx_passes.raise_opset import RaiseOpset
from tests.passes.conftest import build
from tests.passes.statics import Array, applied, carried_out, draws, fused, run

# what a tensor, or two, of the same shape may become
ONE = {
    "conv": "Conv<pads = [1,1,1,1]>({0}, {weight})",
    "depthwise": "Conv<group = 4, pads = [1,1,1,1]>({0}, {thin})",
    "relu": "Relu({0})",
    "clip": "Clip({0}, low, high)",
    "tanh": "Tanh({0})",
    "sigmoid": "Sigmoid({0})",
    "leaky": "LeakyRelu({0})",
    "half": "Mul({0}, half)",
    "turn": "Transpose<perm = [0,1,3,2]>({0})",
    "most": "MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>({0})",
    "mean": "AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>({0})",
    "flip": "Slice({0}, last, first, axis, back)",
    "two": "Concat<axis = 1>({0}, {1})",
    "add": "Add({0}, {1})",
    "product": "Mul({0}, {1})",
}
STEP = st.tuples(st.sampled_from(sorted(ONE)), st.integers(0, 9), st.integers(0, 9))
NUMBERS = {
    **{"half": np.float32(0.5), "low": np.float32(-1), "high": np.float32(1)},
    **{"last": np.array([-1]), "first": np.array([-99]), "axis": np.array([3])},
    **{"back": np.array([-1])},
}


def drawn(steps: list[tuple[str, int, int]], rng: np.random.Generator) -> ir.Model:
    """A model of float (1,4,6,6) tensors; each step reads what earlier ones made."""
    tensors, lines, weights = ["x"], [], dict[str, Array]()
    for number, (op, i, j) in enumerate(steps):
        name, weight, thin = f"t{number}", f"w{number}", f"d{number}"
        first, second = tensors[-1 - i % len(tensors)], tensors[-1 - j % len(tensors)]
        text = ONE[op].format(first, second, weight=weight, thin=thin)
        if op == "two":  # back to four channels
            lines.append(f"{name}_8 = {text}")
            text = f"Conv({name}_8, {weight})"
            weights[weight] = np.asarray(rng.standard_normal((4, 8, 1, 1)) / 3, np.float32)
        elif weight in text:
            weights[weight] = np.asarray(rng.standard_normal((4, 4, 3, 3)) / 6, np.float32)
        elif thin in text:
            weights[thin] = np.asarray(rng.standard_normal((4, 1, 3, 3)) / 3, np.float32)
        lines.append(f"{name} = {text}")
        tensors.append(name)
    outputs = f"float[1,4,6,6] {tensors[-1]}, float[1,4,6,6] {tensors[len(tensors) // 2]}x"
    lines.append(f"{tensors[len(tensors) // 2]}x = Identity({tensors[len(tensors) // 2]})")
    body = "\n".join(lines)
    weights |= {name: array for name, array in NUMBERS.items() if f" {name}" in body}
    return build(f"g (float[1,4,6,6] x) => ({outputs}) {{ {body} }}", weights)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=2, max_size=12), st.integers(0, 3), st.booleans())
def test_any_graph(steps, leave, mixed) -> None:
    rng = np.random.default_rng(7)
    model = drawn(steps, rng)
    names = [str(v.name) for v in model.graph.initializers.values() if str(v.name)[0] in "wd"]
    only = [name for number, name in enumerate(names) if not mixed or number % 3 != leave]
    samples = draws(model, rng, 4)
    loose, refused = applied(model, samples, only)
    assert not refused
    tidy = carried_out(model, samples, only)
    again = serialize(tidy)
    onnx.checker.check_model(onnx.load_from_string(again), full_check=True)
    QuantizeStatic().finish(tidy)
    assert serialize(tidy) == again
    feeds = samples[0]
    x, y, z, fast = (
        run(model, feeds),
        run(loose, feeds, optimize=False),
        run(tidy, feeds, optimize=False),
        run(tidy, feeds),
    )
    for one, two, three, four in zip(x, y, z, fast, strict=True):
        size = np.linalg.norm(one)
        bound = 3 * np.linalg.norm(two - one) + 0.03 * size
        assert np.linalg.norm(three - one) <= bound
        assert np.linalg.norm(four - three) <= 0.05 * size
    if not only:
        assert serialize(model) == serialize(tidy)


def test_pairs_of_others_stay(rng, tmp_path: Path) -> None:
    weights = {
        **{"s": np.float32(0.05), "z": np.uint8(120), "w": rng.standard_normal((4, 4, 1, 1))},
        **{"q": rng.integers(-99, 99, (4, 4, 1, 1)).astype(np.int8), "t": np.float32(0.01)},
    }
    weights["w"] = weights["w"].astype(np.float32)
    text = """g (float[B,4,8,8] x) => (float[B,4,8,8] y) { i = QuantizeLinear(x, s, z)
        a = DequantizeLinear(i, s, z)\nv = DequantizeLinear(q, t)\nb = Conv(a, v)
        j = QuantizeLinear(b, s, z)\nc = DequantizeLinear(j, s, z)\nd = Conv(c, w)
        e = Add(d, c)\ny = Relu(e) }"""
    model = build(text, weights)
    samples = draws(model, rng)
    made, refused = applied(model, samples)
    assert [one.why for one in refused] == ["Conv: already quantized"]
    QuantizeStatic().finish(made)
    kept = [
        n for n in nodes(made) if n.op_type.endswith("Linear") and "rx.by" not in n.metadata_props
    ]
    assert [node.outputs[0].name for node in kept] == [*"iavjc"]
    x, y = run(model, samples[0])[0], run(made, samples[0])[0]
    assert np.linalg.norm(x - y) < 0.02 * np.linalg.norm(x)
    assert fused(made, tmp_path)["QLinearConv"] == 2


def test_models_without_layers_are_left_alone(rng) -> None:
    model = build("g (float[B,4] x) => (float[B,4] y) { y = Relu(x) }", {})
    before = serialize(model)
    QuantizeStatic().finish(model)
    assert serialize(model) == before


REAL = {
    "cifar10_resnet_1m": ([1, 3, 32, 32], {"QLinearConv": 10, "QLinearAdd": 2, "QGemm": 1}),
    "mobilenetv2_fp32": (
        [1, 3, 224, 224],
        {"QLinearConv": 52, "QLinearAdd": 10, "QLinearGlobalAveragePool": 1, "Reshape": 1},
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_models(name, assets: Path, rng, tmp_path: Path) -> None:
    shape, wanted = REAL[name]
    model = load(assets / "models" / f"{name}.onnx")
    if model.opset_imports[""] < 13:
        target = load_target("ort-cpu")
        context = PassContext(evaluate=lambda *_: {}, target=target)
        model = RaiseOpset(to=13)(model, context).model
    (entering,) = model.graph.inputs
    samples = [{str(entering.name): rng.standard_normal(shape).astype(np.float32)} for _ in "a"]
    made = carried_out(model, samples)
    found = fused(made, tmp_path)
    assert {op: found[op] for op in wanted} == wanted
    assert not found["Conv"] + found["FusedConv"]
    before, after = run(model, samples[0])[0].ravel(), run(made, samples[0])[0].ravel()
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert cosine > 0.97
