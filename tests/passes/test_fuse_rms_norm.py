"""FuseRmsNorm: every spelling, and nothing that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_layer_norm import FuseLayerNorm
from onnxslim_rx_passes.fuse_rms_norm import FuseRmsNorm

SQUARE = "p = Pow(x, two) v = ReduceMean(p, ax) e = Add(v, eps) "
SPELLINGS = {
    "quotient": SQUARE + "s = Sqrt(e) q = Div(x, s) y = Mul(q, g)",
    "reciprocal": SQUARE + "s = Sqrt(e) i = Reciprocal(s) q = Mul(x, i) y = Mul(g, q)",
    "inverse power": SQUARE + "i = Pow(e, minus) q = Mul(x, i) y = Mul(g, q)",
    "product": SQUARE.replace("Pow(x, two)", "Mul(x, x)")
    + "s = Sqrt(e) q = Div(x, s) y = Mul(q, g)",
    "scale first": SQUARE + "s = Sqrt(e) i = Div(one, s) j = Mul(g, i) y = Mul(j, x)",
}


def weights(rng, dtype="f", shape=(16,), **changed):
    found = {"two": 2, "minus": -0.5, "one": 1, "eps": 1e-6, "g": rng.standard_normal(shape)}
    found = {name: np.asarray(value, dtype) for name, value in {**found, **changed}.items()}
    return found | {"ax": np.array([-1])}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8, 16] x) => ({kind}[N, 8, 16] y) {{ {body} }}"


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
def test_rms_norm(rewrite, rng, body):
    values = weights(rng)
    done = rewrite(FuseRmsNorm(), graph(body), values, opset=23, tolerance=2e-6)

    assert done.ops == ["RMSNormalization"]
    assert [value.name for value in done.after.graph[0].inputs] == ["x", "g"]
    x = rng.standard_normal((2, 8, 16)).astype("f")
    wide = x.astype("d")
    right = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * values["g"]
    np.testing.assert_allclose(Runner(done.after)({"x": x})["y"], right, atol=5e-6)


def test_half_precision_with_casts(rewrite, rng):
    body = "w = Cast<to = 1>(x) " + SPELLINGS["reciprocal"].replace("(x", "(w")
    body = body.replace("y = Mul(g, q)", "h = Cast<to = 10>(q) y = Mul(g, h)")
    values = weights(rng) | {"g": rng.standard_normal(16).astype("e")}
    done = rewrite(FuseRmsNorm(), graph(body, "float16"), values, opset=23, tolerance=2e-3)
    assert done.ops == ["RMSNormalization"]


def test_several_axes_and_no_scale(rewrite, rng):
    body = SQUARE + "s = Sqrt(e) y = Div(x, s)"
    values = weights(rng) | {"ax": np.array([2, 1])}
    done = rewrite(FuseRmsNorm(), graph(body), values, opset=23, tolerance=2e-6)
    assert done.ops == ["RMSNormalization"]


def test_what_is_not_finite_stays_so(rewrite, rng):
    values = weights(rng, g=np.ones(16))
    done = rewrite(FuseRmsNorm(), graph(SPELLINGS["quotient"]), values, opset=23, tolerance=2e-6)
    x = rng.standard_normal((4, 8, 16)).astype("f")
    x[0, 0, 0], x[1, 1, 1], x[2], x[3, 3, 3] = np.nan, np.inf, 0, 1e30
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=1e-5)


KEPT = {
    "double": ("double[N, 8, 16]", SPELLINGS["quotient"], {}, "in its own precision for double"),
    "first axes": ("float[N, 8, 16]", SPELLINGS["quotient"], {"ax": [1]}, "not the last ones"),
    "sizes": ("float[N, 8, K]", SPELLINGS["quotient"], {"g": np.float32(1)}, "sizes are not known"),
    "shared": ("float[N, 8, 16]", SPELLINGS["quotient"] + " z = Identity(v)", {}, "elsewhere"),
    "scale": ("float[N, 8, 16]", SPELLINGS["scale first"], {"g": np.ones((8, 1), "f")}, "varies"),
}


@pytest.mark.parametrize("case", KEPT)
def test_refused(rewrite, rng, case):
    kind, body, changed, why = KEPT[case]
    outputs = f"{kind} y" + (", float[N, 8, 1] z" if " z = " in body else "")
    text = f"g ({kind} x) => ({outputs}) {{ {body} }}"
    values = weights(rng, "d" if case == "double" else "f") | changed
    values = {name: np.asarray(value) for name, value in values.items()}
    sizes = {"N": 2, "K": 16}
    done = rewrite(FuseRmsNorm(), text, values, opset=23, sizes=sizes, runs=case != "sizes")
    assert not done.entry.changed
    assert why in done.reasons[0]


def test_other_patterns_and_opsets_stay(rewrite, rng):
    body = SPELLINGS["quotient"]
    assert not rewrite(FuseRmsNorm(), graph(body), weights(rng), opset=22).entry.changed
    cubed = weights(rng, two=4)
    assert not rewrite(FuseRmsNorm(), graph(body), cubed, opset=23).entry.changed
    other = body.replace("Div(x, s)", "Div(g, s)").replace("Mul(q, g)", "Mul(q, x)")
    assert not rewrite(FuseRmsNorm(), graph(other), weights(rng), opset=23).entry.changed


def test_layer_norm_holds_its_pattern(rewrite, rng):
    body = "m = ReduceMean(x, ax) d = Sub(x, m) " + SPELLINGS["quotient"].replace("(x", "(d")
    done = rewrite(FuseLayerNorm(), graph(body), weights(rng), opset=23, tolerance=2e-6)
    assert done.ops == ["LayerNormalization"]
    done = rewrite(FuseRmsNorm(), graph(body), weights(rng), opset=23, tolerance=2e-6)
    assert done.ops == ["ReduceMean", "Sub", "RMSNormalization"]


def test_inside_a_branch(rewrite, rng):
    text = f"""g (bool on, float[N, 8, 16] x) => (float[N, 8, 16] y) {{
        y = If(on) <then_branch = t () => (float[N, 8, 16] z) {{
                       {SPELLINGS["quotient"].replace("y =", "z =")} }},
                   else_branch = f () => (float[N, 8, 16] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseRmsNorm(), text, weights(rng), opset=23, tolerance=2e-6)
    assert done.ops.count("RMSNormalization") == 1
