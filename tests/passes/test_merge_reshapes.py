"""MergeReshapes: chains of nodes that only change the shape."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_reshapes import MergeReshapes


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


X = "float[N, 3, 1, 4] x"
MERGED = {
    "reshape-reshape": (
        "float[N, 12]", "a = Reshape(x, s)  y = Reshape(a, t)",
        {"s": i(-1, 2, 6), "t": i(0, 12)}, ["Reshape"],
    ),
    "to all sizes known": (
        "float[N, 12]", "a = Reshape(x, s)  y = Reshape(a, t)",
        {"s": i(-1), "t": i(-1, 12)}, ["Reshape"],
    ),
    "flatten-reshape": (
        "float[N, 6, 2]", "a = Flatten(x)  y = Reshape(a, t)", {"t": i(0, 6, 2)}, ["Reshape"],
    ),
    "reshape-flatten": (
        "float[N, 12]", "a = Reshape(x, s)  y = Flatten(a)", {"s": i(0, 2, 6)}, ["Reshape"],
    ),
    "reshape-unsqueeze": (
        "float[1, N, 12]", "a = Reshape(x, s)  y = Unsqueeze(a, t)",
        {"s": i(0, 12), "t": i(0)}, ["Reshape"],
    ),
    "squeeze-squeeze": (
        "float[N, 3, 4]", "u = Reshape(x, s)  a = Squeeze(u, t)  b = Squeeze(a, q)  y = Relu(b)",
        {"s": i(1, -1, 3, 1, 4), "t": i(3), "q": i(0)}, ["Reshape", "Relu"],
    ),
    "unsqueeze-unsqueeze": (
        "float[1, N, 1, 3, 1, 4]", "a = Unsqueeze(x, s)  y = Unsqueeze(a, t)",
        {"s": i(-4), "t": i(0)}, ["Unsqueeze"],
    ),
    "unsqueeze-squeeze": (
        "float[N, 3, 1, 4]", "a = Unsqueeze(x, s)  b = Squeeze(a, s)  y = Relu(b)",
        {"s": i(0, 2)}, ["Relu"],
    ),
    "unsqueeze, then squeeze of another": (
        "float[1, N, 3, 4]", "a = Unsqueeze(x, s)  y = Squeeze(a, t)",
        {"s": i(0), "t": i(3)}, ["Reshape"],
    ),
    "squeeze-unsqueeze": (
        "float[N, 3, 1, 4]", "a = Squeeze(x, s)  b = Unsqueeze(a, s)  y = Relu(b)",
        {"s": i(2)}, ["Relu"],
    ),
    "there and back to an output": (
        "float[N, 3, 1, 4]", "a = Reshape(x, s)  y = Reshape(a, t)",
        {"s": i(-1), "t": i(-1, 3, 1, 4)}, ["Identity"],
    ),
    "transpose that moves nothing": (
        "float[1, N, 12]", "a = Transpose<perm=[2, 0, 1, 3]>(x)  y = Reshape(a, t)",
        {"t": i(1, -1, 12)}, ["Reshape"],
    ),
    "reshape, then such a transpose": (
        "float[12, 1, N]", "r = Reshape(x, s)  z = Transpose<perm=[2, 0, 1]>(r)"
        "  a = Transpose<perm=[0, 2, 1]>(z)  y = Relu(a)",
        {"s": i(-1, 1, 12)}, ["Reshape", "Transpose", "Transpose", "Relu"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_two_become_one_or_none(rewrite, case):
    shape, body, weights, ops = MERGED[case]

    done = rewrite(MergeReshapes(), f"g ({X}) => ({shape} y) {{ {body} }}", weights)

    assert done.ops == ops


def test_other_readers_that_merge_too(rewrite):
    text = """g (float[N, M] x) => (float[1, N, M, 1] y, float[1, N, 1, M] z)
    { a = Unsqueeze(x, s)  y = Unsqueeze(a, t)  z = Reshape(a, r) }"""

    done = rewrite(MergeReshapes(), text, {"s": i(0), "t": i(3), "r": i(1, 0, 1, -1)})

    assert done.ops == ["Unsqueeze", "Unsqueeze"]


def test_readers_of_another_kind_keep_the_first(rewrite):
    text = """g (float[N, 12] x) => (float[N, 3, 4] y, float[N, 2, 6] z)
    { a = Reshape(x, s)  y = Reshape(a, t)  z = Relu(a) }"""

    done = rewrite(MergeReshapes(), text, {"s": i(0, 2, 6), "t": i(0, 3, 4)})

    assert not done.entry.changed


def test_axes_of_size_1_beside_several_open_sizes(rewrite):
    text = """g (float[N, 1, M] x) => (float[N, M] y)
    { a = Transpose<perm=[1, 0, 2]>(x)  y = Squeeze(a, s) }"""

    assert rewrite(MergeReshapes(), text, {"s": i(0)}).ops == ["Squeeze"]

    text = text.replace("float[N, M] y", "float[1, N, 1, M] y").replace("Squeeze", "Unsqueeze")
    assert rewrite(MergeReshapes(), text, {"s": i(2)}).ops == ["Unsqueeze"]


def test_squeezes_of_axes_of_open_size(rewrite):
    text = """g (float[A, B, M] x) => (float[M] y)
    { a = Squeeze(x, s)  y = Squeeze(a, t) }"""
    sizes = {"A": 1, "B": 1, "M": 3}

    done = rewrite(MergeReshapes(), text, {"s": i(0), "t": i(0)}, sizes=sizes, runs=False)

    assert done.ops == ["Squeeze"]
    assert done.after.graph[0].inputs[1].const_value.numpy().tolist() == [0, 1]


def test_axes_are_attributes_in_old_opsets(rewrite):
    text = """g (float[N] x) => (float[1, N, 1] y)
    { a = Unsqueeze<axes=[0]>(x) y = Unsqueeze<axes=[2]>(a) }"""

    done = rewrite(MergeReshapes(), text, opset=11)

    assert done.after.graph[0].attributes["axes"].value == (0, 2)


def test_a_shape_that_copies_from_the_middle_copies_no_more(rewrite):
    text = "g (float[N, 6, 4] x) => (float[3, P, Q] y) { a = Reshape(x, s)  y = Reshape(a, t) }"

    done = rewrite(MergeReshapes(), text, {"s": i(3, -1, 8), "t": i(0, 4, -1)}, sizes={"N": 2})

    assert done.after.graph[0].inputs[1].const_value.numpy().tolist() == [3, 4, -1]


KEPT = {
    "two open sizes": (
        "float[N, M, 4] x", "float[P, Q, R] y", "a = Flatten(x)  y = Reshape(a, t)",
        {"t": i(2, 0, -1)}, {"N": 2, "M": 4}, "more than one size would have to be inferred",
    ),
    "an inferred size beside one that may be 0": (
        "float[N, M, 4] x", "float[N, P] y", "a = Unsqueeze(x, t)  y = Flatten<axis=2>(a)",
        {"t": i(1)}, {"N": 2, "M": 4},
        "a size would have to be inferred beside one that may be 0",
    ),
    "read elsewhere": (
        "float[N, 3, 4] x", "float[N, 12] y, float[N, 6, 2] a",
        "a = Reshape(x, s)  y = Flatten(a)", {"s": i(0, 6, 2)}, None, None,
    ),
    "a transpose that moves": (
        "float[N, 3, 4] x", "float[N, 12] y", "a = Transpose<perm=[0, 2, 1]>(x)  y = Flatten(a)",
        {}, None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_said_in_one_reshape_stays(rewrite, case):
    inputs, outputs, body, weights, sizes, why = KEPT[case]

    text = f"g ({inputs}) => ({outputs}) {{ {body} }}"
    done = rewrite(MergeReshapes(), text, weights, sizes=sizes, runs=case != "two open sizes")

    assert not done.entry.changed
    assert done.reasons == ([] if why is None else [why])


def test_computed_shapes(rewrite):
    text = """g (float[N, 3, 4] x, int64[R] s) => (float[A, B] y)
    { a = Flatten(x)  y = Reshape(a, s) }"""
    done = rewrite(MergeReshapes(), text, runs=False)
    assert done.reasons == ["the number of dimensions of the result is not known"]

    text = """g (float[N, 3, 4] x) => (float[N, 3, 4] y)
    { a = Flatten(x)  s = Shape(x)  b = Reshape(a, s)  y = Relu(b) }"""
    assert "Flatten" not in rewrite(MergeReshapes(), text).ops


def test_empty_tensors(rewrite):
    text = """g (float[0, 3] x) => (float[3, 0] y)
    { a = Reshape<allowzero=1>(x, s) y = Reshape<allowzero=1>(a, t) }"""

    done = rewrite(MergeReshapes(), text, {"s": i(1, 3, 0), "t": i(3, 0)})

    assert done.reasons == ["the result has no elements"]


def test_half_precision_inside_a_branch(rewrite):
    text = """g (float16[N, 3, 4] x, bool c) => (float16[N, 12] y) {
    y = If (c) <
        then_branch = t () => (float16[N, 12] u) { a = Reshape(x, s)  u = Flatten(a) },
        else_branch = e () => (float16[N, 12] u) { u = Flatten(x) }
    > }"""

    assert rewrite(MergeReshapes(), text, {"s": i(0, 2, 6)}).ops == ["If", "Reshape", "Flatten"]
