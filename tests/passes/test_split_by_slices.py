"""SplitBySlices: neighbouring slices that cover an axis."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.split_by_slices import SplitBySlices


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


BOUNDS = {"p0": i(0), "p3": i(3), "p5": i(5), "p8": i(8), "ax": i(1), "end": i(2**63 - 1)}


def used(body):
    return {name: w for name, w in BOUNDS.items() if f" {name}," in body or f" {name})" in body}


TWO = "a = Slice(x, p0, p3, ax)  b = Slice(x, p3, p8, ax)  c = Relu(a)  d = Neg(b)"
CUT = {
    "two": (TWO, ["Split", "Relu", "Neg"]),
    "in another order, to the end": (
        "b = Slice(x, p3, end, ax)  d = Neg(b)  a = Slice(x, p0, p3, ax)  c = Relu(a)",
        ["Split", "Neg", "Relu"],
    ),
    "three": (
        "a = Slice(x, p0, p3, ax)  b = Slice(x, p3, p5, ax)  c = Slice(x, p5, p8, ax)"
        "  d = Concat<axis=1>(c, b, a)",
        ["Split", "Concat"],
    ),
    "of a computed tensor": (
        "q = Exp(x)  r = Exp(q)  a = Slice(q, p0, p3, ax)  b = Slice(q, p3, p8, ax)"
        "  c = Relu(a)  d = Neg(b)",
        ["Exp", "Split", "Exp", "Relu", "Neg"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", CUT)
def test_one_split(rewrite, case, dtype, opset):
    body, ops = CUT[case]
    outputs = f"{dtype}[N, Q] d" if case == "three" else f"{dtype}[N, P] c, {dtype}[N, Q] d"
    text = f"g ({dtype}[N, 8] x) => ({outputs}) {{ {body} }}"

    done = rewrite(SplitBySlices(), text, used(body), opset=opset)

    assert done.ops == ops


KEPT = {
    "a gap": ("a = Slice(x, p0, p3, ax)  b = Slice(x, p5, p8, ax)", []),
    "an overlap": ("a = Slice(x, p0, p5, ax)  b = Slice(x, p3, p8, ax)", []),
    "a rest": (
        "a = Slice(x, p0, p3, ax)  b = Slice(x, p3, p5, ax)",
        ["the slices do not cover the axis"],
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_no_partition_stays(rewrite, case):
    body, reasons = KEPT[case]
    text = f"g (float[N, 8] x) => (float[A, B] a, float[C, D] b) {{ {body} }}"

    done = rewrite(SplitBySlices(), text, used(body), sizes={"N": 4})

    assert not done.entry.changed
    assert done.reasons == reasons


def test_outputs_keep_their_names(rewrite):
    text = f"g (float[N, 8] x) => (float[N, P] a, float[N, Q] b) {{ {TWO.partition('  c =')[0]} }}"

    done = rewrite(SplitBySlices(), text, used(TWO))

    assert done.ops == ["Split"]
    assert [value.name for value in done.after.graph[0].outputs] == ["a", "b"]


def test_pieces_of_different_axes_stay(rewrite):
    text = """g (float[8, 8] x) => (float[8, 3] a, float[5, 8] b)
    { a = Slice(x, p0, p3, ax)  b = Slice(x, p3, p8, p0) }"""

    assert not rewrite(SplitBySlices(), text, used(text)).entry.changed


def test_an_open_size_stays(rewrite):
    text = f"g (float[N, M] x) => (float[N, A] c, float[N, B] d) {{ {TWO} }}"

    assert not rewrite(SplitBySlices(), text, used(TWO)).entry.changed


def test_inside_a_branch_and_a_function(rewrite):
    text = f"""g (float[N, 8] x, bool c) => (float[N, P] y) {{
    r = local.f(x)
    y = If (c) <
        then_branch = t () => (float[N, P] a) {{ {TWO.partition("  c =")[0]} z = Exp(b) }},
        else_branch = e () => (float[N, P] u) {{ u = Neg(r) }}
    > }}"""
    function = """<domain: "local", opset_import: ["": 17]> f (u) => (w)
    { p = Constant<value_ints = [0]>()  q = Constant<value_ints = [3]>()
      r = Constant<value_ints = [8]>()  t = Constant<value_ints = [1]>()
      v = Slice(u, p, q, t)  o = Slice(u, q, r, t)  w = Concat<axis = 1>(o, v) }"""

    done = rewrite(SplitBySlices(), text, used(TWO), functions=function)

    assert done.ops.count("Split") == 1  # nothing is known of sizes in a function
    assert done.ops.count("Slice") == 2
