"""MergeTransposes: permutations compose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx_passes.merge_transposes import MergeTransposes, composed


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_composition_is_that_of_numpy(first, second):
    x = np.arange(120).reshape(2, 3, 4, 5)

    right = x.transpose(first).transpose(second)

    np.testing.assert_array_equal(x.transpose(composed(first, second)), right)


MERGED = {
    "one left": ("perm=[1, 0, 2]", "perm=[2, 1, 0]", "4, N, 3", ["Transpose", "Neg"]),
    "nothing left": ("perm=[1, 2, 0]", "perm=[2, 0, 1]", "N, 3, 4", ["Neg"]),
    "without perm": ("", "", "N, 3, 4", ["Neg"]),
    "one without perm": ("", "perm=[2, 1, 0]", "N, 3, 4", ["Neg"]),
}


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", MERGED)
def test_two_become_one_or_none(rewrite, case, dtype):
    first, second, shape, ops = MERGED[case]
    text = f"""g ({dtype}[N, 3, 4] x) => ({dtype}[{shape}] y)
    {{ a = Transpose<{first}>(x)  b = Transpose<{second}>(a)  y = Neg(b) }}"""

    assert rewrite(MergeTransposes(), text.replace("<>", "")).ops == ops


def test_a_first_node_that_others_read_stays(rewrite):
    text = """g (float[N, M] x) => (float[M, N] a, float[N, M] y)
    { a = Transpose(x)  b = Transpose(a)  y = Neg(b) }"""

    assert rewrite(MergeTransposes(), text).ops == ["Transpose", "Neg"]


def test_a_rank_that_is_not_known_is_read_from_the_other_perm(rewrite):
    text = """g (float[N, M] x, int64[R] s) => (float[A, B] y)
    { r = Reshape(x, s)  a = Transpose(r)  b = Transpose<perm=[1, 0]>(a)  y = Neg(b) }"""
    assert rewrite(MergeTransposes(), text, runs=False).ops == ["Reshape", "Neg"]

    done = rewrite(MergeTransposes(), text.replace("<perm=[1, 0]>", ""), runs=False)
    assert done.reasons == ["the number of dimensions is not known"]


def test_inside_a_branch(rewrite):
    text = """g (float[N, M] x, bool c) => (float[N, M] y) {
    y = If (c) <
        then_branch = t () => (float[N, M] u) { a = Transpose(x)  u = Transpose(a) },
        else_branch = e () => (float[N, M] u) { u = Neg(x) }
    > }"""

    assert rewrite(MergeTransposes(), text).ops == ["If", "Identity", "Neg"]
