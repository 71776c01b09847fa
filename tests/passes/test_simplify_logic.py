"""SimplifyLogic: truth values stay what they are, with their shape."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.simplify_logic import SimplifyLogic

TRUE, FALSE = np.array(True), np.array(False)

SIMPLER = {
    "xor True": ("bool[N] x", "bool[N]", "y = Xor(x, t)", ["Not"]),
    "equal to False": ("bool[N] x", "bool[N]", "y = Equal(f, x)", ["Not"]),
    "equal to True": ("bool[N] x", "bool[N]", "n = Not(x)  a = Equal(n, t)  y = Or(a, x)", None),
    "not less": ("int64[N] x, int64[N] w", "bool[N]", "a = Less(x, w)  y = Not(a)", None),
    "not more": ("int32[N] x, int32[N] w", "bool[N]", "a = Greater(x, w)  y = Not(a)", None),
    "not at most": ("int64[N] x, int64[N] w", "bool[N]", "a = LessOrEqual(x, w)  y = Not(a)", None),
    "choice by what is not": (
        "bool[N] x, float16[N] w",
        "float16[N]",
        "n = Not(x)  v = Neg(w)  y = Where(n, v, w)",
        ["Neg", "Where"],
    ),
}


def weights_of(body):
    return {
        k: v
        for k, v in (("t", TRUE), ("f", FALSE))
        if f"{k})" in body.replace(",", ")") or f"({k}," in body
    }


@pytest.mark.parametrize("case", SIMPLER)
def test_simpler(rewrite, case):
    inputs, output, body, ops = SIMPLER[case]

    done = rewrite(SimplifyLogic(), f"g ({inputs}) => ({output} y) {{ {body} }}", weights_of(body))

    assert len(done.ops) < len([*done.before.graph]) or done.ops == ops
    assert ops is None or done.ops == ops


KEPT = {
    "not less, of floats": ("float[N] x, float[N] w", "bool[N]", "a = Less(x, w)  y = Not(a)", 1),
    "a comparison that others read": (
        "int64[N] x, int64[N] w",
        "bool[N]",
        "a = Less(x, w)  b = Not(a)  y = Xor(a, b)",
        0,
    ),
    "numbers that are chosen": ("bool[N] x, float[N] w", "float[N]", "y = Where(x, w, w)", 0),
    "two conditions": ("bool[N] x, bool[N] w", "bool[N]", "y = Xor(x, w)", 0),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_stays(rewrite, case):
    inputs, output, body, reasons = KEPT[case]

    done = rewrite(SimplifyLogic(), f"g ({inputs}) => ({output} y) {{ {body} }}", weights_of(body))

    assert not done.entry.changed
    assert len(done.reasons) == reasons


@pytest.mark.parametrize("body", ["y = Xor(x, m)", "y = Equal(x, m)"])
def test_a_constant_that_lengthens_the_result(rewrite, body):
    weights = {"m": np.ones((4, 1), bool)}

    done = rewrite(SimplifyLogic(), f"g (bool[N] x) => (bool[4, N] y) {{ {body} }}", weights)

    assert not done.entry.changed
    assert len(done.reasons) == 1


def test_old_opsets_stay(rewrite):
    text = "g (int64[N] x, int64[N] w) => (bool[N] y) { a = Less(x, w)  y = Not(a) }"
    assert not rewrite(SimplifyLogic(), text, opset=11).entry.changed


def test_in_a_branch(rewrite):
    text = """g (int64[N] x, bool c) => (bool[N] o) {
      o = If (c) <then_branch = t () => (bool[N] y) { a = Less(x, x)  y = Not(a) },
                  else_branch = f () => (bool[N] p) { p = Less(x, x) }> }"""

    assert sorted(rewrite(SimplifyLogic(), text).ops) == ["GreaterOrEqual", "If", "Less"]
