"""MergeGathers: picks of single places."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_gathers import MergeGathers


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


X = "float[N, 3, 4] x"
MERGED = {
    "unsqueeze": ("N, 1, 4", "a = Gather<axis=1>(x, k)  y = Unsqueeze(a, p)", ["Gather"]),
    "unsqueeze from the end": (
        "N, 3, 1", "a = Gather<axis=-1>(x, k)  y = Unsqueeze(a, m)", ["Gather"],
    ),
    "squeeze": ("N, 4", "a = Gather<axis=1>(x, p)  y = Squeeze(a, p)", ["Gather"]),
    "concat": (
        "N, 2, 4", "a = Gather<axis=1>(x, p)  b = Gather<axis=-2>(x, z)  y = Concat<axis=1>(a, b)",
        ["Gather"],
    ),
    "a part of a concat": (
        "N, 5, 4",
        "n = Neg(x)  a = Gather<axis=1>(x, p)  b = Gather<axis=1>(x, z)"
        "  y = Concat<axis=1>(n, a, b)",
        ["Neg", "Gather", "Concat"],
    ),
    "two tensors in turns": (
        "N, 4, 4",
        "n = Neg(x)  a = Gather<axis=1>(x, p)  b = Gather<axis=1>(x, z)  c = Gather<axis=1>(n, z)"
        "  d = Gather<axis=1>(n, p)  y = Concat<axis=1>(a, b, c, d)",
        ["Neg", "Gather", "Gather", "Concat"],
    ),
    "gather-gather": ("4", "a = Gather(x, l)  y = Gather(a, k)", ["GatherND"]),
    "two of one": (
        "4", "a = Gather(x, l)  b = Gather(a, k)  c = Gather<axis=0>(a, k2)  y = Sub(b, c)",
        ["GatherND", "GatherND", "Sub"],
    ),
}  # fmt: skip
WEIGHTS = {
    "k": np.int64(1), "k2": np.int64(2), "l": np.int64(-1), "p": i(1), "z": i(0), "m": i(2),
}  # fmt: skip


def used(body):
    return {n: w for n, w in WEIGHTS.items() if f", {n})" in body}


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", MERGED)
def test_picks_are_merged(rewrite, case, dtype):
    shape, body, ops = MERGED[case]

    text = f"g ({X}) => (float[{shape}] y) {{ {body} }}".replace("float", dtype)

    assert rewrite(MergeGathers(), text, used(body)).ops == ops


KEPT = {
    "another axis": ("1, N, 4", "a = Gather<axis=1>(x, k)  y = Unsqueeze(a, z)", "", None),
    "an axis beside that of the place": (
        "N, 1, 1, 4", "a = Gather<axis=1>(x, p)  y = Unsqueeze(a, p)", "", None,
    ),
    "several places": ("N, 1, 2, 4", "a = Gather<axis=1>(x, q)  y = Unsqueeze(a, p)", "", None),
    "read elsewhere": (
        "N, 1, 4", "a = Gather<axis=1>(x, k)  y = Unsqueeze(a, p)", ", float[N, 4] a", None,
    ),
    "put together along another axis": (
        "N, 1, 8", "a = Gather<axis=1>(x, p)  b = Gather<axis=1>(x, z)  y = Concat<axis=2>(a, b)",
        "", None,
    ),
    "other tensors": (
        "N, 2, 4",
        "n = Neg(x)  a = Gather<axis=1>(x, p)  b = Gather<axis=1>(n, z)"
        "  y = Concat<axis=1>(a, b)",
        "", None,
    ),
    "gathers along other axes": (
        "N", "a = Gather<axis=1>(x, k)  y = Gather<axis=1>(a, k2)", "", None,
    ),
    "a slice that is read too": (
        "4",
        "a = Gather(x, l)  b = Gather(a, k)  c = ReduceMax<axes=[0], keepdims=0>(a)"
        "  y = Sub(b, c)",
        "", "the result of the first Gather is read elsewhere too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_differs_stays(rewrite, case):
    shape, body, more, why = KEPT[case]
    weights = used(body) | ({"q": i(1, 2)} if ", q)" in body else {})

    done = rewrite(MergeGathers(), f"g ({X}) => (float[{shape}] y{more}) {{ {body} }}", weights)

    assert not done.entry.changed
    assert done.reasons == ([] if why is None else [why])


def test_old_opsets_and_computed_places_stay(rewrite):
    body = "a = Gather(x, l)  y = Gather(a, k)"
    text = f"g ({X}) => (float[4] y) {{ {body} }}"
    weights = {"k": np.int64(1), "l": np.int64(0)}
    assert not rewrite(MergeGathers(), text, weights, opset=10).entry.changed

    text = f"g ({X}, int64 l) => (float[4] y) {{ {body} }}"
    assert not rewrite(MergeGathers(), text, {"k": np.int64(1)}, runs=False).entry.changed


def test_axes_are_attributes_in_old_opsets(rewrite):
    text = f"""g ({X}) => (float[N, 1, 4] y)
    {{ a = Gather<axis=1>(x, k)  y = Unsqueeze<axes=[1]>(a) }}"""

    assert rewrite(MergeGathers(), text, {"k": np.int64(1)}, opset=9).ops == ["Gather"]


def test_sizes_of_a_shape_inside_a_branch(rewrite):
    text = f"""g ({X}, bool c) => (int64[R] y) {{
    y = If (c) <
        then_branch = t () => (int64[R] u) {{
            s = Shape(x)  a = Gather(s, k)  b = Gather(s, k2)
            d = Unsqueeze(a, z)  e = Unsqueeze(b, z)  u = Concat<axis=0>(d, e) }},
        else_branch = e () => (int64[R] u) {{ u = Shape(x) }}
    > }}"""
    weights = {name: WEIGHTS[name] for name in ("k", "k2", "z")}

    assert rewrite(MergeGathers(), text, weights).ops == ["If", "Shape", "Gather", "Shape"]
