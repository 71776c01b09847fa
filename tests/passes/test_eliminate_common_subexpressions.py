"""EliminateCommonSubexpressions: the same is computed once, what only looks the same is not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.eliminate_common_subexpressions import EliminateCommonSubexpressions

Y = "(float[N] x, float[N] z) => (float[N] y)"
MERGED = {
    "the same twice": "a = Relu(x)  b = Relu(x)  y = Add(a, b)",
    "a chain": "a = Relu(x)  b = Neg(a)  c = Relu(x)  d = Neg(c)  y = Add(b, d)",
    "commuted": "a = Add(x, z)  b = Add(z, x)  y = Mul(a, b)",
    "equal attributes": "a = Elu<alpha=0.5>(x)  b = Elu<alpha=0.5>(x)  y = Mul(a, b)",
    "constants": """c = Constant<value = float[1] {1.0}>()  d = Constant<value = float[1] {1.0}>()
        a = Add(x, c)  b = Add(x, d)  y = Mul(a, b)""",
    "a node and a graph output": "a = Relu(x)  y = Relu(x)  b = Neg(a)",
}
KEPT = {
    "other inputs": "a = Relu(x)  b = Relu(z)  y = Add(a, b)",
    "other order": "a = Sub(x, z)  b = Sub(z, x)  y = Add(a, b)",
    "other attributes": "a = Elu<alpha=0.5>(x)  b = Elu<alpha=0.25>(x)  y = Mul(a, b)",
    "zeros of other signs": """c = Constant<value_float = 0.0>()  d = Constant<value_float = -0.0>()
        i = Reciprocal(c)  j = Reciprocal(d)  a = Mul(x, i)  b = Mul(x, j)  y = Max(a, b)""",
    "max, for its NaNs": "a = Max(x, z)  b = Max(z, x)  y = Add(a, b)",
}


@pytest.mark.parametrize("case", MERGED)
def test_equal_nodes_are_merged(rewrite, case):
    done = rewrite(EliminateCommonSubexpressions(), f"g {Y} {{ {MERGED[case]} }}")

    assert done.entry.rewritten == 2 if case in ("a chain", "constants") else 1
    assert len(set(done.ops)) == len(done.ops)


@pytest.mark.parametrize("case", KEPT)
def test_different_nodes_are_not(rewrite, case):
    done = rewrite(EliminateCommonSubexpressions(), f"g {Y} {{ {KEPT[case]} }}")

    assert not done.entry.changed


RANDOM = {
    "normal": "a = RandomNormalLike(x)  b = RandomNormalLike(x)  y = Sub(a, b)",
    "uniform": "a = RandomUniformLike(x)  b = RandomUniformLike(x)  y = Sub(a, b)",
    "bernoulli": "p = Sigmoid(x)  a = Bernoulli(p)  b = Bernoulli(p)  y = Sub(a, b)",
    "dropout": """r = Constant<value_float=0.5>()  t = Constant<value = bool {1}>()
        a = Dropout(x, r, t)  b = Dropout(x, r, t)  y = Sub(a, b)""",
}


@pytest.mark.parametrize("case", RANDOM)
def test_random_operators_draw_numbers_of_their_own(rewrite, case):
    done = rewrite(EliminateCommonSubexpressions(), f"g {Y} {{ {RANDOM[case]} }}", runs=False)

    assert not done.entry.changed
    assert done.reasons == ["draws numbers of its own"]


def test_two_outputs_of_the_graph_keep_both_names(rewrite):
    text = "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x)  z = Relu(x) }"

    done = rewrite(EliminateCommonSubexpressions(), text)

    assert not done.entry.changed
    assert done.reasons == ["the graph returns it under its own name"]


def test_custom_operators_and_calls_are_left_alone(rewrite):
    text = f"g {Y} {{ a = custom.Draw(x)  b = custom.Draw(x)  y = Sub(a, b) }}"
    assert not rewrite(EliminateCommonSubexpressions(), text, runs=False).entry.changed

    function = '<domain: "local", opset_import: ["": 17]> f (u) => (w) {w = RandomNormalLike(u)}'
    text = f"g {Y} {{ a = local.f(x)  b = local.f(x)  y = Sub(a, b) }}"
    done = rewrite(EliminateCommonSubexpressions(), text, functions=function, runs=False)
    assert not done.entry.changed


def test_branches_read_what_was_computed_around_them(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    r = Relu(x)
    v = If (c) <
        then_branch = t () => (float[N] a) { p = Relu(x)  q = Neg(x)  a = Add(p, q) },
        else_branch = e () => (float[N] b) { b = Relu(x) }
    >
    n = Neg(x)
    w = Add(v, n)
    y = Add(w, r) }"""

    done = rewrite(EliminateCommonSubexpressions(), text)

    # not the Neg in the branch, which comes before the one outside, nor what a branch returns
    assert sorted(done.ops) == ["Add", "Add", "Add", "If", "Neg", "Neg", "Relu", "Relu"]


def test_an_output_left_out_is_not_read(rewrite):
    text = """g (float[N, 4] x) => (float[N, 2] y, int64[N, 2] i)
    { a, unused = TopK(x, k)  b, i = TopK(x, k)  y = Add(a, b) }"""

    done = rewrite(EliminateCommonSubexpressions(), text, {"k": np.array([2])})

    assert done.ops == ["TopK", "Add"]
