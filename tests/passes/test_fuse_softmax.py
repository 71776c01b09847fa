"""FuseSoftmax: along the last axis, with and without the maximum taken off."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_softmax import FuseSoftmax

SHIFT = "m = ReduceMax<axes = [-1]>(x) d = Sub(x, m) "
SUM = "e = Exp(d) s = ReduceSum(e, ax) "
SPELLINGS = {
    "softmax": SHIFT + SUM + "y = Div(e, s)",
    "without maximum": SUM.replace("(d)", "(x)") + "y = Div(e, s)",
    "logarithm": SHIFT + SUM + "l = Log(s) y = Sub(d, l)",
    "one operator": "l = ReduceLogSumExp<axes = [2]>(x) y = Sub(x, l)",
    "both": SHIFT + "l = ReduceLogSumExp<axes = [-1]>(d) y = Sub(d, l)",
}


def graph(body, kind="float"):
    return f"g ({kind}[N, 3, 8] x) => ({kind}[N, 3, 8] y) {{ {body} }}"


def axes(*numbers):
    return {"ax": np.array(numbers)}


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("opset", [13, 17])
def test_softmax(rewrite, body, opset):
    done = rewrite(FuseSoftmax(), graph(body), axes(-1), opset=opset, tolerance=1e-6)

    logarithm = body.endswith("l)")
    assert done.ops == ["LogSoftmax" if logarithm else "Softmax"]
    x = np.linspace(-5, 5, 24).reshape(1, 3, 8)
    right = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    got = Runner(done.after)({"x": x.astype("f")})["y"]
    np.testing.assert_allclose(got, np.log(right) if logarithm else right, atol=2e-6)


@pytest.mark.parametrize("opset", [9, 11])
def test_operators_that_flatten(rewrite, opset):
    text = graph(SPELLINGS["softmax"]).replace("ReduceSum(e, ax)", "ReduceSum<axes = [2]>(e)")
    text = text.replace("[-1]", "[2]")
    assert rewrite(FuseSoftmax(), text, opset=opset, tolerance=1e-6).ops == ["Softmax"]


@pytest.mark.parametrize("case", ["softmax", "logarithm"])
def test_what_is_not_finite_stays_so(rewrite, case):
    done = rewrite(FuseSoftmax(), graph(SPELLINGS[case]), axes(-1), tolerance=1e-6)
    x = np.zeros((2, 3, 8), "f")
    x[0, 0, 0], x[0, 1, 1], x[0, 2], x[1, 0, 0], x[1, 1, 1] = np.nan, np.inf, -np.inf, -np.inf, 1e30
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, rtol=1e-6)


@pytest.mark.parametrize(("kind", "error"), [("float16", 2e-3), ("double", 1e-12)])
def test_other_types(rewrite, kind, error):
    text = graph(SPELLINGS["softmax"], kind)
    assert rewrite(FuseSoftmax(), text, axes(-1), tolerance=error).ops == ["Softmax"]


def test_refused(rewrite):
    text = graph(SPELLINGS["softmax"].replace("[-1]", "[1]"))
    done = rewrite(FuseSoftmax(), text, axes(1), tolerance=1e-6)
    assert done.reasons == ["ONNX Runtime's Softmax is slower along axes other than the last"]

    text = graph(SPELLINGS["softmax"]).replace(" y)", " y, float[N, 3, 8] d)")
    done = rewrite(FuseSoftmax(), text, axes(-1), tolerance=1e-6)
    assert done.reasons == ["an intermediate result is read elsewhere too"]

    done = rewrite(FuseSoftmax(), graph(SPELLINGS["softmax"], "bfloat16"), axes(-1), runs=False)
    assert done.reasons == ["ONNX Runtime has no Softmax for bfloat16 on the CPU"]


@pytest.mark.parametrize(
    "body",
    [
        SPELLINGS["softmax"].replace("Div(e, s)", "Div(x, s)"),
        SPELLINGS["softmax"].replace("Div(e, s)", "Div(s, e)"),
        SPELLINGS["logarithm"].replace("Sub(d, l)", "Sub(x, l)"),
        SPELLINGS["logarithm"].replace("Sub(d, l)", "Sub(l, d)"),
    ],
)
def test_others_stay(rewrite, body):
    assert not rewrite(FuseSoftmax(), graph(body), axes(-1)).entry.changed


def test_a_maximum_along_another_axis_stays(rewrite):
    text = graph(SPELLINGS["softmax"].replace("[-1]", "[1]"))
    assert rewrite(FuseSoftmax(), text, axes(-1), tolerance=1e-6).ops == [
        "ReduceMax",
        "Sub",
        "Softmax",
    ]


def test_inside_a_branch(rewrite):
    inner = SPELLINGS["softmax"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 3, 8] x) => (float[N, 3, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 3, 8] z) {{ {inner} }},
                   else_branch = f () => (float[N, 3, 8] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseSoftmax(), text, axes(-1), tolerance=1e-6)
    assert "Softmax" in done.ops
