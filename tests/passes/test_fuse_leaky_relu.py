"""FuseLeakyRelu: both spellings, and nothing that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_leaky_relu import FuseLeakyRelu

SPELLINGS = {
    "maximum": "a = Mul(x, slope) y = Max(x, a)",
    "turned": "a = Mul(slope, x) y = Max(a, x)",
    "greater": "a = Mul(x, slope) c = Greater(x, zero) y = Where(c, x, a)",
    "less": "a = Mul(x, slope) c = Less(x, zero) y = Where(c, a, x)",
    "zero first": "a = Mul(x, slope) c = Less(zero, x) y = Where(c, x, a)",
    "at least": "a = Mul(x, slope) c = GreaterOrEqual(x, zero) y = Where(c, x, a)",
}


def weights(dtype="f", **changed):
    found = {"slope": 0.1, "zero": 0, **changed}
    return {name: np.asarray(value, dtype) for name, value in found.items()}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
def test_leaky_relu(rewrite, body):
    done = rewrite(FuseLeakyRelu(), graph(body), weights(), tolerance=1e-7)

    assert done.ops == ["LeakyRelu"]
    x = np.array([[np.nan, np.inf, -np.inf, 1e38, -1e38, 0, -0.0, -3]], np.float32)
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_array_equal(right, other)


def test_half_precision(rewrite):
    done = rewrite(
        FuseLeakyRelu(), graph(SPELLINGS["maximum"], "float16"), weights("e"), tolerance=1e-3
    )
    assert done.ops == ["LeakyRelu"]


@pytest.mark.parametrize("slope", [0, 1, 1.5, -0.1, np.full((8,), 0.1)], ids=str)
def test_maxima_with_other_slopes_stay(rewrite, slope):
    text = graph(SPELLINGS["maximum"])
    assert not rewrite(FuseLeakyRelu(), text, weights(slope=slope)).entry.changed


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (SPELLINGS["greater"].replace("(c, x, a)", "(c, a, x)"), {}),
        (SPELLINGS["less"].replace("(c, a, x)", "(c, x, a)"), {}),
        (SPELLINGS["greater"], {"zero": 1}),
        (SPELLINGS["greater"], {"slope": np.inf}),
        (SPELLINGS["greater"].replace("y =", "b = Neg(x) y =").replace("c, x", "c, b"), {}),
    ],
    ids=str,
)
def test_other_choices_stay(rewrite, body, changed):
    assert not rewrite(FuseLeakyRelu(), graph(body), weights(**changed)).entry.changed


def test_choices_take_any_finite_slope(rewrite):
    text = graph(SPELLINGS["greater"])
    assert rewrite(FuseLeakyRelu(), text, weights(slope=-2), tolerance=1e-7).ops == ["LeakyRelu"]


def test_refused(rewrite):
    done = rewrite(FuseLeakyRelu(), graph(SPELLINGS["maximum"], "double"), weights("d"))
    assert done.reasons == ["ONNX Runtime has no LeakyRelu for double on the CPU"]
    text = graph(SPELLINGS["maximum"]).replace(" y)", " y, float[N, 8] a)")
    done = rewrite(FuseLeakyRelu(), text, weights())
    assert done.reasons == ["an intermediate result is read elsewhere too"]


def test_inside_a_branch(rewrite):
    inner = SPELLINGS["greater"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 8] x) => (float[N, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 8] z) {{ {inner} }},
                   else_branch = f () => (float[N, 8] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseLeakyRelu(), text, weights(), tolerance=1e-7)
    assert "LeakyRelu" in done.ops
