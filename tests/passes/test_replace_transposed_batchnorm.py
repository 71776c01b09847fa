"""ReplaceTransposedBatchnorm: against the three nodes in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.replace_transposed_batchnorm import ReplaceTransposedBatchnorm

# A few roundings more or less in values that divide by standard deviations of about 1/2
TOLERANCE = 3e-6

PAIRS = {
    "tokens": ([0, 2, 1], [0, 2, 1], "N, 4, 3"),
    "channels last": ([0, 3, 1, 2], [0, 2, 3, 1], "N, 4, 5, 3"),
    "batch": ([1, 0, 2], [1, 0, 2], "3, N, 4"),
}


def constants(rng, kind="f"):
    found = {name: rng.standard_normal(3).astype(kind) for name in "som"}
    return found | {"v": rng.uniform(0.3, 2, 3).astype(kind)}


def text_of(there, back, shape, *, more="", norm="q = BatchNormalization(p, s, o, m, v)", tail=""):
    return f"""g (float[{shape}] x) => (float[{shape}] y{more}) {{
    p = Transpose<perm = {there}>(x)  {norm}  y = Transpose<perm = {back}>(q)  {tail} }}"""


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_any_axis(rewrite, rng, case, dtype):
    text = text_of(*PAIRS[case]).replace("float", dtype)
    weights = constants(rng, {"float": "f", "float16": "e"}[dtype])
    tolerance = TOLERANCE if dtype == "float" else 4e-3

    done = rewrite(ReplaceTransposedBatchnorm(), text, weights, tolerance=tolerance)

    assert done.ops == ["Mul", "Add"]


def test_bodies(rewrite, rng):
    text = """g (bool k, float[N, 4, 3] x) => (float[N, 4, 3] y) { y = If(k)
    <then_branch = t () => (float[N, 4, 3] u) { p = Transpose<perm = [0, 2, 1]>(x)
       q = BatchNormalization(p, s, o, m, v)  u = Transpose<perm = [0, 2, 1]>(q) },
     else_branch = e () => (float[N, 4, 3] n) { n = Neg(x) }> }"""
    done = rewrite(ReplaceTransposedBatchnorm(), text, constants(rng), tolerance=TOLERANCE)
    assert done.ops == ["If", "Mul", "Add", "Neg"]


TOKENS = PAIRS["tokens"]
KEPT = {
    "first read": ({"more": ", float[N, 3, 4] p"}, "the result of Transpose is read elsewhere too"),
    "norm read": (
        {"more": ", float[N, 3, 4] z", "tail": "z = Neg(q)"},
        "the result of BatchNormalization is read elsewhere too",
    ),
    "training": (
        {"norm": "q, a, b = BatchNormalization<training_mode = 1>(p, s, o, m, v)"},
        "statistics are computed, or may be overridden, or it runs in training mode",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_stay(rewrite, rng, case):
    options, why = KEPT[case]
    text = text_of(*TOKENS, **options)
    done = rewrite(ReplaceTransposedBatchnorm(), text, constants(rng), tolerance=TOLERANCE)
    assert not done.entry.changed
    assert done.reasons == [why]


def test_other_orders_old_opsets_and_what_is_not_finite(rewrite, rng):
    text = text_of([0, 2, 1], [1, 2, 0], "N, 4, 3").replace(
        "(float[N, 4, 3] y", "(float[3, 4, N] y"
    )
    done = rewrite(ReplaceTransposedBatchnorm(), text, constants(rng), tolerance=TOLERANCE)
    assert not done.entry.changed

    weights = constants(rng)
    text = text_of(*TOKENS, norm="q = BatchNormalization<is_test = 1>(p, s, o, m, v)")
    done = rewrite(ReplaceTransposedBatchnorm(), text, weights, opset=6, runs=False)
    assert not done.entry.changed

    weights["v"] = np.full(3, -1, "f")
    done = rewrite(ReplaceTransposedBatchnorm(), text_of(*TOKENS), weights, runs=False)
    assert done.reasons == ["the result would not be finite"]
