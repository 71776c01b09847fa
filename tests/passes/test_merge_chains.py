"""MergeChains: onnxscript's rules under our guard."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_chains import MergeChains

X = "float[N, 3, 4] x"
MERGED = {
    "reshape-reshape": (
        f"g ({X}) => (float[N, 12] y) {{ a = Reshape(x, s)  y = Reshape(a, t) }}",
        {"s": np.array([-1, 2, 6]), "t": np.array([0, 12])},
    ),
    "transpose-transpose": (
        f"g ({X}) => (float[4, N, 3] y) {{ a = Transpose<perm = [1, 0, 2]>(x)"
        " y = Transpose<perm = [2, 1, 0]>(a) }",
        {},
    ),
    "unsqueeze-unsqueeze": (
        f"g ({X}) => (float[1, N, 1, 3, 4] y) {{ a = Unsqueeze(x, s)  y = Unsqueeze(a, t) }}",
        {"s": np.array([1]), "t": np.array([0])},
    ),
    "squeeze-reshape": (
        "g (float[1] x) => (float[1] y) { a = Squeeze(x)  b = Reshape(a, s)  y = Neg(b) }",
        {"s": np.array([-1])},
    ),
    "cast-cast": (
        "g (float16[N] x) => (float16[N] y) { a = Cast<to=1>(x)  y = Cast<to=10>(a) }",
        {},
    ),
    "pad-conv": (
        "g (float[N, 1, 5, 5] x) => (float[N, 2, 6, 6] y) { a = Pad(x, p)  y = Conv(a, w) }",
        {"p": np.array([0, 0, 1, 2, 0, 0, 1, 0]), "w": np.ones((2, 1, 2, 2), "f")},
    ),
    "expand-add": (
        "g (float[2, 3] x, float[1, 3] z) => (float[2, 3] y) { a = Expand(z, s)  y = Add(x, a) }",
        {"s": np.array([2, 3])},
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_neighbours_become_one(rewrite, case):
    text, weights = MERGED[case]

    done = rewrite(MergeChains(), text, weights, tolerance=1e-6)

    assert done.entry.rewritten == 1
    live = [
        node
        for node in done.after.graph
        if any(v.uses() or v.is_graph_output() for v in node.outputs)
    ]
    assert len([node for node in live if node.op_type not in ("Constant", "Neg")]) <= 1


KEPT = {
    "cast through a narrow type": (
        "g (float[N] x) => (float[N] y) { a = Cast<to=10>(x)  y = Cast<to=1>(a) }",
        {},
    ),
    "pad of channels": (
        "g (float[N, 1, 5, 5] x) => (float[N, 2, 4, 4] y) { a = Pad(x, p)  y = Conv(a, w) }",
        {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0]), "w": np.ones((2, 2, 2, 2), "f")},
    ),
    "pad with ones": (
        "g (float[N, 1, 5, 5] x) => (float[N, 2, 6, 6] y) { a = Pad(x, p, o)  y = Conv(a, w) }",
        {
            "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "o": np.float32(1),
            "w": np.ones((2, 1, 2, 2), "f"),
        },
    ),
    "pad by reflection": (
        'g (float[N, 1, 5, 5] x) => (float[N, 2, 6, 6] y) { a = Pad<mode = "reflect">(x, p)'
        " y = Conv(a, w) }",
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": np.ones((2, 1, 2, 2), "f")},
    ),
    "expand that counts": (
        "g (float[1, 3] x, float[1, 3] z) => (float[2, 3] y) { a = Expand(z, s)  y = Add(x, a) }",
        {"s": np.array([2, 3])},
    ),
    "prelu with a larger slope": (
        "g (float[1, 3] x, float[2, 3] z) => (float[2, 3] y) { a = Expand(x, s)  y = PRelu(a, z) }",
        {"s": np.array([2, 3])},
    ),
    "reshape returned on the way": (
        f"g ({X}) => (float[A, B, C] a, float[N, 12] y) {{ a = Reshape(x, s)  y = Reshape(a, t) }}",
        {"s": np.array([-1, 2, 6]), "t": np.array([0, 12])},
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_only_looks_alike_stays(rewrite, case):
    text, weights = KEPT[case]

    assert not rewrite(MergeChains(), text, weights, tolerance=1e-6).entry.changed


def test_overridable_shapes_are_no_constants(rewrite):
    text = f"""g ({X}, int64[2] t) => (float[A, B] y)
    {{ a = Reshape(x, s)  y = Reshape(a, t) }}"""
    weights = {"s": np.array([-1, 2, 6]), "t": np.array([0, 12])}

    assert not rewrite(MergeChains(), text, weights, runs=False).entry.changed


def test_shapes_in_the_file_stay_as_they_were(rewrite):
    text = """g (float[N, 3, 4] x) => (float[N, 12] y) <float[N, 6, 2] a, float[Q] other> {
    other = ReduceSum<keepdims = 0>(x)  a = Reshape(x, s)  y = Reshape(a, t) }"""
    weights = {"s": np.array([-1, 6, 2]), "t": np.array([0, 12])}

    done = rewrite(MergeChains(), text, weights, runs=False)

    assert done.ops == ["ReduceSum", "Reshape"]
    assert [str(v.shape) for v in done.after.graph.outputs] == ["[N,12]"]
    assert str(done.after.graph[0].outputs[0].shape) == "[Q]"


def test_attributes_that_an_old_opset_lacks_are_not_written(rewrite):
    text = f"g ({X}) => (float[N, 12] y) {{ a = Reshape(x, s)  y = Reshape(a, t) }}"
    weights = {"s": np.array([-1, 2, 6]), "t": np.array([0, 12])}

    done = rewrite(MergeChains(), text, weights, opset=9)

    assert all("allowzero" not in node.attributes for node in done.after.graph)
