"""GatherndToGather: picks along the first axis."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.gathernd_to_gather import GatherndToGather


@pytest.mark.parametrize("dtype", ["float", "float16", "int32"])
@pytest.mark.parametrize(
    ("indices", "shape"), [([[2], [-1]], "2, 5"), ([1], "5"), ([[[0], [3]]], "1, 2, 5")]
)
def test_rows(rewrite, dtype, indices, shape):
    text = f"g ({dtype}[4, 5] x) => ({dtype}[{shape}] y) {{ y = GatherND(x, i) }}"

    assert rewrite(GatherndToGather(), text, {"i": np.array(indices)}).ops == ["Gather"]


def test_elements_batches_and_computed_indices_stay(rewrite):
    text = "g (float[4, 5] x) => (float[2] y) { y = GatherND(x, i) }"
    assert not rewrite(GatherndToGather(), text, {"i": np.array([[2, 1], [0, 0]])}).entry.changed

    text = "g (float[4, 5] x) => (float[4] y) { y = GatherND<batch_dims = 1>(x, i) }"
    done = rewrite(GatherndToGather(), text, {"i": np.array([[2], [1], [0], [0]])})
    assert done.reasons == ["batch_dims is not 0"]

    text = "g (float[4, 5] x, int64[2, 1] i) => (float[2, 5] y) { y = GatherND(x, i) }"
    assert not rewrite(GatherndToGather(), text).entry.changed


def test_inside_a_branch(rewrite):
    text = """g (float[4, 5] x, bool c) => (float[P, 5] y) {
    y = If (c) <
        then_branch = t () => (float[P, 5] u) { u = GatherND(x, i) },
        else_branch = e () => (float[P, 5] u) { u = Neg(x) }
    > }"""

    assert rewrite(GatherndToGather(), text, {"i": np.array([[2]])}).ops == ["If", "Gather", "Neg"]
