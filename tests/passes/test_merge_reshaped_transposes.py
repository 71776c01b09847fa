"""MergeReshapedTransposes: groups of axes that move as one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx_passes.merge_reshaped_transposes import MergeReshapedTransposes, grouped


@given(
    st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4),
    st.permutations(range(4)),
)
def test_moving_groups_is_moving_their_axes(groups, order):
    before = [size for group in groups for size in group]
    after = [math.prod(group) for group in groups]
    perm = [group for group in order if group < len(groups)]
    x = np.arange(math.prod(before)).reshape(before)

    found = grouped(before, after)

    assert found is not None
    assert sorted(axis for group in found for axis in group) == list(range(len(before)))
    axes = [axis for group in perm for axis in found[group]]
    right = x.reshape(after).transpose(perm)
    np.testing.assert_array_equal(x.transpose(axes).reshape(-1), right.reshape(-1))


@pytest.mark.parametrize("after", [[2, 2, 3], [4, 6], [12, 2], [2, 3]])
def test_axes_taken_apart_are_no_groups(after):
    assert grouped([4, 3], after) is None


MERGED = {
    "heads": ("-1, 5, 6", "0, 2, 1", "-1, 4, 6, 5", "N, 4, 6, 5", ["Transpose"]),
    "all but one": ("-1, 6", "1, 0", "6, -1, 4, 5", "6, N, 4, 5", ["Transpose"]),
    "nothing moves": ("-1, 4, 30", "0, 1, 2", "-1, 4, 5, 6", "N, 4, 5, 6", ["Identity"]),
}


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", MERGED)
def test_one_transposition(rewrite, case, dtype):
    to, perm, back, shape, ops = MERGED[case]
    weights = {"s": numbers(to), "t": numbers(back)}
    text = f"""g ({dtype}[N, 4, 5, 6] x) => ({dtype}[{shape}] y)
    {{ a = Reshape(x, s)  b = Transpose<perm=[{perm}]>(a)  y = Reshape(b, t) }}"""

    assert rewrite(MergeReshapedTransposes(), text, weights).ops == ops


def test_computed_shapes_of_open_sizes(rewrite):
    text = """g (float[N, 4, M, 6] x) => (float[N, 4, 6, M] y) {
    k = Shape(x)  m = Gather(k, two)  p = Concat<axis=0>(minus, m, six)  a = Reshape(x, p)
    b = Transpose<perm=[0, 2, 1]>(a)
    q = Gather(k, swapped)  y = Reshape(b, q) }"""
    weights = {"two": np.array([2]), "minus": np.array([-1]), "six": np.array([6])}
    weights["swapped"] = np.array([0, 1, 3, 2])

    done = rewrite(MergeReshapedTransposes(), text, weights)

    assert done.ops[-1] == "Transpose"
    assert "Reshape" not in done.ops


KEPT = {
    "an axis is taken apart": (
        "-1, 2, 10, 6", "0, 2, 1, 3", "-1, 20, 6", "N, 20, 6", "",
        "the first Reshape does more than to put axes together",
    ),
    "another shape at the end": (
        "-1, 5, 6", "0, 2, 1", "-1, 30", "P, 30", "",
        "the second Reshape does more than to take axes apart again",
    ),
    "the transposed tensor is read": (
        "-1, 5, 6", "0, 2, 1", "-1, 4, 6, 5", "N, 4, 6, 5", ", float[P, 6, 5] b", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_does_more_stays(rewrite, case):
    to, perm, back, shape, more, why = KEPT[case]
    text = f"""g (float[N, 4, 5, 6] x) => (float[{shape}] y{more})
    {{ a = Reshape(x, s)  b = Transpose<perm=[{perm}]>(a)  y = Reshape(b, t) }}"""

    done = rewrite(MergeReshapedTransposes(), text, {"s": numbers(to), "t": numbers(back)})

    assert not done.entry.changed
    assert done.reasons == ([] if why is None else [why])


def test_inside_a_branch(rewrite):
    text = """g (float[2, 4, 5] x, bool c) => (float[A, B, C] y) {
    y = If (c) <
        then_branch = t () => (float[A, B, C] u)
            { a = Reshape(x, s)  b = Transpose<perm=[1, 0]>(a)  u = Reshape(b, t) },
        else_branch = e () => (float[A, B, C] u) { u = Neg(x) }
    > }"""
    weights = {"s": np.array([8, 5]), "t": np.array([5, 2, 4])}

    assert rewrite(MergeReshapedTransposes(), text, weights).ops == ["If", "Transpose", "Neg"]


def numbers(text):
    return np.array([int(part) for part in text.split(",")])
