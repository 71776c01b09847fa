"""MergeConstants: one constant for two, where that is the same arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim_rx_passes.merge_constants import MergeConstants

SUMS = ["Add({x}, {c})", "Add({c}, {x})", "Sub({x}, {c})", "Sub({c}, {x})"]
PRODUCTS = ["Mul({x}, {c})", "Mul({c}, {x})", "Div({x}, {c})", "Div({c}, {x})"]
PAIRS = [*itertools.product(SUMS, SUMS), *itertools.product(PRODUCTS, PRODUCTS)]
# three roundings before and two after, each of half a unit in the last place
TOLERANCE = {"float": 5 * 2.0**-24, "float16": 5 * 2.0**-11, "double": 5 * 2.0**-53}
KINDS = {"float": "f", "float16": "e", "double": "d"}


def text_of(first, second, dtype, shape="N, 3"):
    one, two = first.format(x="x", c="a"), second.format(x="m", c="b")
    return f"g ({dtype}[N, 3] x) => ({dtype}[{shape}] y) {{ m = {one}  y = {two} }}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_all_pairs_become_one(rewrite, first, second, dtype):
    flip = -1 if first == SUMS[2] else 1
    flip = -flip if second in SUMS[2:] else flip  # so that the constants add up, not cancel
    weights = {
        "a": np.array([0.5, 2, 3], KINDS[dtype]),
        "b": np.array([[flip * 0.75]], KINDS[dtype]),
    }

    done = rewrite(
        MergeConstants(), text_of(first, second, dtype), weights, tolerance=TOLERANCE[dtype]
    )

    assert len(done.ops) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [*itertools.product(SUMS, SUMS), *itertools.product(PRODUCTS[:2], PRODUCTS[:2])],
)
def test_integers_wrap_as_before(rewrite, first, second):
    weights = {"a": np.array([120, -128, 7], "i1"), "b": np.array(100, "i1")}
    text = text_of(first, second, "int8").replace("int8", "int32")
    weights = {k: w.astype("i4") * 2**23 + 1 for k, w in weights.items()}

    assert len(rewrite(MergeConstants(), text, weights).ops) == 1


def test_unsigned_integers(rewrite):
    weights = {"a": np.array([200, 3, 7], "u8"), "b": np.array(100, "u8")}

    assert len(rewrite(MergeConstants(), text_of(SUMS[2], SUMS[3], "uint64"), weights).ops) == 1


def test_odd_numbers_stay_what_they_were(build_model, rewrite):
    body = "m = Mul(x, a)  n = Div(m, b)  o = Mul(n, a)  y = Div(b, o)"
    text = f"g (float[N, 3] x) => (float[N, 3] y) {{ {body} }}"

    done = rewrite(
        MergeConstants(), text, {"a": np.float32(-3), "b": np.float32(0.5)}, tolerance=1e-6
    )

    assert done.ops == ["Div"]


REFUSED = {
    "cancel": (
        SUMS[0],
        SUMS[2],
        "float",
        12582912.0,
        12582912.0,
        "the constants cancel, which may be meant to round",
    ),
    "overflow": (
        PRODUCTS[0],
        PRODUCTS[0],
        "float",
        1e30,
        1e30,
        "the merged constant is not finite",
    ),
    "overflow of half": (
        SUMS[0],
        SUMS[0],
        "float16",
        6e4,
        6e4,
        "the merged constant is not finite",
    ),
    "infinite": (SUMS[0], SUMS[0], "float", -np.inf, 1.0, "the merged constant is not finite"),
    "underflow": (
        PRODUCTS[0],
        PRODUCTS[0],
        "float",
        1e-30,
        1e-30,
        "the merged constant is too small for its type",
    ),
    "subnormal": (
        PRODUCTS[0],
        PRODUCTS[0],
        "float16",
        1e-3,
        1e-3,
        "the merged constant is too small for its type",
    ),
    "underflow of double": (
        PRODUCTS[0],
        PRODUCTS[0],
        "double",
        1e-200,
        1e-200,
        "the merged constant is too small for its type",
    ),
    "by zero": (PRODUCTS[0], PRODUCTS[2], "float", 1.0, 0.0, "a division by 0, or of 0"),
    "zero over": (PRODUCTS[0], PRODUCTS[3], "float", 0.0, 1.0, "a division by 0, or of 0"),
    "integers": (PRODUCTS[2], PRODUCTS[0], "int32", 4, 4, "divisions of integers round"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_be_the_same(rewrite, case):
    first, second, dtype, a, b, why = REFUSED[case]
    kind = {**KINDS, "int32": "i4"}[dtype]

    done = rewrite(
        MergeConstants(),
        text_of(first, second, dtype),
        {"a": np.array(a, kind), "b": np.array(b, kind)},
    )

    assert not done.entry.changed
    assert done.reasons == [why]


def test_constants_do_not_grow_and_large_ones_are_not_stored_twice(rewrite):
    weights = {"a": np.ones((2, 1), "f"), "b": np.ones(3, "f")}
    done = rewrite(
        MergeConstants(), text_of(SUMS[0], SUMS[0], "float", "2, 3"), weights, sizes={"N": 2}
    )
    assert done.reasons == ["the merged constant would be larger"]

    text = """g (float[N, 5000] x) => (float[N, 5000] y, float[5000] z)
    { m = Add(x, a)  y = Add(m, b)  z = Neg(a) }"""
    weights = {"a": np.ones(5000, "f"), "b": np.float32(1)}
    assert rewrite(MergeConstants(), text, weights).reasons == [
        "a large constant is read elsewhere too"
    ]

    text = text.replace(", float[5000] z", "").replace("z = Neg(a)", "")
    assert rewrite(MergeConstants(), text, weights, tolerance=1e-6).ops == ["Add"]


def test_what_is_read_in_between_stays(rewrite):
    text = text_of(SUMS[0], SUMS[0], "float").replace(" y)", " y, float[N, 3] m)")

    assert not rewrite(
        MergeConstants(), text, {"a": np.float32(1), "b": np.float32(1)}
    ).entry.changed


def test_in_a_branch_with_constants_of_both_kinds(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    y = If (c) <
        then_branch = t () => (float[N] u)
            { k = Constant<value_float = 2.0>()  m = Mul(x, k)  u = Mul(m, a) },
        else_branch = e () => (float[N] u) { m = Mul(x, a)  u = Add(m, a) }
    > }"""

    done = rewrite(MergeConstants(), text, {"a": np.float32(3)}, tolerance=1e-6)

    assert done.ops == ["If", "Mul", "Mul", "Add"]
