"""FuseHardSigmoid: lines that are clamped and scaled, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_hard_sigmoid import FuseHardSigmoid

WEIGHTS = {"zero": 0, "one": 1, "three": 3, "six": 6, "sixth": 1 / 6, "fifth": 0.2, "half": 0.5}
SIXTH = {
    "divided": "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
    "multiplied": "a = Add(three, x) b = Clip(a, zero, six) y = Mul(sixth, b)",
    "relu and min": "a = Add(x, three) r = Relu(a) b = Min(r, six) y = Div(b, six)",
    "max and min": "a = Add(x, three) r = Max(zero, a) b = Min(r, six) y = Div(b, six)",
    "min and relu": "a = Add(x, three) r = Min(six, a) b = Relu(r) y = Mul(b, sixth)",
}
FIFTH = "a = Mul(x, fifth) c = Add(a, half) y = Clip(c, zero, one)"


def weights(dtype="f", **changed):
    return {name: np.asarray(value, dtype) for name, value in {**WEIGHTS, **changed}.items()}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


@pytest.mark.parametrize("body", [*SIXTH.values(), FIFTH], ids=[*SIXTH, "a fifth"])
def test_hard_sigmoid(rewrite, body):
    done = rewrite(FuseHardSigmoid(), graph(body), weights(), tolerance=2e-7)

    assert done.ops == ["HardSigmoid"]
    slope = 0.2 if body == FIFTH else 1 / 6
    x = np.linspace(-5, 5, 8, dtype="f")[None]
    right = np.clip(x * slope + 0.5, 0, 1)
    np.testing.assert_allclose(Runner(done.after)({"x": x})["y"], right, atol=2e-7)


def test_what_is_not_finite_stays_so(rewrite):
    done = rewrite(FuseHardSigmoid(), graph(SIXTH["divided"]), weights(), tolerance=2e-7)
    x = np.array([[np.nan, np.inf, -np.inf, 1e38, -1e38, 0, -0.0, 3e38]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=1e-7)


def test_half_precision(rewrite):
    text = graph(SIXTH["divided"], "float16")
    done = rewrite(FuseHardSigmoid(), text, weights("e"), tolerance=2e-3)
    assert done.ops == ["HardSigmoid"]


@pytest.mark.parametrize(
    "body",
    [
        "y = Clip(x, zero, one)",
        "b = Clip(x, zero, six) y = Div(b, six)",
        "a = Add(x, three) y = Clip(a, zero, six)",
        "a = Add(x, three) b = Clip(a, one, six) y = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero) y = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, three)",
        "a = Mul(x, x) y = Clip(a, zero, one)",
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(six, b)",
    ],
)
def test_others_stay(rewrite, body):
    assert not rewrite(FuseHardSigmoid(), graph(body), weights()).entry.changed


def test_refused(rewrite):
    text = graph(SIXTH["divided"], "double")
    done = rewrite(FuseHardSigmoid(), text, weights("d"))
    assert done.reasons == ["ONNX Runtime has no HardSigmoid for double on the CPU"]

    text = graph(SIXTH["divided"]).replace(" y)", " y, float[N, 8] b)")
    done = rewrite(FuseHardSigmoid(), text, weights())
    assert done.reasons == ["an intermediate result is read elsewhere too"]


def test_inside_a_branch(rewrite):
    inner = SIXTH["divided"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 8] x) => (float[N, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 8] z) {{ {inner} }},
                   else_branch = e () => (float[N, 8] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseHardSigmoid(), text, weights(), tolerance=2e-7)
    assert "HardSigmoid" in done.ops
    assert "Clip" not in done.ops
