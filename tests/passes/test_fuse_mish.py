"""FuseMish and FuseSoftplus, whose pattern may lie inside."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_mish import FuseMish
from onnxslim_rx_passes.fuse_softplus import FuseSoftplus

MISH = {
    "softplus": "a = Softplus(x) b = Tanh(a) y = Mul(x, b)",
    "logarithm": "e = Exp(x) s = Add(one, e) a = Log(s) b = Tanh(a) y = Mul(b, x)",
}
SOFTPLUS = "e = Exp(x) s = Add(e, one) y = Log(s)"


def graph(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


def ones(body, dtype="f"):
    return {"one": np.ones((), dtype)} if "one" in body else {}


@pytest.mark.parametrize("body", MISH.values(), ids=MISH)
@pytest.mark.parametrize(("kind", "dtype", "error"), [("float", "f", 1e-6), ("float16", "e", 4e-3)])
def test_mish(rewrite, body, kind, dtype, error):
    text = graph(body, kind)
    done = rewrite(FuseMish(), text, ones(body, dtype), opset=18, tolerance=error)

    assert done.ops == ["Mish"]
    x = np.linspace(-5, 5, 8).astype(dtype)[None]
    right = x.astype("d") * np.tanh(np.log1p(np.exp(x.astype("d"))))
    np.testing.assert_allclose(Runner(done.after)({"x": x})["y"], right, atol=error)


def test_what_is_not_finite_stays_so(rewrite):
    body = MISH["logarithm"]
    done = rewrite(FuseMish(), graph(body), ones(body), opset=18, tolerance=1e-6)
    x = np.array([[np.nan, np.inf, -np.inf, 1e38, -1e38, 90, -0.0, -90]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=1e-6)


def test_what_is_no_mish_stays(rewrite):
    body = MISH["softplus"]
    assert not rewrite(FuseMish(), graph(body), opset=17).entry.changed
    other = graph(body.replace("Mul(x, b)", "Mul(a, b)"))
    assert not rewrite(FuseMish(), other, opset=18).entry.changed
    shared = graph(body).replace(" y)", " y, float[N, 8] b)")
    done = rewrite(FuseMish(), shared, opset=18)
    assert done.reasons == ["an intermediate result is read elsewhere too"]
    done = rewrite(FuseMish(), graph(body, "double"), opset=18, runs=False)
    assert done.reasons == ["ONNX Runtime has no Mish for double on the CPU"]


def test_softplus(rewrite):
    done = rewrite(FuseSoftplus(), graph(SOFTPLUS), ones(SOFTPLUS), tolerance=1e-6)

    assert done.ops == ["Softplus"]
    x = np.array([[np.nan, np.inf, -np.inf, 80, -80, 0, -20, 1]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=1e-6, rtol=1e-6)


def test_what_is_no_softplus_stays(rewrite):
    two = {"one": np.float32(2)}
    assert not rewrite(FuseSoftplus(), graph(SOFTPLUS), two).entry.changed
    text = graph(SOFTPLUS).replace(" y)", " y, float[N, 8] e)")
    done = rewrite(FuseSoftplus(), text, ones(SOFTPLUS))
    assert done.reasons == ["an intermediate result is read elsewhere too"]
    done = rewrite(FuseSoftplus(), graph(SOFTPLUS, "double"), ones(SOFTPLUS, "d"))
    assert done.reasons == ["ONNX Runtime has no Softplus for double on the CPU"]


@pytest.mark.parametrize("rule", [FuseMish, FuseSoftplus])
def test_inside_a_branch(rewrite, rule):
    inner = (SOFTPLUS if rule is FuseSoftplus else MISH["logarithm"]).replace("y =", "z =")
    text = f"""g (bool on, float[N, 8] x) => (float[N, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 8] z) {{ {inner} }},
                   else_branch = f () => (float[N, 8] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(rule(), text, ones(inner), opset=18, tolerance=1e-6)
    assert "Exp" not in done.ops
