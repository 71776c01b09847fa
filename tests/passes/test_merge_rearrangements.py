"""MergeRearrangements: each element goes where it went before."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_rearrangements import MergeRearrangements

FAR = np.array([-(2**63) + 1])
TURN = """r = Reshape(v, q)  s = Slice(r, e, f, z, e)  t = Transpose<perm = [1, 0]>(s)
    y = Reshape(t, e)"""
WEIGHTS = {
    "q": np.array([-1, 2]),
    "e": np.array([-1]),
    "f": FAR,
    "z": np.array([0]),
    "k": np.array([0, 0]),
}


def used(text):
    return {name: array for name, array in WEIGHTS.items() if f"{name})" in text.replace(",", ")")}


@pytest.mark.parametrize("dtype", ["int64", "float16", "float"])
def test_a_run_becomes_one_gather(rewrite, dtype):
    done = rewrite(
        MergeRearrangements(), f"g ({dtype}[8] v) => ({dtype}[8] y) {{ {TURN} }}", used(TURN)
    )

    assert done.ops == ["Gather"]


def test_a_concat_is_put_together_in_the_new_order(rewrite):
    body = "v = Concat<axis = 0>(a, b, c, d, k, k)  " + TURN
    text = f"g (int64[1] a, int64[1] b, int64[1] c, int64[1] d) => (int64[8] y) {{ {body} }}"

    done = rewrite(MergeRearrangements(), text, used(body))

    assert done.ops == ["Concat"]
    names = [value.name for value in done.after.graph[0].inputs if value.is_graph_input()]
    assert names == ["c", "a", "d", "b"]


def test_a_gather_from_a_concat(rewrite):
    text = """g (int64[1] a, int64[1] b) => (int64[3] y)
    { v = Concat<axis = 0>(a, b)  y = Gather(v, i) }"""

    assert rewrite(MergeRearrangements(), text, {"i": np.array([1, 1, -2])}).ops == ["Concat"]


def test_a_run_back_to_the_same_order_goes(rewrite):
    text = """g (float[6] x) => (float[6] y)
    { v = Neg(x)  r = Reshape(v, q)  s = Transpose(r)  t = Transpose(s)  u = Reshape(t, e)
      y = Exp(u) }"""

    assert rewrite(MergeRearrangements(), text, used(text)).ops == ["Neg", "Exp"]


@pytest.mark.parametrize("seed", range(8))
def test_slices_of_all_kinds(rewrite, seed):
    chosen = np.random.default_rng(seed)
    step = int(chosen.choice([-2, -1, 1, 2, 3]))
    start, end = (int(number) for number in chosen.integers(-7, 8, 2))
    text = """g (float[12] v) => (float[K] y)
    { r = Reshape(v, q)  s = Slice(r, a, b, c, d)  y = Reshape(s, e) }"""
    weights = {
        "q": np.array([2, 6]),
        "a": np.array([start]),
        "b": np.array([end]),
        "c": np.array([1]),
        "d": np.array([step]),
        "e": np.array([-1]),
    }

    done = rewrite(MergeRearrangements(), text, weights)

    empty = not len(range(*slice(start, end, step).indices(6)))
    assert done.ops == ["Gather"] or empty


KEPT = {
    "the length is not known": ("float[N] v", "r = Reshape(v, q)  y = Reshape(r, e)"),
    "others read what is in between": (
        "float[4] v",
        "r = Reshape(v, q)  t = Transpose(r)  w = Reshape(t, e)  n = Flatten<axis=0>(r) "
        " m = Reshape(n, e)  y = Concat<axis = 0>(w, m)",
    ),
    "a long vector": ("float[80] v", "r = Reshape(v, q)  t = Transpose(r)  y = Reshape(t, e)"),
    "a matrix": ("float[2, 2] v", "t = Transpose(v)  y = Reshape(t, e)"),
    "one node": ("float[4] v", "y = Gather(v, z)"),
    "a pair that is moved": (
        "int64[2] v",
        "a = Neg(v)  c = Concat<axis = 0>(a, k)  y = Gather(c, z)",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_known_or_no_shorter_stays(rewrite, case):
    head, body = KEPT[case]
    dtype = head.split("[")[0]
    text = f"g ({head}) => ({dtype}[K] y) {{ {body} }}"
    sizes = {"N": 4} if "N" in head else None

    done = rewrite(MergeRearrangements(), text, used(body), sizes=sizes, runs="N" not in head)

    assert not done.entry.changed


def test_positions_that_are_computed(rewrite):
    text = """g (float[4] v, int64[2] i) => (float[4] y)
    { r = Reshape(v, q)  t = Gather(r, i)  y = Reshape(t, e) }"""

    done = rewrite(MergeRearrangements(), text, used(text), runs=False)

    assert not done.entry.changed
    assert done.reasons == ["where its elements go is not known"]


def test_in_a_branch(rewrite):
    text = f"""g (int64[8] v, bool c) => (int64[8] o) {{
      o = If (c) <then_branch = t () => (int64[8] y) {{ {TURN} }},
                  else_branch = f () => (int64[8] p) {{ p = Neg(v) }}> }}"""

    assert sorted(rewrite(MergeRearrangements(), text, used(TURN)).ops) == ["Gather", "If", "Neg"]
