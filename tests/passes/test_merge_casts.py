"""MergeCasts: only through types that hold all numbers."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.merge_casts import MergeCasts, holds_all

T = ir.DataType
TYPES = [
    T.BOOL, T.INT8, T.UINT8, T.INT16, T.UINT16, T.INT32, T.UINT32, T.INT64, T.UINT64, T.FLOAT16,
    T.FLOAT, T.DOUBLE,
]  # fmt: skip
TEXTS = {
    "BOOL": "bool", "FLOAT": "float", "DOUBLE": "double", "FLOAT16": "float16",
}  # fmt: skip


def extremes(dtype):
    """Numbers of a type that others may not hold."""
    kind = np.dtype(dtype.numpy())
    if kind.kind == "b":
        return np.array([False, True])
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return np.array([info.min, info.max, info.max - 1, 0, 1], dtype=kind)
    info = np.finfo(kind)
    return np.array([info.max, info.min, info.tiny, 1 + info.eps, np.inf, 0.5], dtype=kind)


@pytest.mark.parametrize(("wide", "narrow"), list(itertools.product(TYPES, TYPES)))
def test_holds_all_is_what_numpy_says_of_extremes(wide, narrow):
    numbers = extremes(narrow)
    with np.errstate(all="ignore"):
        through = numbers.astype(wide.numpy())
        right = [int(a) == int(b) if np.isfinite(a) and np.isfinite(b) else a == b
                 for a, b in zip(numbers, through, strict=True)]  # fmt: skip
        back = (through.astype(narrow.numpy()) == numbers).all()

    assert holds_all(wide, narrow) == (all(right) and bool(back))


@given(st.lists(st.sampled_from(TYPES), min_size=3, max_size=3))
def test_any_chain_computes_the_same(types):
    before, between, after = types
    if before == T.UINT16 or after == T.UINT16:  # ONNX Runtime has no kernel for some of them
        return
    x, a, y = (ir.Value(name=name) for name in "xay")
    x.type, x.shape = ir.TensorType(before), ir.Shape(["N"])
    y.type, y.shape = ir.TensorType(after), ir.Shape(["N"])
    casts = [
        ir.Node("", "Cast", [x], [ir.AttrInt64("to", between)], outputs=[a]),
        ir.Node("", "Cast", [a], [ir.AttrInt64("to", after)], outputs=[y]),
    ]
    graph = ir.Graph([x], [y], nodes=casts, opset_imports={"": 17}, name="g")
    model = ir.Model(graph, ir_version=8)

    result = PassManager([MergeCasts()], verify=None).run(model)

    numbers = extremes(before)
    if result.journal[0].changed:
        right, other = (Runner(one)({"x": numbers})["y"] for one in (model, result.model))
        np.testing.assert_array_equal(right, other)


MERGED = {
    "float through double": ("float", "float", 11, 1, ["Identity"]),
    "half through float to brain": ("float16", "bfloat16", 1, 16, ["Cast"]),
    "half through float to integers": ("float16", "int64", 1, 7, ["Cast"]),
    "wider integers and back": ("int32", "int32", 7, 6, ["Identity"]),
    "integers that wrap": ("int32", "int8", 7, 3, ["Cast"]),
    "bool through integers": ("bool", "float", 6, 1, ["Cast"]),
    "bytes through half": ("uint8", "float", 10, 1, ["Cast"]),
}


@pytest.mark.parametrize("case", MERGED)
def test_through_a_wider_type(rewrite, case):
    before, after, between, to, ops = MERGED[case]
    text = (
        f"g ({before}[N] x) => ({after}[N] y) {{ a = Cast<to={between}>(x) y = Cast<to={to}>(a) }}"
    )

    assert rewrite(MergeCasts(), text, runs=after != "bfloat16").ops == ops


KEPT = {
    "narrower floats": ("float", "float", 10, 1, "FLOAT16 does not hold all numbers of FLOAT"),
    "narrower range": ("float16", "float", 16, 1, "BFLOAT16 does not hold all numbers of FLOAT16"),
    "integers to floats": ("int64", "int64", 11, 7, "DOUBLE does not hold all numbers of INT64"),
    "sign lost": ("int32", "int64", 12, 7, "UINT32 does not hold all numbers of INT32"),
    "bool": ("float", "float", 9, 1, "BOOL does not hold all numbers of FLOAT"),
    "floats out of range": (
        "float", "int8", 11, 3, "numbers beyond the range of INT8 may come out differently",
    ),
    "integers out of range": (
        "int16", "int8", 1, 3, "numbers beyond the range of INT8 may come out differently",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_changes_numbers_stays(rewrite, case):
    before, after, between, to, why = KEPT[case]
    text = (
        f"g ({before}[N] x) => ({after}[N] y) {{ a = Cast<to={between}>(x) y = Cast<to={to}>(a) }}"
    )

    done = rewrite(MergeCasts(), text, runs=between != 16)

    assert not done.entry.changed
    assert done.reasons == [why]


def test_in_a_branch_with_the_first_read_elsewhere(rewrite):
    text = """g (float16[N] x, bool c) => (float[N] y) {
    y = If (c) <
        then_branch = t () => (float[N] u)
            { a = Cast<to=1>(x)  b = Cast<to=11>(a)  d = Cast<to=1>(b)  u = Add(a, d) },
        else_branch = e () => (float[N] u) { u = Cast<to=1>(x) }
    > }"""

    assert rewrite(MergeCasts(), text).ops == ["If", "Cast", "Add", "Cast"]


def test_the_saturation_of_a_cast_to_eight_bits_is_kept(rewrite):
    text = """g (float16[N] x) => (float8e4m3fn[N] y)
    { a = Cast<to=1>(x)  y = Cast<to=17, saturate=0>(a) }"""

    done = rewrite(MergeCasts(), text, opset=19, ir_version=9, runs=False)

    assert done.reasons == ["numbers beyond the range of FLOAT8E4M3FN may come out differently"]
