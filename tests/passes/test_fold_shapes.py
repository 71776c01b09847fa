"""FoldShapes: known sizes become constants, open ones stay open."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fold_shapes import FoldShapes

FOLDED = {
    "shape": ("float[2, 3]", "y = Shape(a)", "int64[2]"),
    "part of a shape": ("float[N, 3, 4]", "y = Shape<start = 1>(a)", "int64[2]"),
    "size": ("float[2, 3]", "y = Size(a)", "int64"),
    "one size": ("float[N, 3]", "s = Shape(a)  y = Gather(s, one)", "int64"),
    "one size from the end": ("float[N, 3]", "s = Shape(a)  y = Gather(s, last)", "int64[1]"),
}
KEPT = {
    "open shape": ("float[N, 3]", "y = Shape(a)", "int64[2]"),
    "open size": ("float[N, 3]", "y = Size(a)", "int64"),
    "open element": ("float[3, N]", "s = Shape(a)  y = Gather(s, one)", "int64"),
    "not from a shape": ("int64[2]", "y = Gather(a, one)", "int64"),
}
INDICES = {"one": np.int64(1), "last": np.array([-1])}


def graph(case):
    kind, body, result = case
    body = body.replace("y = ", "r = ")
    weights = {name: array for name, array in INDICES.items() if name in body}
    return f"g ({kind} x) => ({result} y) {{ a = Neg(x)  {body}  y = Neg(r) }}", weights


@pytest.mark.parametrize("case", FOLDED)
def test_known_sizes_are_folded(rewrite, case):
    text, weights = graph(FOLDED[case])

    done = rewrite(FoldShapes(), text, weights)

    assert done.entry.rewritten >= 1
    assert done.ops[-1] == "Neg"
    assert done.after.graph[-1].inputs[0].is_initializer()


@pytest.mark.parametrize("case", KEPT)
def test_open_sizes_are_not(rewrite, case):
    text, weights = graph(KEPT[case])

    assert not rewrite(FoldShapes(), text, weights).entry.changed


def test_a_stale_shape_in_the_file_proves_nothing(rewrite):
    text = """g (float[N, 3] x) => (int64[2] y) <float[1, 3] a>
    { a = Neg(x)  s = Shape(a)  y = Neg(s) }"""

    assert not rewrite(FoldShapes(), text, runs=False).entry.changed


def test_what_the_graph_returns_stays(rewrite):
    done = rewrite(FoldShapes(), "g (float[2, 3] x) => (int64[2] y) { y = Shape(x) }")

    assert not done.entry.changed
    assert done.reasons == ["the graph returns it"]


def test_an_index_beyond_the_shape_is_left_to_the_runtime(rewrite):
    text = (
        "g (float[2, 3] x) => (int64 y) { s = Shape<start = 1>(x)  g = Gather(s, i)  y = Neg(g) }"
    )

    done = rewrite(FoldShapes(), text, {"i": np.int64(5)}, runs=False)

    assert "Gather" in done.ops


def test_shapes_that_callers_may_override_are_open(rewrite):
    text = """g (float[2, 6] x, int64[2] s) => (int64[2] y)
    { a = Reshape(x, s)  b = Shape(a)  y = Neg(b) }"""

    done = rewrite(FoldShapes(), text, {"s": np.array([3, 4])}, runs=False)

    assert not done.entry.changed
