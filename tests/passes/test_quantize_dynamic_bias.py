"""Products in INT8: biases that make up for the mean error."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build
from tests.passes.dynamic import Array, K, N, carried_out, offered, statistics

BIASED = {
    "gemm": ("y = Gemm<transB = 1>(x, w, c)", (N,)),
    "gemm, one bias": ("y = Gemm<transB = 1>(x, w, c)", (1,)),
    "gemm, scaled": ("y = Gemm<transB = 1, alpha = -2.0, beta = 3.0>(x, w, c)", (N,)),
    "add": ("t = Transpose<perm = [1, 0]>(w) s = MatMul(x, w) y = Add(s, c)", (N,)),
    "add of a number": ("s = MatMul(x, w) y = Add(c, s)", ()),
}


@pytest.mark.parametrize("case", BIASED)
def test_the_bias_makes_up_for_the_mean_error(rng: np.random.Generator, case: str) -> None:
    text, shape = BIASED[case]
    text = text.replace("t = Transpose<perm = [1, 0]>(w) ", "")
    weight = rng.standard_normal((K, N)).astype(np.float32)
    constants = {
        "w": weight.T.copy() if "transB" in text else weight,
        "c": np.asarray(rng.standard_normal(shape), np.float32),
    }
    graph = f"g (float[B,{K}] x) => (float[B,{N}] y) {{ {text} }}"
    # all of one sign: errors of a column's weights add up in the same way in every row
    x = (2 + 0.2 * rng.standard_normal((400, K))).astype(np.float32)
    model, stats = build(graph, constants), statistics(x)
    wanted = Runner(model)({"x": x})["y"].astype(np.float64)
    _, _, (candidate, *_) = offered(model, stats, method="nearest", smooth=0.0)
    assert candidate.stages[0].options["correct"] is True
    lost = {}
    for correct in (False, True):
        model = build(graph, constants)
        assert not carried_out(model, 8, stats, method="nearest", correct=correct)
        runner = Runner(model, optimize=False)
        before = runner({"x": x[:16]})["y"]
        QuantizeDynamic().finish(model)
        runner = Runner(model, optimize=False)
        np.testing.assert_allclose(runner({"x": x[:16]})["y"], before, rtol=1e-4, atol=1e-4)
        assert [node.op_type for node in model.graph].count("Add") == 1
        found = np.concatenate([runner({"x": x[i : i + 16]})["y"] for i in range(0, 400, 16)])
        lost[correct] = np.linalg.norm(found - wanted)
        means = np.abs((found - wanted).mean(axis=0)).max()
    assert lost[True] < 0.7 * lost[False]
    assert means < 1e-4 * np.abs(wanted).max()
    product = np.linalg.norm(wanted - (constants["c"] * (3.0 if "beta" in text else 1.0)))
    assert candidate.error == pytest.approx(lost[True] / product, rel=1e-3)


def test_without_a_bias_there_is_nothing_to_correct(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    x = (2 + 0.2 * rng.standard_normal((400, K))).astype(np.float32)
    texts: dict[str, dict[str, Array]] = {
        "y = MatMul(x, w)": {},
        "y = Gemm<beta = 0.0>(x, w, c)": {"c": np.ones(N)},
        "s = MatMul(x, w) y = Add(s, c)": {"c": np.ones((1, N))},
        "s = MatMul(x, w) t = Add(s, c) y = Add(s, t)": {"c": np.ones(N)},
    }
    for text, more in texts.items():
        constants = {"w": weight, **{n: a.astype(np.float32) for n, a in more.items()}}
        model = build(f"g (float[B,{K}] x) => (float[B,{N}] y) {{ {text} }}", constants)
        _, _, candidates = offered(model, statistics(x), method="nearest")
        assert {candidate.stages[0].options["correct"] for candidate in candidates} == {False}
