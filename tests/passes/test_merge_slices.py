"""MergeSlices: a slice of a slice, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx_passes._slices import Cut
from onnxslim_rx_passes.merge_slices import MergeSlices, _composed

FAR = 2**63 - 1
STARTS = st.integers(0, 8)
ENDS = st.one_of(st.integers(-8, 12), st.just(FAR))


@given(STARTS, ENDS, STARTS, ENDS, st.integers(0, 7), st.booleans())
def test_composition_is_that_of_numpy(a, b, c, d, size, is_known):
    x = np.arange(size)
    known = size if is_known else None

    merged = _composed(Cut(0, a, b, 1, known), Cut(0, c, d, 1, None))

    if merged is not None:
        np.testing.assert_array_equal(x[merged.start : merged.end], x[a:b][c:d])
    else:
        assert not is_known  # a known size settles it


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


def weights(first, second):
    return {f"{n}{k}": i(*v) for k, bounds in enumerate((first, second)) for n, v in bounds.items()}


BODY = "a = Slice(x, s0, e0, ax0)  y = Slice(a, s1, e1, ax1)"


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_different_axes(rewrite, dtype):
    text = f"g ({dtype}[N, 6, 8] x) => ({dtype}[N, P, Q] y) {{ {BODY} }}"

    done = rewrite(
        MergeSlices(),
        text,
        weights({"s": [1], "e": [5], "ax": [2]}, {"s": [0], "e": [-1], "ax": [-2]}),
    )

    assert done.ops == ["Slice"]
    assert [v.const_value.numpy().tolist() for v in done.after.graph[0].inputs[1:]] == [
        [0, 1],
        [-1, 5],
        [1, 2],
    ]


def test_the_same_axis_and_steps_on_another(rewrite):
    body = "a = Slice(x, s0, e0, ax0, st)  y = Slice(a, s1, e1, ax1)"
    text = f"g (float[N, 6, 8] x) => (float[N, P, Q] y) {{ {body} }}"
    bounds = weights({"s": [1, 5], "e": [7, 0], "ax": [2, 1]}, {"s": [2], "e": [9], "ax": [2]})

    assert rewrite(MergeSlices(), text, {**bounds, "st": i(1, -2)}).ops == ["Slice"]


KEPT = {
    "steps on the same axis": (
        "a = Slice(x, s0, e0, ax0, st)  y = Slice(a, s1, e1, ax0)",
        {"s0": i(0), "e0": i(6), "ax0": i(1), "st": i(2), "s1": i(1), "e1": i(2)},
        "what is left of an axis depends on its size",
    ),
    "from the end of an open axis": (
        "a = Slice(x, s0, e0, ax0)  y = Slice(a, s1, e1, ax0)",
        {"s0": i(0), "e0": i(-1), "ax0": i(0), "s1": i(0), "e1": i(1)},
        "what is left of an axis depends on its size",
    ),
    "computed bounds": (
        "t = Shape<start=0, end=1>(x) h = Div(t, ax0)  a = Slice(x, z, h, z)"
        "  y = Slice(a, z, ax0, ax0)",
        {"z": i(0), "ax0": i(1)}, "the bounds are computed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_known_stays(rewrite, case):
    body, bounds, why = KEPT[case]

    done = rewrite(
        MergeSlices(), f"g (float[N, 6, 8] x) => (float[P, Q, R] y) {{ {body} }}", bounds
    )

    assert not done.entry.changed
    assert done.reasons == [why]


def test_a_first_slice_that_others_read_and_old_opsets_stay(rewrite):
    bounds = weights({"s": [1], "e": [5], "ax": [2]}, {"s": [0], "e": [-1], "ax": [1]})
    text = f"g (float[N, 6, 8] x) => (float[N, P, Q] y, float[N, 6, R] a) {{ {BODY} }}"
    assert not rewrite(MergeSlices(), text, bounds).entry.changed

    text = """g (float[N, 6, 8] x) => (float[N, P, Q] y)
    { a = Slice<starts=[1], ends=[3], axes=[1]>(x)
      y = Slice<starts=[1], ends=[3], axes=[2]>(a) }"""
    assert not rewrite(MergeSlices(), text, opset=9).entry.changed


def test_inside_a_branch(rewrite):
    bounds = weights({"s": [1], "e": [5], "ax": [1]}, {"s": [1], "e": [-1], "ax": [1]})
    text = f"""g (float[N, 8] x, bool c) => (float[N, P] y) {{
    y = If (c) <
        then_branch = t () => (float[N, P] y) {{ {BODY} }},
        else_branch = e () => (float[N, P] u) {{ u = Neg(x) }}
    > }}""".replace("y = Slice(a", "z = Slice(a").replace(
        "(float[N, P] y) { a", "(float[N, P] z) { a"
    )

    assert rewrite(MergeSlices(), text, bounds).ops == ["If", "Slice", "Neg"]
