"""MergeUnaryPairs: pairs that cancel or repeat, NaN and infinities included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.merge_unary_pairs import MergeUnaryPairs

OPS = ["Abs", "Ceil", "Exp", "Floor", "Neg", "Relu", "Round", "Sigmoid", "Sign", "Sqrt", "Sin"]
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -3.7, 1e30], "f")


@pytest.mark.parametrize(("first", "second"), list(itertools.product(OPS, OPS)))
def test_every_pair_computes_the_same_on_odd_numbers(build_model, first, second):
    text = f"g (float[N] x) => (float[N] y) {{ a = {first}(x)  b = {second}(a)  y = Neg(b) }}"
    model = build_model(text)

    after = PassManager([MergeUnaryPairs()], verify=None).run(model).model

    np.testing.assert_array_equal(Runner(after)({"x": ODD})["y"], Runner(model)({"x": ODD})["y"])


MERGED = {
    "neg-neg": ("float", "a = Neg(x)  b = Neg(a)  y = Exp(b)", ["Exp"]),
    "half precision": ("float16", "a = Neg(x)  b = Neg(a)  y = Relu(b)", ["Relu"]),
    "not-not": ("bool", "a = Not(x)  b = Not(a)  y = Not(b)", ["Not"]),
    "to the output": ("float", "a = Neg(x)  y = Neg(a)", ["Identity"]),
    "abs-neg": ("float", "a = Neg(x)  y = Abs(a)", ["Abs"]),
    "relu-relu": ("float", "a = Relu(x)  y = Relu(a)", ["Relu"]),
    "relu of a sigmoid": ("float", "a = Sigmoid(x)  y = Relu(a)", ["Sigmoid"]),
    "floor-round": ("float", "a = Floor(x)  y = Round(a)", ["Floor"]),
    "sign-sign": ("float", "a = Sign(x)  y = Sign(a)", ["Sign"]),
    "four": ("float", "a = Neg(x)  b = Neg(a)  c = Neg(b)  d = Neg(c)  y = Exp(d)", ["Exp"]),
}


@pytest.mark.parametrize("case", MERGED)
def test_pairs_become_one_or_none(rewrite, case):
    dtype, body, ops = MERGED[case]

    done = rewrite(MergeUnaryPairs(), f"g ({dtype}[N] x) => ({dtype}[N] y) {{ {body} }}")

    assert done.ops == ops


def test_a_first_node_that_others_read_stays(rewrite):
    text = "g (float[N] x) => (float[N] y, float[N] a) { a = Neg(x)  b = Neg(a)  y = Exp(b) }"

    assert rewrite(MergeUnaryPairs(), text).ops == ["Neg", "Exp"]


def test_the_output_keeps_its_name(rewrite):
    text = "g (float[N] x) => (float[N] y, float[N] a) { a = Neg(x)  y = Neg(a) }"

    done = rewrite(MergeUnaryPairs(), text)

    assert not done.entry.changed
    assert done.reasons == ["the graph returns it under a name of its own"]


def test_reciprocals_and_other_pairs_stay(rewrite):
    text = """g (float[N] x) => (float[N] y)
    { a = Reciprocal(x)  b = Reciprocal(a)  c = Relu(b)  y = Neg(c) }"""

    assert not rewrite(MergeUnaryPairs(), text).entry.changed


def test_inside_a_branch_but_not_across_its_border(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    n = Neg(x)
    y = If (c) <
        then_branch = t () => (float[N] u) { a = Abs(n)  b = Abs(a)  u = Exp(b) },
        else_branch = e () => (float[N] u) { a = Neg(n)  u = Exp(a) }
    > }"""

    assert sorted(rewrite(MergeUnaryPairs(), text).ops) == [
        "Abs", "Exp", "Exp", "If", "Neg", "Neg",
    ]  # fmt: skip
