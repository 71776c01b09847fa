"""Equalize: the same results to the last bit, and channels whose ranges are alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._equalization import exponents_between, imbalance
from onnxslim_rx_passes.equalize import Equalize
from tests.passes.conftest import build

Array = npt.NDArray[Any]

IMAGE, MATRIX = "float[2,3,7,6]", "float[2,5]"
# input; nodes; shapes of constants, channels between layers made uneven along the axis of the first
ROWS: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "conv": (IMAGE, "s = Conv(x, a, b) y = Conv(s, c)",
             {"a": (8, 3, 3, 3), "b": (8,), "c": (4, 8, 1, 1)}),
    "conv, relu": (IMAGE, "s = Conv(x, a, b) t = Relu(s) y = Conv<pads=[1,1,1,1]>(t, c, d)",
                   {"a": (8, 3, 3, 3), "b": (8,), "c": (4, 8, 3, 3), "d": (4,)}),
    "conv, leaky, pool": (
        IMAGE, "s = Conv(x, a) t = LeakyRelu<alpha=0.1>(s) "
        "u = MaxPool<kernel_shape=[2,2]>(t) y = Conv(u, c)",
        {"a": (8, 3, 3, 3), "c": (4, 8, 1, 1)}),
    "conv, prelu": (IMAGE, "s = Conv(x, a) t = PRelu(s, p) y = Conv(t, c)",
                    {"a": (8, 3, 3, 3), "p": (8, 1, 1), "c": (4, 8, 1, 1)}),
    "depthwise": (
        IMAGE, "s = Conv(x, a, b) t = Relu(s) u = Conv<group=8>(t, c, d) v = Relu(u) "
        "y = Conv(v, e)",
        {"a": (8, 3, 1, 1), "b": (8,), "c": (8, 1, 3, 3), "d": (8,), "e": (5, 8, 1, 1)}),
    "groups": (IMAGE, "s = Conv(x, a) t = Conv<group=2>(s, c) y = Conv(t, e)",
               {"a": (8, 3, 1, 1), "c": (6, 4, 3, 3), "e": (5, 6, 1, 1)}),
    "transposed": (IMAGE, "s = ConvTranspose(x, a, b) t = Relu(s) y = ConvTranspose<group=2>(t, c)",
                   {"a": (3, 8, 3, 3), "b": (8,), "c": (8, 2, 3, 3)}),
    "gemm": (MATRIX, "s = Gemm<transB=1, beta=3.0, alpha=0.5>(x, a, b) t = Relu(s) y = Gemm(t, c)",
             {"a": (8, 5), "b": (8,), "c": (8, 4)}),
    "gemm, one bias": (MATRIX, "s = Gemm<transB=1>(x, a, b) y = Gemm<transB=1>(s, c)",
                       {"a": (8, 5), "b": (), "c": (4, 8)}),
    "matmul, add": (MATRIX, "s = MatMul(x, a) t = Add(b, s) u = Relu(t) y = MatMul(u, c)",
                    {"a": (5, 8), "b": (8,), "c": (8, 4)}),
    "on the left": ("float[5,3]", "s = MatMul(a, x) t = Relu(s) y = MatMul(c, t)",
                    {"a": (8, 5), "c": (4, 8)}),
}  # fmt: skip


def uneven(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]], axes: str) -> Any:
    found = {}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape)
        if name in axes:  # every axis of the weight has channels of very different sizes
            for axis in range(min(2, len(shape))):
                sizes = 2.0 ** rng.integers(-6, 7, shape[axis])
                array *= sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        found[name] = array.astype(np.float32)
    return found


def made(case: str, rng: np.random.Generator, **versions: int) -> ir.Model:
    entering, text, shapes = ROWS[case]
    weights = uneven(rng, shapes, "ace")
    rank = entering.count(",") + 1
    result = f"float[{','.join('ABCD'[:rank])}]"
    return build(f"g ({entering} x) => ({result} y) {{ {text} }}", weights, **versions)


def equalized(model: ir.Model) -> PassResult:
    def evaluate(*_: Any) -> dict[str, Array]:
        raise AssertionError("nothing is to be run")

    return Equalize()(model, PassContext(evaluate, load_target("ort-cpu")))


def feeds(model: ir.Model, rng: np.random.Generator) -> dict[str, Array]:
    (x,) = model.graph.inputs
    assert x.shape is not None
    return {"x": rng.standard_normal(x.shape.numpy()).astype(np.float32)}


@pytest.mark.parametrize("case", ROWS)
def test_results_are_the_same_to_the_last_bit(case: str, rng: np.random.Generator) -> None:
    model = made(case, rng)
    x = feeds(model, rng)
    before = Runner(model, optimize=False)(x)["y"]
    kinds = [node.op_type for node in model.graph]
    result = equalized(model)
    assert (result.modified, result.rewritten, result.skipped) == (True, 1, ())
    assert [node.op_type for node in model.graph] == kinds
    np.testing.assert_array_equal(Runner(model, optimize=False)(x)["y"], before)
    again = equalized(model)
    assert (again.modified, again.rewritten) == (False, 0)


def sides(model: ir.Model) -> tuple[Array, Array]:
    """Of the channels between two convolutions, the largest weight on each side."""
    first, second = (node for node in model.graph if node.op_type == "Conv")
    one, other = constant(first.inputs[1]), constant(second.inputs[1])
    assert one is not None
    assert other is not None
    return np.abs(one.numpy()).max(axis=(1, 2, 3)), np.abs(other.numpy()).max(axis=(0, 2, 3))


def test_ranges_are_equalised(rng: np.random.Generator) -> None:
    model = made("conv, relu", rng)
    before = np.abs(np.log2(np.divide(*sides(model)))).max()
    equalized(model)
    after = np.abs(np.log2(np.divide(*sides(model)))).max()
    assert before > 4
    assert after <= 1  # half of what rounding to a power of two leaves, on both sides


def test_rounded_weights_lose_less(rng: np.random.Generator) -> None:
    """One scale for each tensor: what equalisation is for."""
    lost = []
    for equal in (False, True):
        model = made("depthwise", np.random.default_rng(3))
        x = feeds(model, np.random.default_rng(4))
        exact = Runner(model)(x)["y"]
        if equal:
            equalized(model)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if len(tensor.shape) == 4:
                array = tensor.numpy()
                step = np.abs(array).max() / 127
                value.const_value = ir.tensor(np.rint(array / step) * step)
        found = Runner(model)(x)["y"]
        lost.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert lost[1] < 0.5 * lost[0]


def test_half_precision(rng: np.random.Generator) -> None:
    text = "g (float16[2,5] x) => (float16[2,4] y) { s = Gemm(x, a) t = Relu(s) y = Gemm(t, c) }"
    weights = uneven(rng, {"a": (5, 8), "c": (8, 4)}, "ac")
    halves = {name: (array / 64).astype(np.float16) for name, array in weights.items()}
    model = build(text, halves)
    equalized(model)
    types = {v.const_value.dtype for v in model.graph.initializers.values() if v.const_value}
    assert types == {ir.DataType.FLOAT16}


LEAVES = {"a": (8, 3, 3, 3), "c": (4, 8, 1, 1)}


@pytest.mark.parametrize(
    ("text", "shapes", "why"),
    [
        ("s = Conv(x, a) t = Clip(s, zero, six) y = Conv(t, c)", LEAVES, "Clip"),
        ("s = Conv(x, a) y = Conv(s, c) z = Relu(s)", LEAVES, None),
        ("s = Conv(x, a) t = Sigmoid(s) y = Conv(t, c)", LEAVES, None),
        ("s = Conv(x, a) t = Relu(s) u = Add(t, r) y = Conv(u, c)", {**LEAVES, "r": (8, 1, 1)},
         "behind a convolution"),
        ("s = Conv(x, a) y = Conv(s, c) u = Conv(x, a) z = Relu(u)", LEAVES, "other readers"),
        ("z = Conv(x, a) y = Conv(z, c)", LEAVES, None),
    ],
)  # fmt: skip
def test_refusals(
    text: str, shapes: dict[str, tuple[int, ...]], why: str | None, rng: np.random.Generator
) -> None:
    weights = uneven(rng, shapes, "ac")
    if "Clip" in text:
        weights |= {"zero": np.float32(0), "six": np.float32(6)}
    more = ", float[E,F,G,H] z" if "z =" in text else ""
    model = build(f"g ({IMAGE} x) => (float[A,B,C,D] y{more}) {{ {text} }}", weights)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    result = equalized(model)
    assert not result.modified
    assert {n: v.const_value for n, v in model.graph.initializers.items()} == before
    assert [why in skipped.why for skipped in result.skipped if why] == ([True] if why else [])


def test_what_would_leave_the_range_of_its_type_stays(rng: np.random.Generator) -> None:
    text = "g (float16[2,5] x) => (float16[2,4] y) { s = Gemm(x, a) y = Gemm(s, c) }"
    a, c = np.ones((5, 8)), np.ones((8, 4))
    a[:, 0], c[0] = 2.0**-14, 2.0**10
    a[0, 0], a[1, 1] = 2.0**-20 * 3, 2.0**-24
    a[:, 1], c[1] = 2.0**-24, 2.0**-24
    a[2, 2], a[:2, 2], c[2] = 1024, 2.0**-24, 2.0**-10
    model = build(text, {"a": a.astype(np.float16), "c": c.astype(np.float16)})
    result = equalized(model)
    assert not result.modified
    assert ["range" in skipped.why for skipped in result.skipped] == [True]


def test_balanced_rows_stay(rng: np.random.Generator) -> None:
    weights = {"a": np.ones((8, 3, 1, 1), np.float32), "c": np.ones((4, 8, 1, 1), np.float32)}
    text = f"g ({IMAGE} x) => (float[A,B,C,D] y) {{ s = Conv(x, a) y = Conv(s, c) }}"
    assert not equalized(build(text, weights)).modified


@given(
    counts=st.lists(st.integers(1, 6), min_size=3, max_size=5),
    zeros=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_imbalance_never_grows_by_more_than_rounding_leaves(
    counts: list[int], zeros: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = [
        rng.exponential(1, (1, outputs, inputs)) * 2.0 ** rng.integers(-9, 9, (1, outputs, 1))
        for inputs, outputs in itertools.pairwise(counts)
    ]
    if zeros:
        sizes[0][0, 0] = 0
    exponents = exponents_between(sizes)
    between = counts[1:-1]
    assert [len(one) for one in exponents] == between
    none = [np.zeros_like(one) for one in exponents]
    # each channel keeps at most what its own exponent and those beside it are rounded by
    assert imbalance(sizes, exponents) <= imbalance(sizes, none) + 2 * sum(between)
    if len(between) == 1:
        assert imbalance(sizes, exponents) <= sum(between) + 1e-9
