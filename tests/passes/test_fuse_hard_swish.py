"""FuseHardSwish: every spelling, and nothing that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_hard_swish import FuseHardSwish

WEIGHTS = {"zero": 0, "three": 3, "six": 6, "sixth": 1 / 6}
GATE = "a = Add(x, three) b = Clip(a, zero, six) "
SPELLINGS = {
    "divided at the end": GATE + "c = Mul(x, b) y = Div(c, six)",
    "divided first": GATE + "c = Div(b, six) y = Mul(c, x)",
    "multiplied": GATE + "c = Mul(sixth, b) y = Mul(x, c)",
    "input divided": GATE + "c = Div(x, six) y = Mul(c, b)",
    "relu and min": "a = Add(three, x) r = Relu(a) b = Min(r, six) c = Mul(x, b) y = Div(c, six)",
    "sigmoid": "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(a, x)",
}


def weights(dtype="f", **changed):
    return {name: np.asarray(value, dtype) for name, value in {**WEIGHTS, **changed}.items()}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
def test_hard_swish(rewrite, body):
    done = rewrite(FuseHardSwish(), graph(body), weights(), tolerance=2e-7)

    assert done.ops == ["HardSwish"]
    x = np.linspace(-5, 5, 8, dtype="f")[None]
    right = x * np.clip(x / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(Runner(done.after)({"x": x})["y"], right, atol=1e-6)


def test_what_is_not_finite_stays_so(rewrite):
    done = rewrite(FuseHardSwish(), graph(SPELLINGS["divided first"]), weights(), tolerance=2e-7)
    x = np.array([[np.nan, np.inf, -np.inf, 1e38, -1e38, 0, -0.0, 3e38]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, rtol=1e-6)


def test_half_precision(rewrite):
    text = graph(SPELLINGS["multiplied"], "float16")
    done = rewrite(FuseHardSwish(), text, weights("e"), tolerance=2e-3)
    assert done.ops == ["HardSwish"]


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (SPELLINGS["sigmoid"].replace("0.16666667", "0.2"), {}),
        (SPELLINGS["sigmoid"].replace("beta = 0.5", "beta = 0.4"), {}),
        (SPELLINGS["sigmoid"].replace("(a, x)", "(a, z)").replace("y =", "z = Neg(x) y ="), {}),
        (SPELLINGS["multiplied"], {"three": 2}),
        (SPELLINGS["multiplied"], {"six": 5}),
        (SPELLINGS["multiplied"], {"zero": 1}),
    ],
    ids=str,
)
def test_others_stay(rewrite, body, changed):
    assert not rewrite(FuseHardSwish(), graph(body), weights(**changed)).entry.changed


def test_refused(rewrite):
    done = rewrite(FuseHardSwish(), graph(SPELLINGS["multiplied"], "double"), weights("d"))
    assert done.reasons == ["ONNX Runtime has no HardSwish for double on the CPU"]

    text = graph(SPELLINGS["sigmoid"]).replace(" y)", " y, float[N, 8] a)")
    done = rewrite(FuseHardSwish(), text, weights())
    assert done.reasons == ["an intermediate result is read elsewhere too"]

    done = rewrite(FuseHardSwish(), graph(SPELLINGS["sigmoid"]), weights(), opset=13)
    assert not done.entry.changed


def test_inside_a_branch(rewrite):
    inner = SPELLINGS["sigmoid"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 8] x) => (float[N, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 8] z) {{ {inner} }},
                   else_branch = e () => (float[N, 8] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseHardSwish(), text, weights(), tolerance=2e-7)
    assert "HardSwish" in done.ops
