"""SimplifyReshape: sizes are copied or inferred instead of computed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.simplify_reshape import SimplifyReshape

HEAD = "s = Shape(x)  b = Gather(s, zero)  t = Gather(s, one)"
WEIGHTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "four": np.array([4]),
    "six": np.array([6]), "minus": np.array([-1]),
}  # fmt: skip

SIMPLER = {
    "heads": ("Concat<axis = 0>(b, t, two, four)", "A, B, C, D", [0, 0, 2, 4]),
    "flattened": ("Concat<axis = 0>(n, four)", "A, B", [-1, 4]),
    "the exporter infers": ("Concat<axis = 0>(b, two, minus)", "A, B, C", [0, 2, -1]),
    "the whole shape": ("Identity(s)", "A, B, C", [0, 0, 8]),
    "one moves": ("Concat<axis = 0>(t, b, four, two)", None, None),
}


@pytest.mark.parametrize("case", SIMPLER)
def test_sizes_that_follow_are_not_computed(rewrite, case):
    target, result, expected = SIMPLER[case]
    text = f"""g (float[N, M, 8] x) => (float[{result or "A, B, C, D"}] y) {{
        {HEAD}  bt = Mul(b, t)  n = Mul(bt, two)  q = {target}  y = Reshape(x, q) }}"""

    done = rewrite(SimplifyReshape(), text, WEIGHTS)

    if expected is None:
        assert not done.entry.changed
        assert "more than one" in done.reasons[0]
    else:
        shape = done.after.graph[-1].inputs[1].const_value
        assert shape.numpy().tolist() == expected


def test_half_precision_in_a_branch(rewrite):
    text = """g (float16[N, 8] x, bool c) => (float16[A, B, C] y) {
        y = If (c) <then_branch = t () => (float16[A, B, C] p) {
            s = Shape(x)  b = Gather(s, zero)  q = Concat<axis = 0>(b, two, four)
            p = Reshape(x, q) },
          else_branch = e () => (float16[A, B, C] r) { r = Reshape(x, k) }> }"""

    done = rewrite(SimplifyReshape(), text, {**WEIGHTS, "k": np.array([-1, 2, 4])})

    assert done.entry.rewritten == 1


def test_shapes_from_data_stay(rewrite):
    text = "g (float[2, 8] x, int64[2] q) => (float[A, B] y) { y = Reshape(x, q) }"
    done = rewrite(SimplifyReshape(), text, runs=False)
    assert done.reasons == ["more than one size would have to be inferred"]

    done = rewrite(SimplifyReshape(), text.replace("int64[2]", "int64[R]"), runs=False)
    assert done.reasons == ["its shape is computed from data"]


def test_sizes_that_are_copied_although_0_means_nothing_to_copy(rewrite):
    text = f"""g (float[N, M, 8] x) => (float[A, B, C, D] y) {{
        {HEAD}  q = Concat<axis = 0>(b, t, minus, four)  y = Reshape<allowzero = 1>(x, q) }}"""

    done = rewrite(SimplifyReshape(), text, WEIGHTS)

    (node,) = (node for node in done.after.graph if node.op_type == "Reshape")
    assert node.inputs[1].const_value.numpy().tolist() == [0, 0, 2, 4]
    assert "allowzero" not in node.attributes


def test_sizes_of_zero(rewrite):
    text = """g (float[3, 0] x) => (float[0, 3] y) {
        q = Concat<axis = 0>(none, three)  y = Reshape<allowzero = 1>(x, q) }"""

    done = rewrite(SimplifyReshape(), text, {"three": np.array([3]), "none": np.array([0])})

    assert done.reasons == ["more than one size would have to be inferred"]


@pytest.mark.parametrize("opset", [11, 17])
def test_axes_of_size_1(rewrite, opset):
    head = "s = Shape(x)  b = Gather(s, zero)  t = Gather(s, one)"
    text = f"""g (float[N, M] x) => (float[A, B, C] y) {{
        {head}  q = Concat<axis = 0>(one, b, t)  y = Reshape(x, q) }}"""
    done = rewrite(SimplifyReshape(), text, {k: WEIGHTS[k] for k in ("zero", "one")}, opset=opset)
    assert done.ops[-1] == "Unsqueeze"

    text = f"""g (float[1, N, 1, M] x) => (float[A, B] y) {{
        {head}  u = Gather(s, three)  q = Concat<axis = 0>(t, u)  y = Reshape(x, q) }}"""
    weights = {"zero": WEIGHTS["zero"], "one": WEIGHTS["one"], "three": np.array([3])}
    assert rewrite(SimplifyReshape(), text, weights, opset=opset).ops[-1] == "Squeeze"


def test_an_empty_batch_still_runs(rewrite):
    """Nothing can be inferred beside an axis that may be empty: Flatten copies all sizes."""
    text = """g (float[N, M, 8] x) => (float[A, B] y) {
        s = Shape(x)  b = Gather(s, zero)  t = Gather(s, one)  n = Mul(t, eight)
        q = Concat<axis = 0>(b, n)  y = Reshape(x, q) }"""

    done = rewrite(SimplifyReshape(), text, {**WEIGHTS, "eight": np.array([8])})

    assert done.ops[-1] == "Flatten"
    assert Runner(done.after)({"x": np.zeros((0, 3, 8), "f")})["y"].shape == (0, 24)


def test_no_size_is_inferred_beside_one_that_may_be_empty(rewrite):
    text = """g (float[N, M, K, 8] x) => (float[A, B, C] y) {
        s = Shape(x)  b = Gather(s, zero)  t = Gather(s, one)  k = Gather(s, two)  n = Mul(t, k)
        q = Concat<axis = 0>(b, n, eight)  y = Reshape(x, q) }"""
    weights = {**WEIGHTS, "eight": np.array([8])}

    done = rewrite(SimplifyReshape(), text, weights, sizes={"N": 2, "M": 3, "K": 2}, runs=False)

    assert "no size beside it can be inferred" in done.reasons[0]
    inferred = text.replace("(b, n, eight)", "(b, minus, eight)")  # which the exporter wrote
    assert rewrite(SimplifyReshape(), inferred, weights, runs=False).entry.rewritten == 1
