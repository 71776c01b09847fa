"""AbsorbConstants: what a constant decides, whatever the other operand is."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.absorb_constants import AbsorbConstants

DECIDED = {
    "and false": ("bool", "And(x, k)", np.False_),
    "or true": ("bool", "Or(k, x)", np.True_),
    "times zero": ("int64", "Mul(x, k)", np.int64(0)),
    "minus itself": ("int32", "Sub(x, x)", None),
    "modulo one": ("int64", "Mod(x, k)", np.int64(1)),
    "for each element": ("bool", "And(x, k)", np.zeros((2, 3), bool)),
}


@pytest.mark.parametrize("case", DECIDED)
def test_a_constant_takes_the_place(rewrite, case):
    dtype, node, constant = DECIDED[case]
    last = "Not" if dtype == "bool" else "Neg"
    text = f"g ({dtype}[2, 3] x) => ({dtype}[2, 3] y) {{ a = {node}  y = {last}(a) }}"

    done = rewrite(AbsorbConstants(), text, {} if constant is None else {"k": constant})

    assert done.ops == [last]


KEPT = {
    "and true": ("bool", "2, 3", "And(x, k)", np.True_),
    "and some": ("bool", "2, 3", "And(x, k)", np.array([True, False, False])),
    "floats times zero": ("float", "2, 3", "Mul(x, k)", np.float32(0)),
    "half floats minus themselves": ("float16", "2, 3", "Sub(x, x)", None),
    "times one": ("int64", "2, 3", "Mul(x, k)", np.int64(1)),
    "minus another": ("int64", "2, 3", "Sub(x, k)", np.int64(1)),
    "modulo two": ("int64", "2, 3", "Mod(x, k)", np.int64(2)),
    "an open size": ("bool", "N, 3", "And(x, k)", np.False_),
    "many elements": ("bool", "20, 30", "And(x, k)", np.False_),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_operands_stay(rewrite, case):
    dtype, shape, node, constant = KEPT[case]
    last = "Not" if dtype == "bool" else "Neg"
    text = f"g ({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ a = {node}  y = {last}(a) }}"

    done = rewrite(AbsorbConstants(), text, {} if constant is None else {"k": constant})

    assert not done.entry.changed


def test_an_output_stays(rewrite):
    text = "g (bool[3] x) => (bool[3] y) { y = And(x, k) }"

    done = rewrite(AbsorbConstants(), text, {"k": np.False_})

    assert done.reasons == ["the graph returns it under a name of its own"]


def test_inside_a_branch(rewrite):
    text = """g (bool[3] x, bool c) => (bool[3] y) {
    y = If (c) <
        then_branch = t () => (bool[3] u) { a = Or(x, k)  u = Not(a) },
        else_branch = e () => (bool[3] u) { u = Identity(x) }
    > }"""

    assert rewrite(AbsorbConstants(), text, {"k": np.True_}).ops == ["If", "Not", "Identity"]
