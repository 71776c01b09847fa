"""FuseGelu: every spelling, and nothing that only looks like one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from scipy.special import erf

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_gelu import FuseGelu

CONSTANTS = {
    "half": 0.5,
    "two": 2.0,
    "one": 1.0,
    "root": np.sqrt(2.0),
    "inv": np.sqrt(0.5),
    "three": 3.0,
    "cubic": 0.044715,
    "scale": np.sqrt(2 / np.pi),
}
EXACT = {
    "torch": "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "half first": "a = Mul(x, inv) b = Erf(a) c = Add(one, b) d = Mul(half, x) y = Mul(d, c)",
    "half inside": "a = Mul(inv, x) b = Erf(a) c = Add(b, one) d = Mul(c, half) y = Mul(x, d)",
    "divided": "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(c, x) y = Div(d, two)",
}
TANH = {
    "cube": "p = Pow(x, three) q = Mul(p, cubic) s = Add(x, q)",
    "products": "r = Mul(x, x) p = Mul(r, x) q = Mul(cubic, p) s = Add(x, q)",
    "factored": "r = Mul(x, x) p = Mul(r, cubic) q = Add(p, one) s = Mul(x, q)",
}
BY_TANH = " u = Mul(s, scale) t = Tanh(u) c = Add(t, one) d = Mul(half, x) y = Mul(d, c)"


def weights(dtype="f", **changed):
    return {name: np.asarray(value, dtype) for name, value in {**CONSTANTS, **changed}.items()}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


@pytest.mark.parametrize("body", EXACT.values(), ids=EXACT)
def test_gelu_by_erf(rewrite, body):
    done = rewrite(FuseGelu(), graph(body), weights(), opset=20, tolerance=3e-7)

    assert done.ops == ["Gelu"]
    assert "one" not in done.after.graph.initializers
    x = np.linspace(-6, 6, 8, dtype="f")[None]
    got = Runner(done.after)({"x": x})["y"]
    np.testing.assert_allclose(got, x * (1 + erf(x / np.sqrt(2))) / 2, atol=2e-6)


@pytest.mark.parametrize("body", TANH.values(), ids=TANH)
def test_gelu_by_tanh(rewrite, body):
    done = rewrite(FuseGelu(), graph(body + BY_TANH), weights(), opset=20, tolerance=1e-6)

    assert done.ops == ["Gelu"]
    (node,) = done.after.graph
    assert node.attributes.get_string("approximate") == "tanh"


def test_what_is_not_finite_stays_so(rewrite):
    done = rewrite(FuseGelu(), graph(EXACT["torch"]), weights(), opset=20, tolerance=3e-7)
    x = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 0, -0.0, 100]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_array_equal(right, other)


def test_half_precision_and_constants_with_axes(rewrite):
    text = graph(EXACT["torch"], "float16")
    done = rewrite(FuseGelu(), text, weights("e"), opset=20, tolerance=2e-3)
    assert done.ops == ["Gelu"]

    done = rewrite(
        FuseGelu(), graph(EXACT["torch"]), weights(half=[[0.5]]), opset=20, tolerance=1e-6
    )
    assert done.ops == ["Gelu"]


def test_types_without_kernel_stay(rewrite):
    for kind, dtype in (("double", "d"), ("bfloat16", ml_dtypes.bfloat16)):
        text = graph(EXACT["torch"], kind)
        done = rewrite(FuseGelu(), text, weights(dtype), opset=20, runs=False)
        assert done.reasons == [f"ONNX Runtime has no Gelu for {kind} on the CPU"]


@pytest.mark.parametrize(
    "changed",
    [{"half": 0.25}, {"root": 1.5}, {"one": 1.001}, {"half": [[[0.5]]]}, {"root": np.ones(8)}],
    ids=str,
)
def test_other_constants_stay(rewrite, changed):
    text = graph(EXACT["torch"])
    text = text.replace("[N, 8] y", "[A, N, 8] y") if np.ndim(changed.get("half")) else text
    done = rewrite(FuseGelu(), text, weights(**changed), opset=20)
    assert not done.entry.changed


@pytest.mark.parametrize("changed", [{"cubic": 0.05}, {"scale": 0.7}, {"three": 2.0}], ids=str)
def test_other_curves_stay(rewrite, changed):
    text = graph(TANH["cube"] + BY_TANH)
    assert not rewrite(FuseGelu(), text, weights(**changed), opset=20).entry.changed


def test_old_opsets_and_shared_results_stay(rewrite):
    assert not rewrite(FuseGelu(), graph(EXACT["torch"]), weights(), opset=19).entry.changed

    shared = graph(EXACT["torch"]).replace(" y)", " y, float[N, 8] c)")
    done = rewrite(FuseGelu(), shared, weights(), opset=20)
    assert done.reasons == ["an intermediate result is read elsewhere too"]


def test_inside_a_branch(rewrite):
    inner = EXACT["torch"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 8] x) => (float[N, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 8] z) {{ {inner} }},
                   else_branch = e () => (float[N, 8] z) {{ z = Neg(x) }}>
    }}"""
    done = rewrite(FuseGelu(), text, weights(), opset=20, tolerance=3e-7)
    assert "Erf" not in done.ops
    assert "Gelu" in done.ops


def test_a_product_of_the_input_is_not_taken_apart(rewrite):
    body = "x = Mul(h, two) " + EXACT["torch"]
    text = graph(body).replace("[N, 8] x", "[N, 8] h")
    done = rewrite(FuseGelu(), text, weights(), opset=20, tolerance=3e-7)
    assert done.ops == ["Mul", "Gelu"]
