"""EliminateClampQuantize: only clamps that saturation repeats."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.eliminate_clamp_quantize import EliminateClampQuantize

SIX = 6 / 255


def weights(scale=0.05, zero=0, dtype="u1", kind="f", **changed):
    found = {"s": np.asarray(scale, kind), "z": np.asarray(zero, dtype)}
    found |= {"low": np.asarray(0, kind), "high": np.asarray(6, kind)}
    return {**found, **changed}


def graph(clamp="r = Relu(x)", kind="float", quantized="uint8", extra=""):
    return f"""g ({kind}[N, 3] x) => ({quantized}[N, 3] y{extra}) {{
        {clamp}  y = QuantizeLinear(r, s, z) }}"""


REMOVED = {
    "relu": (graph(), weights()),
    "int8": (graph(quantized="int8"), weights(zero=-128, dtype="i1")),
    "clip": (graph("r = Clip(x, low, high)"), weights(SIX)),
    "relu and min": (graph("m = Relu(x) r = Min(m, high)"), weights(0.02)),
    "below": (graph("r = Max(x, low)"), weights(zero=20, low=np.float32(-1))),
    "by channel": (graph(), weights([0.1, 0.2, 0.3], [0, 0, 0])),
    "half": (graph(kind="float16"), weights(kind="e")),
}


@pytest.mark.parametrize("case", REMOVED)
def test_removed(rewrite, case):
    done = rewrite(EliminateClampQuantize(), *REMOVED[case], opset=21, ir_version=10)
    assert done.ops == ["QuantizeLinear"]
    x = np.array([[np.inf, -np.inf, -0.0], [-9, 5.98, 6.02], [1e4, -1e4, -0.01]])
    x = x.astype("e" if case == "half" else "f")
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_array_equal(right, other)


KEPT = {
    "zero point": (graph(), weights(zero=1), "tighter"),
    "int8": (graph(quantized="int8"), weights(dtype="i1"), "tighter"),
    "high": (graph("r = Clip(x, low, high)"), weights(0.05), "tighter"),
    "a channel": (graph(), weights([0.1, 0.2, 0.3], [0, 1, 0]), "tighter"),
    "negative": (graph(), weights(-0.05), "not positive"),
    "shared": (graph(extra=", float[N, 3] r"), weights(), "read elsewhere"),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(rewrite, case):
    text, values, why = KEPT[case]
    done = rewrite(EliminateClampQuantize(), text, values, opset=21, ir_version=10)
    assert not done.entry.changed
    assert why in done.reasons[0]


def test_no_clamp_and_computed_bounds(rewrite):
    assert rewrite(EliminateClampQuantize(), graph("r = Neg(x)"), weights()).reasons == []
    text = graph("r = Clip(x, low, high)").replace("x)", "x, float high)", 1)
    values = weights(SIX)
    del values["high"]
    assert not rewrite(EliminateClampQuantize(), text, values).entry.changed


def test_inside_a_branch(rewrite):
    text = """g (bool on, float[N, 3] x) => (uint8[N, 3] y) {
        y = If(on) <then_branch = t () => (uint8[N, 3] k) {
                        r = Relu(x)  k = QuantizeLinear(r, s, z) },
                    else_branch = e () => (uint8[N, 3] j) { j = QuantizeLinear(x, s, z) }>
    }"""
    done = rewrite(EliminateClampQuantize(), text, weights())
    assert "Relu" not in done.ops
