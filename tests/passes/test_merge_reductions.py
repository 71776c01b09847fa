"""MergeReductions: reductions in a row, and the axes that they keep or drop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim_rx_passes.merge_reductions import MergeReductions

CHAINS = [
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum",
]  # fmt: skip
# a sum of 20 numbers in another order: 20 * 2^-24 relative to that of their sizes
TOLERANCE = 4e-6


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize("op", CHAINS)
@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("axes", [((3,), (2,)), ((1,), (0, -1)), ((0, 2), (1,))])
def test_reductions_of_several_axes(rewrite, op, keeps, axes):
    first, second = (f"{op}<axes=[{', '.join(map(str, a))}], keepdims={keeps}>" for a in axes)
    left = 4 if keeps else 4 - len(axes[0]) - len(axes[1])
    shape = ", ".join("PQRS"[:left])
    text = f"g (float[N, 3, 4, 5] x) => (float[{shape}] y) {{ a = {first}(x)  y = {second}(a) }}"
    weights = {}
    if op == "ReduceSum":
        text = text.replace(f"axes=[{', '.join(map(str, axes[0]))}], ", "", 1).replace(
            "(x)", "(x, s)"
        )
        text = text.replace(f"axes=[{', '.join(map(str, axes[1]))}], ", "", 1).replace(
            "(a)", "(a, t)"
        )
        weights = {"s": i(*axes[0]), "t": i(*axes[1])}

    done = rewrite(MergeReductions(), text, weights, tolerance=TOLERANCE)

    assert done.ops == [op]


def test_all_axes_and_inputs_of_opset_18(rewrite):
    text = """g (float16[N, 3, 4] x) => (float16 y)
    { a = ReduceMax<keepdims=0>(x, s)  y = ReduceMax<keepdims=0>(a) }"""

    done = rewrite(MergeReductions(), text, {"s": i(1)}, opset=18)

    assert done.after.graph[0].inputs[1].const_value.numpy().tolist() == [0, 1, 2]


KEPT = {
    "squares": ("ReduceSumSquare", "float", 0, 0, []),
    "means of integers": (
        "ReduceMean",
        "int32",
        0,
        0,
        ["results are rounded in between, or the type is not known"],
    ),
    "one keeps, one drops": (
        "ReduceMax",
        "float",
        1,
        0,
        ["one keeps the axes, the other does not"],
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_differs_stays(rewrite, case):
    op, dtype, one, two, reasons = KEPT[case]
    shape = "N, 1" if one else "N"
    body = f"a = {op}<axes=[2], keepdims={one}>(x)  y = {op}<axes=[1], keepdims={two}>(a)"

    text = f"g ({dtype}[N, 3, 4] x) => ({dtype}[{shape}] y) {{ {body} }}"
    done = rewrite(MergeReductions(), text, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert done.reasons == reasons


SHAPED = {
    "unsqueeze": ("0", "y = Unsqueeze(a, t)", {"t": i(1)}, "N, 1, 4"),
    "unsqueeze from the end": ("0", "y = Unsqueeze(a, t)", {"t": i(-2)}, "N, 1, 4"),
    "reshape to keep": ("0", "y = Reshape(a, t)", {"t": i(0, 1, 4)}, "N, 1, 4"),
    "squeeze": ("1", "y = Squeeze(a, t)", {"t": i(1)}, "N, 4"),
    "squeeze of all there are": ("1", "b = Reshape(a, s)  y = Neg(b)", {"s": i(0, 4)}, "N, 4"),
    "flatten": ("1", "y = Flatten(a)", {}, "N, 4"),
}


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSumSquare", "ArgMax"])
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("case", SHAPED)
def test_the_other_keepdims(rewrite, case, op, opset):
    keeps, body, weights, shape = SHAPED[case]
    dtype = "int64" if op == "ArgMax" else "float"
    if op == "ArgMax":
        first = f"ArgMax<axis=1, keepdims={keeps}>(x)"
    elif opset == 17:
        first = f"{op}<axes=[1], keepdims={keeps}>(x)"
    else:
        first, weights = f"{op}<keepdims={keeps}>(x, ax)", {**weights, "ax": i(1)}

    text = f"g (float[N, 3, 4] x) => ({dtype}[{shape}] y) {{ a = {first}  {body} }}"
    done = rewrite(MergeReductions(), text, weights, opset=opset, tolerance=TOLERANCE)

    assert done.ops == [op, *(["Neg"] if "Neg" in body else [])]


@pytest.mark.parametrize("axis", [0, 2])
def test_other_axes_stay(rewrite, axis):
    text = """g (float[N, 3, 4] x) => (float[A, B, C] y)
    { a = ReduceMax<axes=[1], keepdims=0>(x)  y = Unsqueeze(a, t) }"""

    assert not rewrite(MergeReductions(), text, {"t": i(axis)}).entry.changed


def test_what_others_read_stays(rewrite):
    for body in ("y = Squeeze(a, t)", "y = ReduceMax<axes=[0]>(a)"):
        shape = "N, 4" if "Squeeze" in body else "1, 1, 4"
        text = f"""g (float[N, 3, 4] x) => (float[{shape}] y, float[N, 1, 4] a)
        {{ a = ReduceMax<axes=[1]>(x)  {body} }}"""

        weights = {"t": i(1)} if "Squeeze" in body else {}
        assert not rewrite(MergeReductions(), text, weights).entry.changed


def test_no_axes_at_all(rewrite):
    text = """g (float[N, 3] x) => (float[N, 3] y)
    { a = ReduceMax<noop_with_empty_axes=1>(x)  y = ReduceMax<noop_with_empty_axes=1>(a) }"""

    assert not rewrite(MergeReductions(), text, opset=18).entry.changed


def test_half_precision_inside_a_branch(rewrite):
    text = """g (float16[N, 3, 4] x, bool c) => (float16[N] y) {
    y = If (c) <
        then_branch = t () => (float16[N] u)
            { a = ReduceMax<axes=[2], keepdims=0>(x)  u = ReduceMax<axes=[1], keepdims=0>(a) },
        else_branch = e () => (float16[N] u) { u = ReduceMin<axes=[1, 2], keepdims=0>(x) }
    > }"""

    assert rewrite(MergeReductions(), text).ops == ["If", "ReduceMax", "ReduceMin"]


def test_the_pairs_of_reductions_are_all_there():
    assert sorted(CHAINS) == sorted(op for op in MergeReductions.roots if op.startswith("Reduce"))
    assert not list(itertools.filterfalse(MergeReductions.roots.__contains__, CHAINS))
