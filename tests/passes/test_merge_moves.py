"""MergeMoves: a few elements that several nodes move."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_moves import MergeMoves


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


PADDING = (
    "a = Reshape(x, s)  b = Slice(a, m, e, z, m)  c = Transpose<perm=[1, 0]>(b)  y = Reshape(c, m)"
)
MERGED = {
    "paddings": (8, "8", PADDING, {"s": i(-1, 2), "m": i(-1), "e": i(-(2**63) + 1), "z": i(0)}),
    "backwards": (
        6, "2, 2", "a = Slice(x, s, e, z, m)  y = Reshape(a, t)",
        {"s": i(4), "e": i(-6), "z": i(0), "m": i(-1), "t": i(2, 2)},
    ),
    "picked": (
        6, "2", "a = Reshape(x, s)  b = Gather<axis=1>(a, k)  y = Gather(b, t)",
        {"s": i(3, 2), "k": np.int64(1), "t": i(2, -3)},
    ),
    "a scalar": (
        6, "", "a = Reshape(x, s)  b = Gather<axis=1>(a, k)  y = Gather(b, k)",
        {"s": i(3, 2), "k": np.int64(1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["int64", "float", "float16"])
@pytest.mark.parametrize("case", MERGED)
def test_one_gather(rewrite, case, dtype):
    length, shape, body, weights = MERGED[case]
    shape = f"[{shape}]" if shape else ""

    text = f"g ({dtype}[{length}] x) => ({dtype}{shape} y) {{ {body} }}"
    done = rewrite(MergeMoves(), text, weights)

    assert done.ops == ["Gather"]


KEPT = {
    "shapes alone": ("float[6] x", "float[3, 2] y", "a = Reshape(x, s)  y = Reshape(a, t)"),
    "one node": ("float[6] x", "float[2] y", "y = Gather(x, k)"),
    "many elements": ("float[600] x", "float[P] y", "a = Reshape(x, q)  y = Gather<axis=1>(a, o)"),
    "many picked": ("float[6] x", "float[2, 100] y", "a = Reshape(x, s)  y = Gather<axis=1>(a, n)"),
    "one node behind a matrix": (
        "float[2, 3] x", "float[2] y", "a = Reshape(x, m)  y = Gather(a, k)",
    ),
    "an open size": ("float[N] x", "float[P, Q] y", "a = Reshape(x, q)  y = Gather<axis=1>(a, k)"),
    "read in between": (
        "float[6] x", "float[3, 2] y, float[2, 3] a", "a = Reshape(x, s)  y = Transpose(a)",
    ),
    "from a matrix": ("float[2, 3] x", "float[3] y", "a = Transpose(x)  y = Gather<axis=1>(a, o)"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_other_chains_stay(rewrite, case):
    inputs, outputs, body = KEPT[case]
    weights = {"s": i(2, 3), "t": i(3, 2), "k": i(0, 1), "q": i(-1, 2), "o": np.int64(0)}
    weights |= {"n": np.zeros(100, np.int64), "m": i(-1)}
    weights = {name: w for name, w in weights.items() if f", {name})" in body}

    text = f"g ({inputs}) => ({outputs}) {{ {body} }}"
    done = rewrite(MergeMoves(), text, weights, sizes={"N": 6}, runs=case != "an open size")

    assert not done.entry.changed


def test_inside_a_branch(rewrite):
    text = """g (float[6] x, bool c) => (float[A, B] y) {
    y = If (c) <
        then_branch = t () => (float[A, B] u) { a = Reshape(x, s)  u = Transpose(a) },
        else_branch = e () => (float[A, B] u) { u = Reshape(x, s) }
    > }"""

    assert rewrite(MergeMoves(), text, {"s": i(2, 3)}).ops == ["If", "Gather", "Reshape"]
