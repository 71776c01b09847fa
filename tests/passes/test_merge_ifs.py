"""MergeIfs: one decision instead of two."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.ir import bodies, nodes
from onnxslim_rx_passes.merge_ifs import MergeIfs

BRANCHES = """then_branch = t{0} () => (float[N] p{0}) {{ a = Neg({1})  p{0} = Exp(a) }},
    else_branch = e{0} () => (float[N] q{0}) {{ a = Abs({1})  q{0} = Sqrt(a) }}"""


def decide(index, value, condition="c"):
    return f"If ({condition}) <{BRANCHES.format(index, value)}>"


HEAD = "g (float[N] x, bool c) => (float[N] y)"


def test_two_become_one_and_names_stay_apart(rewrite):
    text = f"{HEAD} {{ u = {decide(1, 'x')}  v = {decide(2, 'x')}  y = Add(u, v) }}"

    done = rewrite(MergeIfs(), text)

    assert done.ops.count("If") == 1
    for body in bodies(next(nodes(done.after))):
        names = [value.name for node in body for value in node.outputs]
        assert len(set(names)) == len(names) == 4


def test_three_become_one_with_work_in_between(rewrite):
    text = f"""{HEAD} {{ u = {decide(1, "x")}  z = Sin(u)  v = {decide(2, "x")}
        w = {decide(3, "x")}  s = Add(z, v)  y = Add(s, w) }}"""

    assert rewrite(MergeIfs(), text).ops.count("If") == 1


def test_what_is_computed_since_keeps_them_apart(rewrite):
    text = f"{HEAD} {{ u = {decide(1, 'x')}  y = {decide(2, 'u')} }}"

    done = rewrite(MergeIfs(), text)

    assert not done.entry.changed
    assert done.reasons == ["it reads what was computed since the other If"]


def test_other_conditions_stay(rewrite):
    text = f"""g (float[N] x, bool c, bool d) => (float[N] y)
    {{ u = {decide(1, "x")}  v = {decide(2, "x", "d")}  y = Add(u, v) }}"""

    assert not rewrite(MergeIfs(), text).entry.changed


@pytest.mark.parametrize("both", [False, True])
def test_a_negated_condition_exchanges_the_branches(rewrite, both):
    second = decide(2, "x", "n" if both else "c")
    text = f"{HEAD} {{ n = Not(c)  u = {decide(1, 'x', 'n')}  v = {second}  y = Add(u, v) }}"

    done = rewrite(MergeIfs(), text)

    assert done.ops.count("If") == 1
    assert "Not" not in done.ops


def test_results_of_the_model_and_weights_of_branches(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y, float[N] z) {
        y = If (c) <then_branch = t1 () => (float[N] p) <float[1] k = {2.0}> { p = Mul(x, k) },
                    else_branch = e1 () => (float[N] q) { q = Neg(x) }>
        z = If (c) <then_branch = t2 () => (float[N] p) <float[1] k = {3.0}> { p = Mul(x, k) },
                    else_branch = e2 () => (float[N] q) { q = Abs(x) }> }"""

    done = rewrite(MergeIfs(), text)

    assert done.ops.count("If") == 1
    assert [value.name for value in done.after.graph.outputs] == ["y", "z"]


def test_branches_in_branches(rewrite):
    inner = decide(3, "x", "d").replace("t3", "t4").replace("e3", "e4")
    text = f"""g (float[N] x, bool c, bool d) => (float[N] y) {{
        u = If (c) <then_branch = t1 () => (float[N] p) {{ p = {decide(3, "x", "d")} }},
                    else_branch = e1 () => (float[N] q) {{ q = Neg(x) }}>
        v = If (c) <then_branch = t2 () => (float[N] p) {{ p = {inner} }},
                    else_branch = e2 () => (float[N] q) {{ q = Sin(x) }}>
        y = Add(u, v) }}"""

    assert rewrite(MergeIfs(), text).ops.count("If") == 2  # those inside are merged as well


def test_half_precision(rewrite):
    text = f"{HEAD} {{ u = {decide(1, 'x')}  v = {decide(2, 'x')}  y = Add(u, v) }}"

    assert rewrite(MergeIfs(), text.replace("float[", "float16[")).ops.count("If") == 1


def test_old_formats_keep_weights_in_nodes(rewrite):
    text = f"{HEAD} {{ u = {decide(1, 'x')}  v = {decide(2, 'x')}  y = Add(u, v) }}"

    assert rewrite(MergeIfs(), text, ir_version=3, opset=11).ops.count("If") == 1


def test_nothing_else_is_touched(rewrite):
    done = rewrite(MergeIfs(), f"{HEAD} {{ y = {decide(1, 'x')} }}", {"w": np.ones(1, "f")})

    assert not done.entry.changed
