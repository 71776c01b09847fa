"""EliminateDeadCode: what contributes to no output goes, all else stays."""

from __future__ import annotations

import numpy as np

from onnxslim_rx_passes.eliminate_dead_code import EliminateDeadCode

FUNCTIONS = """
<domain: "local", opset_import: ["": 17]> used (u) => (w) { w = Abs(u) }
<domain: "local", opset_import: ["": 17, "local": 1]> outer (u) => (w) { w = local.inner(u) }
<domain: "local", opset_import: ["": 17]> inner (u) => (w) { d = Exp(u)  w = Neg(u) }
"""


def test_dead_nodes_weights_functions_and_imports_go(rewrite):
    text = """g (float[N] x, float[N] unread) => (float[N] y)
    { d = Exp(x)  e = Mul(d, dead)  f = local.outer(e)  y = local.used(x) }"""

    done = rewrite(EliminateDeadCode(), text, {"dead": np.ones(1, "f")}, functions=FUNCTIONS)

    assert done.ops == ["used", "Abs"]
    assert not done.after.graph.initializers
    assert [key[1] for key in done.after.functions] == ["used"]
    assert set(done.after.opset_imports) == {"", "local"}
    assert [value.name for value in done.after.graph.inputs] == ["x", "unread"]


def test_what_functions_call_stays_and_their_own_dead_code_goes(rewrite):
    text = "g (float[N] x) => (float[N] y) { y = local.outer(x) }"

    done = rewrite(EliminateDeadCode(), text, functions=FUNCTIONS)

    assert sorted(done.ops) == ["Neg", "inner", "outer"]


def test_dead_nodes_in_branches_go_and_what_only_they_read(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    only = Exp(x)
    y = If (c) <
        then_branch = t () => (float[N] a) { d = Neg(only)  a = Abs(x) },
        else_branch = e () => (float[N] b) { b = Sin(x) }
    > }"""

    done = rewrite(EliminateDeadCode(), text)

    assert sorted(done.ops) == ["Abs", "If", "Sin"]


def test_a_dead_owner_of_branches_frees_what_its_branches_read(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    only = Exp(x)
    d = If (c) <
        then_branch = t () => (float[N] a) { a = Neg(only) },
        else_branch = e () => (float[N] b) { b = Sin(x) }
    >
    y = Abs(x) }"""

    assert rewrite(EliminateDeadCode(), text).ops == ["Abs"]


def test_nothing_dead_nothing_changed(rewrite):
    text = """g (float[N] x, float w) => (float[N] y, float[N] v, float kept)
    { y, m = Dropout(x)  v = Neg(x) }"""
    weights = {"w": np.float32(1), "kept": np.float32(2)}  # overridable, and returned

    done = rewrite(EliminateDeadCode(), text, weights)

    assert done.ops == ["Dropout", "Neg"]
    assert set(done.after.graph.initializers) == {"w", "kept"}
