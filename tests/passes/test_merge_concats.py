"""MergeConcats: concatenations along one axis."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_concats import MergeConcats

IN = "float[N, 3] x, float[N, 3] z"
MERGED = {
    "first": ("a = Concat<axis=1>(x, z)  y = Concat<axis=1>(a, z)", "N, 9"),
    "last, and counted from the end": (
        "a = Concat<axis=-1>(x, z)  y = Concat<axis=1>(z, a)", "N, 9",
    ),
    "both": (
        "a = Concat<axis=1>(x, z)  b = Concat<axis=1>(z, x)  y = Concat<axis=1>(a, b)", "N, 12",
    ),
    "three deep": (
        "a = Concat<axis=1>(x, z)  b = Concat<axis=1>(a, x)  y = Concat<axis=1>(z, b)", "N, 12",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", MERGED)
def test_chains_become_one(rewrite, case, dtype):
    body, shape = MERGED[case]
    text = f"g ({IN}) => (float[{shape}] y) {{ {body} }}".replace("float", dtype)

    assert rewrite(MergeConcats(), text).ops == ["Concat"]


KEPT = {
    "another axis": (
        "a = Concat<axis=0>(x, z)  b = Concat<axis=0>(z, x)  y = Concat<axis=1>(a, b)",
        "P, 6",
        "",
    ),
    "read elsewhere": (
        "a = Concat<axis=1>(x, z)  y = Concat<axis=1>(a, z)",
        "N, 9",
        ", float[N, 6] a",
    ),
    "twice": ("a = Concat<axis=1>(x, z)  y = Concat<axis=1>(a, a)", "N, 12", ""),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_stay(rewrite, case):
    body, shape, more = KEPT[case]

    done = rewrite(MergeConcats(), f"g ({IN}) => (float[{shape}] y{more}) {{ {body} }}")

    assert not done.entry.changed


def test_empty_parts_go(rewrite):
    text = "g (float[N, 3] x) => (float[N, 3] y) { a = Concat<axis=0>(e, x, e)  y = Neg(a) }"

    done = rewrite(MergeConcats(), text, {"e": np.zeros((0, 3), "f")})

    assert [value.name for value in done.after.graph[0].inputs] == ["x"]
    assert not done.after.graph.initializers


def test_all_parts_empty(rewrite):
    text = "g (float[0, 3] x) => (float[0, 3] y) { y = Concat<axis=0>(x, x) }"

    done = rewrite(MergeConcats(), text)

    assert len(done.after.graph[0].inputs) == 1


def test_inside_a_branch_but_not_across_its_border(rewrite):
    text = f"""g ({IN}, bool c) => (float[N, P] y) {{
    o = Concat<axis=1>(x, z)
    y = If (c) <
        then_branch = t () => (float[N, P] u)
            {{ a = Concat<axis=1>(x, z)  u = Concat<axis=1>(a, z) }},
        else_branch = e () => (float[N, P] u) {{ u = Concat<axis=1>(o, z) }}
    > }}"""

    assert rewrite(MergeConcats(), text).ops == ["Concat", "If", "Concat", "Concat"]
