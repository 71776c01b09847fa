"""Products in INT8 inside If, Loop and Scan; what is in functions is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.passbase import Layer, Skipped
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build
from tests.passes.dynamic import Array, carried_out, offered

K = 24
BODIES = {
    "If": f"""g (bool c, float[4,{K}] x) => (float[4,{K}] y) {{
        y = If (c) <
            then_branch = t () => (float[4,{K}] a) {{ a = MatMul(x, w) }},
            else_branch = e () => (float[4,{K}] b) {{ b = Gemm(x, v) }}
        > }}""",
    "Loop": f"""g (int64 n, bool c, float[4,{K}] x) => (float[4,{K}] y) {{
        y = Loop (n, c, x) <
            body = b (int64 i, bool on, float[4,{K}] s) => (bool still, float[4,{K}] t)
            {{ still = Identity(on) p = MatMul(s, w) q = Tanh(p) r = MatMul(q, v) t = Tanh(r) }}
        > }}""",
    "Scan": f"""g (float[4,{K}] x, float[5,4,{K}] z) => (float[4,{K}] y, float[5,4,{K}] u) {{
        y, u = Scan <num_scan_inputs = 1,
            body = b (float[4,{K}] s, float[4,{K}] d) => (float[4,{K}] t, float[4,{K}] o)
            {{ p = MatMul(s, w) q = Add(p, d) t = Tanh(q) o = MatMul(t, v) }}
        > (x, z) }}""",
}


@pytest.mark.parametrize("case", BODIES)
def test_layers_in_bodies_do_without_statistics(case: str, rng: np.random.Generator) -> None:
    weights = {n: (rng.standard_normal((K, K)) / K).astype(np.float32) for n in "wv"}
    model = build(BODIES[case], weights)
    feeds: dict[str, Array] = {"x": rng.standard_normal((4, K)).astype(np.float32)}
    if case == "Scan":
        feeds["z"] = rng.standard_normal((5, 4, K)).astype(np.float32)
    else:
        feeds["c"] = np.array(True)
    if case == "Loop":
        feeds["n"] = np.array(3)
    every = [feeds] if case != "If" else [feeds, {**feeds, "c": np.array(False)}]
    before = [Runner(model)(one) for one in every]
    _, _, (candidate,) = offered(model, None)
    assert dict(candidate.stages[0].options) == {
        "bits": 8, "method": "clip", "smooth": 0.0, "correct": False,
    }  # fmt: skip
    assert not carried_out(model, method="clip")
    kinds = [node.op_type for node in model.graph.all_nodes()]
    assert kinds.count("MatMulInteger") == 2
    assert "MatMulInteger" not in [node.op_type for node in model.graph]
    for one, wanted in zip(every, before, strict=True):
        found = Runner(model, optimize=False)(one)
        for name, array in wanted.items():
            assert np.linalg.norm(found[name] - array) < 0.03 * np.linalg.norm(array)


def test_functions_are_left_alone(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((K, K)).astype(np.float32)
    numbers = ", ".join(str(number) for number in weight.ravel())
    functions = f"""<domain: "local", opset_import: ["": 17]> f (a) => (b) {{
        w = Constant <value = float[{K},{K}] {{{numbers}}}> () b = MatMul(a, w) }}"""
    text = f"g (float[4,{K}] x) => (float[4,{K}] y) {{ y = local.f(x) }}"
    found = list(QuantizeDynamic(min_elements=1).layers(build(text, functions=functions)))
    assert not any(isinstance(one, Layer) for one in found)
    assert ["function" in one.why for one in found if isinstance(one, Skipped)] == [True]
