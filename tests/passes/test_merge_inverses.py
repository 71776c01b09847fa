"""MergeInverses: signs are exact, quotients exact up to one rounding."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.merge_inverses import MergeInverses

SIGNS = {
    "added": ("n = Neg(w)  y = Add(x, n)", ["Sub"]),
    "added in front": ("n = Neg(w)  y = Add(n, x)", ["Sub"]),
    "subtracted": ("n = Neg(w)  y = Sub(x, n)", ["Add"]),
    "both multiplied": ("m = Neg(x)  n = Neg(w)  y = Mul(m, n)", ["Mul"]),
    "times a constant": ("n = Neg(x)  y = Mul(n, c)", ["Mul"]),
    "a constant times": ("n = Neg(x)  y = Mul(c, n)", ["Mul"]),
    "product negated": ("n = Mul(x, c)  y = Neg(n)", ["Mul"]),
}
QUOTIENTS = {
    "by a constant": ("n = Neg(x)  y = Div(n, c)", ["Div"]),
    "of a constant": ("n = Neg(x)  y = Div(c, n)", ["Div"]),
    "negated": ("n = Div(x, c)  y = Neg(n)", ["Div"]),
    "times a reciprocal": ("e = Exp(w)  r = Reciprocal(e)  y = Mul(x, r)", ["Exp", "Div"]),
    "a reciprocal times": ("e = Exp(w)  r = Reciprocal(e)  y = Mul(r, x)", ["Exp", "Div"]),
    "times 1 over": ("e = Exp(w)  r = Div(one, e)  y = Mul(x, r)", ["Exp", "Div"]),
}
TOLERANCES = {"float": 1e-6, "float16": 2e-3, "double": 1e-15}


def run(rewrite, body, *, dtype="float", **options):
    kind = {"float": "f4", "float16": "f2", "double": "f8", "int32": "i4", "int64": "i8"}[dtype]
    weights = {"c": np.array([2, -3, 4], kind), "one": np.ones((), kind)}
    weights = {k: v for k, v in weights.items() if f"{k})" in body.replace(",", ")")}
    text = f"g ({dtype}[N, 3] x, {dtype}[N, 3] w) => ({dtype}[N, 3] y) {{ {body} }}"
    return rewrite(MergeInverses(), text, weights, **options)


@pytest.mark.parametrize("dtype", ["float", "float16", "int64"])
@pytest.mark.parametrize("case", SIGNS)
def test_signs(rewrite, case, dtype):
    body, ops = SIGNS[case]

    assert run(rewrite, body, dtype=dtype).ops == ops


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", QUOTIENTS)
def test_quotients(rewrite, case, dtype):
    body, ops = QUOTIENTS[case]

    assert run(rewrite, body, dtype=dtype, tolerance=TOLERANCES[dtype]).ops == ops


KEPT = {
    "read twice": "n = Neg(w)  a = Add(x, n)  y = Mul(a, n)",
    "the same twice": "n = Neg(w)  y = Add(n, n)",
    "a negative first": "n = Neg(w)  y = Sub(n, x)",
    "times a variable": "n = Neg(w)  y = Mul(n, x)",
    "another number above": "e = Exp(w)  r = Div(c, e)  y = Mul(x, r)",
    "divided by a reciprocal": "e = Exp(w)  r = Reciprocal(e)  y = Div(x, r)",
    "two variables negated": "n = Mul(w, x)  y = Neg(n)",
}


@pytest.mark.parametrize("case", KEPT)
def test_what_stays(rewrite, case):
    assert not run(rewrite, KEPT[case]).entry.changed


def test_integers_round(rewrite):
    text = "n = Div(x, c)  y = Neg(n)"
    assert run(rewrite, text, dtype="int32").reasons == ["divisions of integers round"]

    body = "k = Add(w, c)  d = Mul(k, k)  p = Add(d, one)  r = Div(one, p)  y = Mul(x, r)"
    assert run(rewrite, body, dtype="int32").reasons == ["divisions of integers round"]


@pytest.mark.parametrize("body", ["y = Div(n, c)", "m = Neg(w)  z = Mul(m, m)  y = Div(n, m)"])
def test_integers_have_a_least_one(rewrite, body):
    done = run(rewrite, f"n = Neg(x)  {body}", dtype="int32", runs=False)

    assert "Neg" in done.ops
    assert "the least integer divided by -1 overflows" in done.reasons


def test_a_1_with_dimensions(rewrite):
    text = (
        "g (float[3] x, float[3] w) => (float[1, 3] y) { e = Exp(w)  r = Div(o, e)  y = Mul(x, r) }"
    )

    done = rewrite(MergeInverses(), text, {"o": np.ones((1, 1), "f")})

    assert done.reasons == ["the 1 may add dimensions"]


def test_a_large_constant_stays_one(rewrite):
    text = """g (float[N, 5000] x) => (float[N, 5000] y)
    { n = Neg(x)  a = Mul(n, c)  y = Add(a, c) }"""

    done = rewrite(MergeInverses(), text, {"c": np.ones(5000, "f")})

    assert done.reasons == ["a large constant is read elsewhere too"]


def test_zeros_infinities_and_nan(build_model):
    text = "g (float[8] x, float[8] w) => (float[8] y) { r = Reciprocal(w)  y = Mul(x, r) }"
    model = build_model(text)
    done = PassManager([MergeInverses()], verify=None).run(model)
    odd = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 3], "f")

    for shift in range(8):
        feeds = {"x": odd, "w": np.roll(odd, shift)}
        before, after = Runner(model)(feeds)["y"], Runner(done.model)(feeds)["y"]
        np.testing.assert_allclose(after, before, rtol=1e-6)
        np.testing.assert_array_equal(np.signbit(after), np.signbit(before), "signs")


def test_the_signs_of_zeros(build_model):
    odd = np.array([0, -0.0, 1, np.inf], "f")
    for body in ("n = Neg(w)  y = Add(x, n)", "n = Neg(w)  y = Sub(x, n)"):
        model = build_model(f"g (float[4] x, float[4] w) => (float[4] y) {{ {body} }}")
        done = PassManager([MergeInverses()], verify=None).run(model)
        for shift in range(4):
            feeds = {"x": odd, "w": np.roll(odd, shift)}
            before, after = Runner(model)(feeds)["y"], Runner(done.model)(feeds)["y"]
            np.testing.assert_array_equal(after, before)
            known = ~np.isnan(before)
            np.testing.assert_array_equal(np.signbit(after)[known], np.signbit(before)[known])


def test_in_a_branch(rewrite):
    text = """g (float[N] x, bool c) => (float[N] o) {
      o = If (c) <then_branch = t () => (float[N] y) { n = Neg(x)  y = Add(x, n) },
                  else_branch = f () => (float[N] p) { p = Neg(x) }> }"""

    done = rewrite(MergeInverses(), text)

    assert sorted(done.ops) == ["If", "Neg", "Sub"]


def test_a_reciprocal_of_few_elements_stays(rewrite):
    text = """g (float[N, 8] x, float[N, 1] w) => (float[N, 8] y)
    { e = Exp(w)  r = Reciprocal(e)  y = Mul(x, r) }"""

    done = rewrite(MergeInverses(), text)

    assert not done.entry.changed
    assert done.reasons == ["one product for each element is faster than one quotient"]
