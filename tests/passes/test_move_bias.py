"""MoveBias: against two products with a bias each in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim_rx_passes.move_bias import MoveBias

# Two sums of at most 90 and 8 terms, in another order: 200 * 2^-24 = 1.2e-5
TOLERANCE = 1.2e-5
MATRIX, ROWS, IMAGE = "float[N, 8] x", "float[2, N, 8] x", "float[N, 4, 6, 6] x"

# input, nodes, shapes of the weights, operators afterwards
CASES: dict[str, tuple[str, str, dict[str, tuple[int, ...]], list[str]]] = {
    "gemms": (
        MATRIX,
        "p = Gemm<beta = 2.0>(x, w, b)  y = Gemm<alpha = 0.5, beta = -1.0, transB = 1>(p, v, c)",
        {"w": (8, 3), "b": (3,), "v": (5, 3), "c": (5,)},
        ["Gemm", "Gemm"],
    ),
    "matmuls with adds": (
        ROWS,
        "m = MatMul(x, w)  p = Add(m, b)  n = MatMul(p, v)  y = Add(c, n)",
        {"w": (8, 3), "b": (3,), "v": (3, 5), "c": (5,)},
        ["MatMul", "MatMul", "Add"],
    ),
    "gemm, matmul and add": (
        MATRIX,
        "p = Gemm(x, w, b)  n = MatMul(p, v)  y = Add(n, c)",
        {"w": (8, 3), "b": (3,), "v": (3, 5), "c": (5,)},
        ["Gemm", "MatMul", "Add"],
    ),
    "no second bias": (
        MATRIX,
        "p = Gemm(x, w, b)  y = Gemm(p, v)",
        {"w": (8, 6), "b": (6,), "v": (6, 5)},
        ["Gemm", "Gemm"],
    ),
    "convolutions": (
        IMAGE,
        "p = Conv<pads = [1, 1, 1, 1]>(x, w, b)  y = Conv<strides = [2, 1]>(p, v, c)",
        {"w": (6, 4, 3, 3), "b": (6,), "v": (5, 6, 3, 2), "c": (5,)},
        ["Conv", "Conv"],
    ),
    "groups": (
        IMAGE,
        "p = Conv(x, w, b)  y = Conv<group = 6, pads = [0, 0, 0, 0]>(p, v, c)",
        {"w": (6, 4, 1, 1), "b": (6,), "v": (6, 1, 3, 3), "c": (6,)},
        ["Conv", "Conv"],
    ),
    "transposed first": (
        IMAGE,
        "p = ConvTranspose(x, w, b)  y = Conv(p, v, c)",
        {"w": (4, 6, 3, 3), "b": (6,), "v": (5, 6, 1, 1), "c": (5,)},
        ["ConvTranspose", "Conv"],
    ),
}


def weights_of(shapes: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def text_of(entering: str, nodes: str) -> str:
    unknown = ", ".join(["?"] * (entering.count(",") + 1))
    return f"g ({entering}) => (float[{unknown}] y) {{ {nodes} }}"


@pytest.mark.parametrize("case", CASES)
def test_pairs(case: str, rewrite: Any, rng: np.random.Generator) -> None:
    entering, nodes, shapes, ops = CASES[case]
    weights = weights_of(shapes, rng)
    done = rewrite(MoveBias(), text_of(entering, nodes), weights, tolerance=TOLERANCE)
    assert done.ops == ops
    first = done.after.graph[0]
    assert len(first.inputs) == 2
    assert "b" not in done.after.graph.initializers


KEPT: dict[str, tuple[str, str, dict[str, tuple[int, ...]], list[str]]] = {
    "padding behind it": (
        IMAGE,
        "p = Conv(x, w, b)  y = Conv<pads = [0, 1, 0, 0]>(p, v, c)",
        {"w": (6, 4, 1, 1), "b": (6,), "v": (5, 6, 1, 3), "c": (5,)},
        ["the second pads with zeros behind the bias of the first"],
    ),
    "same padding": (
        IMAGE,
        'p = Conv(x, w, b)  y = Conv<auto_pad = "SAME_UPPER">(p, v, c)',
        {"w": (6, 4, 1, 1), "b": (6,), "v": (5, 6, 1, 3), "c": (5,)},
        ["the second pads with zeros behind the bias of the first"],
    ),
    "a longer bias": (
        MATRIX,
        "p = Gemm(x, w, b)  y = Gemm(p, v)",
        {"w": (8, 3), "b": (3,), "v": (3, 5)},
        ["the file would grow by the bias"],
    ),
    "read elsewhere": (
        MATRIX,
        "p = Gemm(x, w, b)  n = Gemm(p, v, c)  y = Concat<axis = 1>(p, n)",
        {"w": (8, 3), "b": (3,), "v": (3, 5), "c": (5,)},
        ["the result of the first is read elsewhere too"],
    ),
    "upright": (
        "float[8, 8] x",
        "p = Gemm(x, w, b)  y = Gemm<transA = 1>(p, v, c)",
        {"w": (8, 3), "b": (3,), "v": (8, 5), "c": (5,)},
        [],
    ),
    "on the left": (
        "float[8, 8] x",
        "p = Gemm(x, w, b)  n = MatMul(v, p)  y = Add(n, c)",
        {"w": (8, 8), "b": (8,), "v": (5, 8), "c": (8,)},
        [],
    ),
    "transposed second": (
        IMAGE,
        "p = Conv(x, w, b)  y = ConvTranspose(p, v, c)",
        {"w": (6, 4, 1, 1), "b": (6,), "v": (6, 5, 3, 3), "c": (5,)},
        [],
    ),
    "an activation between": (
        MATRIX,
        "p = Gemm(x, w, b)  q = Relu(p)  y = Gemm(q, v, c)",
        {"w": (8, 3), "b": (3,), "v": (3, 5), "c": (5,)},
        [],
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_stays(case: str, rewrite: Any, rng: np.random.Generator) -> None:
    entering, nodes, shapes, reasons = KEPT[case]
    done = rewrite(MoveBias(), text_of(entering, nodes), weights_of(shapes, rng))
    assert not done.entry.changed
    assert done.reasons == reasons


def test_what_would_not_be_finite_stays(rewrite: Any, rng: np.random.Generator) -> None:
    entering, nodes, shapes, _ = CASES["gemms"]
    weights = weights_of(shapes, rng)
    weights["b"] *= np.float32(1e38)
    weights["v"] *= np.float32(1e3)
    done = rewrite(MoveBias(), text_of(entering, nodes), weights, runs=False)
    assert done.reasons == ["the result would not be finite"]
    old = rewrite(
        MoveBias(), text_of(entering, nodes), weights_of(shapes, rng), opset=10, tolerance=TOLERANCE
    )
    assert old.reasons == ["Gemm of this version needs a third input"]
