"""SimplifyVectors: vectors of sizes put together again."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.simplify_vectors import SimplifyVectors


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


MADE = "v = Concat<axis=0>(a, k, b)"
SIMPLER = {
    "another order": ("y = Gather(v, o)", {"o": i(3, 1, 0)}, "3", ["Concat"]),
    "one part": ("w = Gather(v, o)  y = Neg(w)", {"o": i(-1)}, "1", ["Neg"]),
    "the middle": (
        "w = Slice(v, o, p)  y = Neg(w)", {"o": i(1), "p": i(4)}, "3", ["Concat", "Neg"],
    ),
    "constants alone": ("w = Slice(v, o, p)  y = Neg(w)", {"o": i(1), "p": i(3)}, "2", ["Neg"]),
    "where": (
        "y = Where(c, v, q)", {"c": np.array([True, False, False, True]), "q": i(5, 6, 7, 8)},
        "4", ["Concat"],
    ),
    "where of two": (
        "w = Concat<axis=0>(b, q, a)  y = Where(c, v, w)",
        {"c": np.array([True, False, True, False]), "q": i(6, 7)}, "4", ["Concat"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("case", SIMPLER)
def test_parts_come_from_where_they_are_made(rewrite, case, dtype):
    body, weights, shape, ops = SIMPLER[case]
    constants = {"k": i(2, -1), **weights}
    if dtype == "int32":
        cast = {"k", "q"}
        constants = {n: w.astype("i4") if n in cast else w for n, w in constants.items()}
    text = f"g ({dtype}[1] a, {dtype}[1] b) => ({dtype}[{shape}] y) {{ {MADE}  {body} }}"

    done = rewrite(SimplifyVectors(), text, constants)

    live = {v.name for node in done.after.graph for v in node.inputs}
    made = [n for n in done.after.graph if n.outputs[0].name in {*live, "y"}]
    assert [node.op_type for node in made] == ops


KEPT = {
    "half a part": (
        "y = Gather(v, o)", {"o": i(4, 0)}, "2", "", "parts of the vector are not taken whole",
    ),
    "parts turned round": (
        "y = Gather(v, o)", {"o": i(4, 3)}, "2", "", "parts of the vector are not taken whole",
    ),
    "read elsewhere": ("y = Gather(v, o)", {"o": i(3, 4, 0)}, "3", ", int64[5] v", None),
    "returned": (
        "y = Gather(v, o)", {"o": i(1)}, "1", "", "the graph returns it under a name of its own",
    ),
    "a matrix": ("y = Gather(v, o)", {"o": np.array([[0, 1]])}, "1, 2", "", None),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_must_stay(rewrite, case):
    body, weights, shape, more, why = KEPT[case]
    text = f"""g (int64[1] a, int64[2] b) => (int64[{shape}] y{more})
    {{ {MADE}  {body} }}"""

    done = rewrite(SimplifyVectors(), text, {"k": i(2, -1), **weights})

    assert not done.entry.changed
    assert done.reasons == ([] if why is None else [why])


def test_floats_stay(rewrite):
    text = """g (float[1] a, float[1] b) => (float[1] y)
    { v = Concat<axis=0>(a, b)  w = Gather(v, o)  y = Neg(w) }"""

    assert not rewrite(SimplifyVectors(), text, {"o": i(1)}).entry.changed


def test_sizes_inside_a_branch(rewrite):
    text = """g (float[N, M] x, bool c) => (int64[R] y) {
    y = If (c) <
        then_branch = t () => (int64[R] u) {
            s = Shape(x)  a = Slice(s, z, o)  b = Slice(s, o, e)  v = Concat<axis=0>(a, m, b)
            u = Gather(v, p) },
        else_branch = e () => (int64[R] u) { u = Shape(x) }
    > }"""
    weights = {"z": i(0), "o": i(1), "e": i(2), "m": i(-1), "p": i(2, 0)}

    done = rewrite(SimplifyVectors(), text, weights)

    assert done.ops == ["If", "Shape", "Slice", "Slice", "Concat", "Shape"]
