"""CancelSplits: a Split and a Concat that undo one another."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.cancel_splits import CancelSplits


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


GONE = {
    "split-concat": (
        "float[N, 8] x", "a, b = Split<axis=1>(x, s)  c = Concat<axis=-1>(a, b)  y = Neg(c)",
        ["Neg"], "N, 8",
    ),
    "concat-split": (
        "float[N, 3] x, float[N, 5] z",
        "c = Concat<axis=1>(x, z)  a, b = Split<axis=1>(c, s)  d = Neg(b)"
        "  y = Concat<axis=1>(a, d)",
        ["Neg", "Concat"], "N, 8",
    ),
    "concat-split of which one piece is used": (
        "float[N, 3] x, float[N, 5] z",
        "c = Concat<axis=1>(x, z)  a, b = Split<axis=1>(c, s)  y = Neg(b)", ["Neg"], "N, 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", GONE)
def test_pairs_vanish(rewrite, case, dtype):
    inputs, body, ops, shape = GONE[case]
    text = f"g ({inputs}) => (float[{shape}] y) {{ {body} }}".replace("float", dtype)

    done = rewrite(CancelSplits(), text, {"s": i(3, 5)})

    live = [
        n.op_type
        for n in done.after.graph
        if any(v.uses() or v.is_graph_output() for v in n.outputs)
    ]
    assert live == ops


KEPT = {
    "another order": ("x", "a, b = Split<axis=1>(x, s)  c = Concat<axis=1>(b, a)  y = Neg(c)", []),
    "a piece is missing": (
        "x",
        "a, b = Split<axis=1>(x, s)  c = Concat<axis=1>(a, a)  y = Neg(c)",
        [],
    ),
    "another axis": ("x", "a, b = Split<axis=1>(x, h)  c = Concat<axis=0>(a, b)  y = Neg(c)", []),
    "other seams": (
        "x, float[N, 2] z",
        "c = Concat<axis=1>(x, z)  a, b = Split<axis=1>(c, h)  y = Sub(a, b)",
        ["it is not proven to split at the seams"],
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_does_something_stays(rewrite, case):
    inputs, body, reasons = KEPT[case]
    weights = {
        n: w
        for n, w in {"s": i(3, 5), "h": i(4, 4) if inputs == "x" else i(5, 5)}.items()
        if f", {n})" in body
    }

    done = rewrite(
        CancelSplits(), f"g (float[N, 8] {inputs}) => (float[P, Q] y) {{ {body} }}", weights
    )

    assert not done.entry.changed
    assert done.reasons == reasons


def test_outputs_keep_their_names(rewrite):
    text = """g (float[N, 8] x) => (float[N, 8] y)
    { a, b = Split<axis=1>(x, s)  y = Concat<axis=1>(a, b) }"""
    done = rewrite(CancelSplits(), text, {"s": i(3, 5)})
    assert done.reasons == ["the graph returns it under a name of its own"]

    text = """g (float[N, 3] x, float[N, 5] z) => (float[N, 3] a, float[N, 5] b)
    { n = Neg(x)  c = Concat<axis=1>(n, z)  a, b = Split<axis=1>(c, s) }"""
    done = rewrite(CancelSplits(), text, {"s": i(3, 5)})
    assert done.reasons == ["the graph returns it under a name of its own"]


def test_what_others_read_stays(rewrite):
    text = """g (float[N, 3] x, float[N, 5] z) => (float[N, 3] y, float[N, 8] c)
    { c = Concat<axis=1>(x, z)  a, b = Split<axis=1>(c, s)  y = Neg(a) }"""

    assert rewrite(CancelSplits(), text, {"s": i(3, 5)}).ops == ["Concat", "Neg"]


def test_inside_a_branch(rewrite):
    text = """g (float[N, 8] x, bool c) => (float[N, 8] y) {
    y = If (c) <
        then_branch = t () => (float[N, 8] u)
            { a, b = Split<axis=1>(x, s)  d = Concat<axis=1>(a, b)  u = Neg(d) },
        else_branch = e () => (float[N, 8] u) { u = Exp(x) }
    > }"""

    assert rewrite(CancelSplits(), text, {"s": i(3, 5)}, tolerance=1e-6).ops == ["If", "Neg", "Exp"]
