"""MergeBatchnorms: against the two nodes in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_batchnorms import MergeBatchnorms

# A few roundings more or less in values that divide by standard deviations of about 1/2
TOLERANCE = 3e-6

NORM = "BatchNormalization<epsilon = 0.01>({}, s, o, m, v)"
OPERATIONS = [
    "Mul({}, c)",
    "Mul(c, {})",
    "Div({}, c)",
    "Add({}, c)",
    "Sub({}, c)",
    "Sub(c, {})",
    "BatchNormalization({}, o, m, s, d)",
]


def constants(rng, shape):
    found = {name: rng.standard_normal(3).astype("f") for name in "som"}
    found |= {name: rng.uniform(0.3, 2, 3).astype("f") for name in "vd"}
    return found | {"c": np.asarray(rng.uniform(0.5, 2, shape), "f")}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (), (1, 1)])
def test_pairs(rewrite, rng, operation, first, shape):
    pair = (NORM, operation) if first else (operation, NORM)
    body = f"r = Relu(x)  p = {pair[0].format('r')}  y = {pair[1].format('p')}"
    text = f"g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {{ {body} }}"

    done = rewrite(MergeBatchnorms(), text, constants(rng, shape), tolerance=TOLERANCE)

    assert done.ops == ["Relu", "BatchNormalization"]


def test_a_caffe_scale_whose_constants_are_computed(rewrite, rng):
    text = f"""g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {{
    s = ConstantOfShape<value = float[1] {{0.5}}>(k)
    n = {NORM.format("x")}  a = Unsqueeze<axes = [1, 2]>(o)  p = Mul(n, a)
    t = ConstantOfShape<value = float[1] {{2}}>(k)
    b = Unsqueeze<axes = [1, 2]>(t)  y = Add(p, b) }}"""
    weights = constants(rng, ()) | {"k": np.array([3])}
    for name in "scd":
        del weights[name]

    done = rewrite(MergeBatchnorms(), text, weights, opset=9, tolerance=TOLERANCE)

    assert [op for op in done.ops if op in ("Add", "Mul")] == []
    assert done.entry.rewritten == 2


def test_bodies_and_float16(rewrite, rng):
    weights = {name: array.astype("e") for name, array in constants(rng, (3, 1)).items()}
    text = f"""g (bool k, float16[N, 3, 4] x) => (float16[N, 3, 4] y) {{ y = If(k)
    <then_branch = t () => (float16[N, 3, 4] u) {{ p = {NORM.format("x")}  u = Mul(p, c) }},
     else_branch = e () => (float16[N, 3, 4] w) {{ w = Neg(x) }}> }}"""
    done = rewrite(MergeBatchnorms(), text, weights, tolerance=4e-3)
    assert done.ops == ["If", "BatchNormalization", "Neg"]


BODY = f"p = {NORM.format('x')}  y = Mul(p, c)"
AXIS = "it varies along another axis than that of the channels"
ELSEWHERE = "the result of BatchNormalization is read elsewhere too"
KEPT = {
    "width": (BODY, (4,), "", AXIS),
    "elements": (BODY, (3, 4, 4), "", AXIS),
    "read elsewhere": (BODY + "  z = Neg(p)", (), ", float[2, 3, 4, 4] z", ELSEWHERE),
    "returned": (BODY, (), ", float[2, 3, 4, 4] p", ELSEWHERE),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    body, shape, more, why = KEPT[case]
    text = f"g (float[2, 3, 4, 4] x) => (float[2, 3, 4, 4] y{more}) {{ {body} }}"
    done = rewrite(MergeBatchnorms(), text, constants(rng, shape), tolerance=TOLERANCE)
    assert not done.entry.changed
    assert done.reasons == [why]


def test_training_products_and_repeated_activations_stay(rewrite, rng):
    weights = constants(rng, (3, 1, 1)) | {"w": rng.standard_normal((3, 3, 1, 1)).astype("f")}
    head = "g (float[2, 3, 4, 4] x) => (float[2, 3, 4, 4] y)"
    trained = f"{head} {{ p, q, r = {NORM.replace('>', ', training_mode = 1>').format('x')}"
    text = trained + "  y = Mul(p, c) }"
    assert not rewrite(MergeBatchnorms(), text, weights, tolerance=TOLERANCE).entry.changed

    text = f"{head} {{ a = Conv(x, w)  p = Mul(a, c)  y = {NORM.format('p')} }}"  # another rule's
    assert not rewrite(MergeBatchnorms(), text, weights, tolerance=TOLERANCE).entry.changed

    text = f"{head} {{ p = Mul(x, c)  y = {NORM.format('p')} }}".replace(
        "[2, 3, 4, 4] x", "[2, 1, 4, 4] x"
    )
    done = rewrite(MergeBatchnorms(), text, weights, tolerance=TOLERANCE)
    assert done.reasons == ["it may make the activations larger"]

    weights["c"] = np.full((3, 1, 1), 0, "f")
    text = f"{head} {{ p = {NORM.format('x')}  y = Div(p, c) }}"
    done = rewrite(MergeBatchnorms(), text, weights, runs=False)
    assert done.reasons == ["the result would not be finite"]
