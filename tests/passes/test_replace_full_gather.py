"""ReplaceFullGather: only where each place is picked once, in order."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.replace_full_gather import ReplaceFullGather

COUNTERS = """s = Shape(x)  b = Gather(s, zero)  t = Gather(s, one)
    i = Range(zero, b, one)  j = Range(zero, t, one)"""
WEIGHTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "two": np.int64(2),
    "a0": np.array([0]),
    "a2": np.array([2]),
    "a12": np.array([1, 2]),
    "a012": np.array([0, 1, 2]),
    "a123": np.array([1, 2, 3]),
    "last": np.array([-1]),
}
TABLE = """u = Unsqueeze(i, a123)  v = Unsqueeze(j, a012)  m = Max(u, v)  k = Shape(m)
    e = Expand(u, k)  f = Expand(v, k)  p = Unsqueeze(e, last)  q = Unsqueeze(f, last)
    n = Concat<axis = -1>(p, q)"""
FLAT = """u = Unsqueeze(i, a12)  v = Unsqueeze(j, a0)  w = Mul(u, t)  n = Add(w, v)"""


def run(rewrite, body, *, head="float[N, M] x", result="float[A, B, C, D]", **options):
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    weights = {name: array for name, array in WEIGHTS.items() if name in words}
    text = f"g ({head}) => ({result} y) {{ {body} }}"
    return rewrite(ReplaceFullGather(), text, weights, **options)


@pytest.mark.parametrize("dtype", ["float", "float16", "bool"])
def test_a_table_of_indices(rewrite, dtype):
    body = f"{COUNTERS}  {TABLE}  y = GatherND(x, n)"

    done = run(rewrite, body, head=f"{dtype}[N, M] x", result=f"{dtype}[A, B, C, D]")

    assert "GatherND" not in done.ops
    assert done.ops[-1] == "Unsqueeze"


def test_flat_indices(rewrite):
    body = f"{COUNTERS}  {FLAT}  r = Flatten<axis = 2>(x)  y = Gather(r, n)"

    done = run(rewrite, body, result="float[A, B, C, D]")

    assert done.ops[-1] == "Unsqueeze"
    assert done.after.graph[-1].inputs[0].name == "x"


def test_one_axis(rewrite):
    body = f"{COUNTERS}  n = Unsqueeze(i, a0)  y = Gather(x, n)"

    assert run(rewrite, body, result="float[A, B, C]").ops[-1] == "Unsqueeze"


def test_all_of_it_as_it_is(rewrite):
    body = f"{COUNTERS}  c = Exp(x)  n = Gather(c, i)  y = Neg(n)"

    assert run(rewrite, body, result="float[A, B]").ops[-2:] == ["Exp", "Neg"]


KEPT = {
    "the other order": f"{COUNTERS}  {TABLE.replace('(p, q)', '(q, p)')}  y = GatherND(x, n)",
    "one axis twice": f"{COUNTERS}  {TABLE.replace('(p, q)', '(p, p)')}  y = GatherND(x, n)",
    "steps of two": f"{COUNTERS}  h = Mul(i, two)  n = Unsqueeze(h, a0)  y = Gather(x, n)",
    "an offset": f"{COUNTERS}  h = Range(one, b, one)  n = Unsqueeze(h, a0)  y = Gather(x, n)",
    "not all": f"{COUNTERS}  h = Range(zero, two, one)  n = Unsqueeze(h, a0)  y = Gather(x, n)",
    "another axis": f"{COUNTERS}  n = Unsqueeze(j, a0)  y = Gather<axis = 1>(x, n)",
    "columns first": (
        f"{COUNTERS}  u = Unsqueeze(i, a0)  v = Unsqueeze(j, a12)  w = Mul(v, b)  n = Add(w, u)"
        "  r = Flatten<axis = 2>(x)  y = Gather(r, n)"
    ),
}


SQUARE = {
    "the other order": "n = Concat<axis = -1>(q, p)",
    "one axis twice": "n = Concat<axis = -1>(p, p)",
    "from the second on": "w = Sub(q, o)  n = Concat<axis = -1>(p, w)",
}


@pytest.mark.parametrize("case", SQUARE)
def test_other_places_of_a_square_stay(rewrite, case):
    table = TABLE.replace("n = Concat<axis = -1>(p, q)", SQUARE[case])
    weights = {**WEIGHTS, "o": np.array(1)}
    body = f"{COUNTERS}  {table}  y = GatherND(x, n)"
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    weights = {name: array for name, array in weights.items() if name in words}
    text = f"g (float[N, N] x) => (float[A, B, C, D] y) {{ {body} }}"

    assert not rewrite(ReplaceFullGather(), text, weights, sizes={"N": 3}).entry.changed


@pytest.mark.parametrize("case", KEPT)
def test_other_places_stay(rewrite, case):
    done = run(rewrite, KEPT[case], result="float[?]", sizes={"N": 3, "M": 3}, runs=False)

    assert not done.entry.changed


def test_counters_that_broadcast_are_not_taken_for_longer_ones(rewrite):
    body = """s = Shape(x)  b = Gather(s, zero)  i = Range(zero, b, one)  c = Shape(w)
    n = Expand(i, c)  y = Gather(x, n)"""

    done = run(rewrite, body, head="float[N] x, float[M] w", result="float[A]", runs=False)

    assert not done.entry.changed


def test_in_a_branch(rewrite):
    text = f"""g (float[N, M] x, bool c) => (float[A, B, C] o) {{ {COUNTERS}
      o = If (c) <then_branch = t () => (float[A, B, C] y) {{
          n = Unsqueeze(i, a0)  y = Gather(x, n) }},
        else_branch = f () => (float[A, B, C] z) {{ z = Unsqueeze(x, a0) }}> }}"""
    weights = {name: WEIGHTS[name] for name in ("zero", "one", "a0")}

    assert rewrite(ReplaceFullGather(), text, weights).ops.count("Unsqueeze") >= 2
