"""InlineConstantIf: the chosen branch, with its names and constants, in the place of the If."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.inline_constant_if import InlineConstantIf

TEXT = """g (float[N] x) => (float[N] y) {
    a = Neg(x)
    y = If (c) <
        then_branch = t () => (float[N] u) { k = Constant<value_float = 2.0>()  u = Mul(a, k) },
        else_branch = e () => (float[N] u) { v = Exp(x)  k = Abs(v)  u = Add(k, a) }
    > }"""


@pytest.mark.parametrize("condition", [True, False])
def test_the_chosen_branch_stays(rewrite, condition):
    done = rewrite(InlineConstantIf(), TEXT, {"c": np.asarray(condition)}, tolerance=1e-6)

    assert done.ops == (["Neg", "Constant", "Mul"] if condition else ["Neg", "Exp", "Abs", "Add"])
    assert not done.after.graph.initializers


def test_a_computed_or_overridable_condition_is_kept(rewrite):
    computed = TEXT.replace("float[N] x)", "float[N] x, bool c)", 1)
    done = rewrite(InlineConstantIf(), computed)
    assert not done.entry.changed
    assert done.reasons == ["the condition is computed"]

    done = rewrite(InlineConstantIf(), computed, {"c": np.True_})  # an input with a default
    assert not done.entry.changed


def test_initializers_of_the_branch_move_along_and_collide_with_nothing(rewrite):
    text = """g (float[2] x) => (float[2] y) {
    k = Neg(x)
    z = If (c) <
        then_branch = t () => (float[2] u) <float[2] w = {3.0, 4.0}> { u = Mul(k, w) },
        else_branch = e () => (float[2] u) { u = Exp(x) }
    >
    w = Abs(z)
    y = Add(w, k) }"""

    done = rewrite(InlineConstantIf(), text, {"c": np.True_})

    assert done.ops == ["Neg", "Mul", "Abs", "Add"]


def test_nested_ifs(rewrite):
    text = """g (float[N] x) => (float[N] y) {
    z = If (c) <
        then_branch = t () => (float[N] u) { u = If (c) <
            then_branch = tt () => (float[N] p) { p = Neg(x) },
            else_branch = ee () => (float[N] p) { p = Exp(x) }
        > },
        else_branch = e () => (float[N] u) { u = Abs(x) }
    >
    y = Sin(z) }"""

    assert rewrite(InlineConstantIf(), text, {"c": np.True_}).ops == ["Neg", "Sin"]


def test_branches_with_the_same_names(rewrite):
    one = """If (c) <
        then_branch = t () => (float[N] u) { k = Exp(x)  u = Neg(k) },
        else_branch = e () => (float[N] u) { u = Abs(x) }
    >"""
    text = f"g (float[N] x) => (float[N] y) {{ p = {one}  q = {one}  y = Add(p, q) }}"

    done = rewrite(InlineConstantIf(), text, {"c": np.True_}, tolerance=1e-6)

    assert done.ops == ["Exp", "Neg", "Exp", "Neg", "Add"]


def test_a_branch_that_returns_what_it_was_given(rewrite):
    text = """g (float[2] x) => (float[2] y) {
    y = If (c) <
        then_branch = t () => (float[2] w) <float[2] w = {3.0, 4.0}> { d = Neg(x) },
        else_branch = e () => (float[2] u) { u = Exp(x) }
    > }"""

    done = rewrite(InlineConstantIf(), text, {"c": np.True_}, runs=False)

    assert not done.entry.changed
    assert done.reasons == ["the graph returns what the branch was given"]
