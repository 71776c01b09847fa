"""FactorizeValues: narrower values and output projections, against ONNX Runtime and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import scipy.linalg

from onnxslim_rx.ir import constant, nodes
from onnxslim_rx.passbase import Skip
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._head_nodes import emit
from onnxslim_rx_passes._heads import constants_of
from onnxslim_rx_passes.factorize_values import FactorizeValues
from tests.passes.attention import (
    ALL,
    HEADS,
    OUTPUTS,
    WIDTH,
    assert_same,
    build,
    feeds_of,
    held,
    narrowed,
    padded,
    reasons,
    stage,
    statistics,
    units,
)

TARGET = load_target("ort-cpu")
GEMM = "o = Gemm<transB = 1, alpha = 0.5>(cr, wot, bo)"
CASES: dict[str, dict[str, Any]] = {
    "merged": {},
    "merged-plain": {"projection": "merged-plain"},
    "merged-equal": {"projection": "merged-equal"},
    "merged-attribute": {"projection": "merged-attribute", "opset": 11, "weigh": "p = Softmax(s)"},
    "merged-number": {"projection": "merged-number", "opset": 18},
    "merged-then-bias": {"projection": "merged-then-bias"},
    "three": {"projection": "three"},
    "three-plain": {"projection": "three-plain"},
    "cross": {"projection": "cross"},
    "gemm": {"projection": "gemm"},
    "gemms": {"projection": "gemms", "cut": (-1, 5, HEADS, WIDTH)},
    "gemm-after": {"side": (-1, ALL), "end": f"{GEMM} out = Reshape(o, back)", "back": [-1, 5, 11]},
    "gemm-after-another": {
        "end": f"cs = Reshape(cr, flat2) {GEMM.replace('cr', 'cs')} out = Reshape(o, back)",
        "flat2": [-1, ALL],
        "back": [-1, 5, 11],
    },
    "merged-by-rest": {"side": (0, 5, -1)},
    "patched": {
        "weigh": "p9 = Softmax<axis = -1>(s) no = IsNaN(p9) p = Where(no, none, p9)",
        "none": np.float32(0),
    },
    "scaled": {
        "merge": "c9 = Mul(c, scale) ct = Transpose<perm = [0,2,1,3]>(c9) cr = Reshape(ct, side)",
    },
    "rotary-elsewhere": {"query": "q8 = Cos(qr) qt = Transpose<perm = [0, 2, 1, 3]>(q8)"},
    "biased-later": {"end": "o = MatMul(cr, wo) o9 = Relu(o) out = Add(o9, bo)"},
}  # fmt: skip


def attention(rng, case):
    options = {
        key: np.asarray(value, np.int64) if key in ("back", "flat2") else value
        for key, value in CASES[case].items()
    }
    return build(rng, **options)


@pytest.mark.parametrize("case", CASES)
def test_spellings(case, rng):
    model = attention(rng, case)
    one = FactorizeValues()
    (unit,) = units(one, model)
    assert (unit.heads, unit.width, unit.name) == (HEADS, WIDTH, "o.values")
    feeds = feeds_of(model, rng)
    stats = statistics(model, unit, feeds)
    for known in (None, stats):
        # products of 24 and sums of 10 terms in float32
        assert_same(model, narrowed(one, model, WIDTH, known), feeds, 3e-6)
        thin = narrowed(one, model, 3, known)
        for batch in (1, 3):
            assert_same(padded(one, model, 3, known), thin, feeds_of(model, rng, batch), 3e-6)
    assert len(list(nodes(thin))) == len(list(nodes(model)))
    assert reasons(one, thin) == ["MatMul: its heads are narrower already"]


@pytest.mark.parametrize("heads", [1, HEADS])
def test_the_error_is_that_of_the_output_and_near_the_least(heads, rng):
    width = ALL // heads
    shape = {"cut": (0, 0, heads, width), "end": "o = MatMul(cr, wo) out = Identity(o)"}
    model = build(rng, projection="three", **shape)
    one = FactorizeValues()
    (unit,) = units(one, model)
    feeds = feeds_of(model, rng, 400)
    stats = statistics(model, unit, feeds)
    right = Runner(model)(feeds)["out"].astype(np.float64).reshape(-1, OUTPUTS)
    gram = stats.members[0].gram
    wo = constants_of(unit)[-1]
    for candidate in one.candidates(unit, stats, TARGET):
        (chosen,) = candidate.stages
        thin = narrowed(one, model, chosen.options["width"], stats)
        got = Runner(thin)(feeds)["out"].reshape(-1, OUTPUTS)
        error = np.linalg.norm(got - right) / np.linalg.norm(right)
        assert candidate.error == pytest.approx(error, rel=0.1, abs=1e-3)  # the ridge
        if heads == 1:
            values = np.linalg.svd(scipy.linalg.sqrtm(gram).real @ wo, compute_uv=False)
            least = np.linalg.norm(values[chosen.options["width"] :]) / np.linalg.norm(values)
            assert least * (1 - 1e-3) <= error <= least + 1e-2


def test_without_statistics_inputs_count_as_white(rng):
    model = build(rng, projection="three")
    one = FactorizeValues()
    (unit,) = units(one, model)
    wv, bv, wo = constants_of(unit)
    thin = one.transform(unit, stage(one, 3), constants_of(unit), None)
    for h in range(HEADS):
        part, less = slice(h * WIDTH, (h + 1) * WIDTH), slice(3 * h, 3 * h + 3)
        whole = np.vstack([wv, bv])[:, part] @ wo[part]
        left = np.vstack([thin[0], thin[1]])[:, less] @ thin[2][less]
        least = np.linalg.norm(np.linalg.svd(whole, compute_uv=False)[3:])
        assert least * (1 - 1e-9) <= np.linalg.norm(left - whole) <= 1.01 * least


def test_float16(rng):
    model = build(rng, kind="float16")
    one = FactorizeValues()
    feeds = feeds_of(model, rng)
    assert_same(model, narrowed(one, model, WIDTH), feeds, 1e-2)
    assert_same(padded(one, model, 3), narrowed(one, model, 3), feeds, 1e-2)


def test_weights_that_do_not_fit_float16_are_left(rng):
    model = build(rng, kind="float16", projection="three-plain")
    (unit,) = units(FactorizeValues(), model)
    arrays = tuple(1e6 * array for array in constants_of(unit))
    refused = emit(unit, arrays, WIDTH, ir.tape.Tape())
    assert isinstance(refused, Skip)
    assert "would not be finite in float16" in refused.why


BODY = """q1 = MatMul(x, wq) k1 = MatMul(x, wk) v1 = MatMul(x, wv)
    qr = Reshape(q1, cut) kr = Reshape(k1, cut) vr = Reshape(v1, vcut)
    qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
    vt = Transpose<perm = [0, 2, 1, 3]>(vr) {}
    s0 = MatMul(qt, {}) p = Softmax(s0) c = MatMul(p, {})
    ct = Transpose<perm = [0, 2, 1, 3]>(c) cr = Reshape(ct, side) out = MatMul(cr, wo)"""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "broadcast-values": (
        {"body": BODY.format("", "kt", "vt"),
         "wv": np.ones((10, WIDTH), "f"), "vcut": np.array([0, 0, 1, WIDTH])},
        "more than to put heads",
    ),
    "cache": (
        {"body": BODY.format(
            "ve = Concat<axis = 2>(past, vt) ke = Concat<axis = 3>(keys, kt)", "ke", "ve"),
         "past": np.ones((2, HEADS, 2, WIDTH), "f"), "keys": np.ones((2, HEADS, WIDTH, 2), "f"),
         "vcut": np.array([0, 0, HEADS, WIDTH])},
        "Concat lies between",
    ),
    "normalised": (
        {"merge": "ct = Transpose<perm = [0, 2, 1, 3]>(c) cr = Reshape(ct, side) "
         "cn = LayerNormalization(cr, ones)",
         "end": "o = MatMul(cn, wo) out = Add(o, bo)", "ones": np.ones(ALL, "f")},
        "LayerNormalization lies between",
    ),
    "not-merged": (
        {"merge": "ct = Transpose<perm = [0, 1, 2, 3]>(c)",
         "end": "o = MatMul(ct, w9) out = Add(o, bo)",
         "w9": np.ones((WIDTH, OUTPUTS), "f"), "outputs": "float[N, H, S, M] out"},
        "MatMul lies between",
    ),
    "mixed": (
        {"merge": "ct = Transpose<perm = [0, 2, 3, 1]>(c) cr = Reshape(ct, side)"},
        "more than to put heads",
    ),
    "read-twice": (
        {"extra": "other = Relu(cr)", "outputs": "float[N, S, M] out, float[N, S, A] other"},
        "read elsewhere",
    ),
    "values-returned": (
        {"projection": "three", "outputs": "float[N, S, M] out, float[N, H, S, D] vt"},
        "read elsewhere",
    ),
    "shared-output-weight": (
        {"extra": "other = MatMul(v1, wo)", "outputs": "float[N, S, M] out, float[N, S, M] other"},
        "share the weight",
    ),
    "no-projection": (
        {"end": "o = Relu(cr) out = Identity(o)"},
        "Relu lies between",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case, rng):
    options, why = REFUSED[case]
    model = build(rng, **options)
    Runner(model)(feeds_of(model, rng))  # it is a valid model
    one = FactorizeValues()
    assert units(one, model) == []
    assert any(why in reason for reason in reasons(one, model)), reasons(one, model)


def test_products_that_are_no_attention_are_passed_over_in_silence(rng):
    model = build(rng, weigh="p = Relu(s)", end="o = Relu(cr) out = Identity(o)")
    assert list(FactorizeValues().layers(model)) == []


def test_candidates_say_what_is_saved(rng):
    model = build(rng)
    one = FactorizeValues()
    (unit,) = units(one, model)
    (candidate,) = one.candidates(unit, None, TARGET)
    less = HEADS * (WIDTH - 4)
    saves = {"w": 10 * less * 4, "bias": less * 4, "wo": less * OUTPUTS * 4}
    assert candidate.saves == saves
    whole = sum(held(constant(value)).nbytes for value in unit.weights)
    assert candidate.bytes == whole - sum(saves.values())
    thin = narrowed(one, model, 4)
    kept = sum(thin.graph.initializers[name].const_value.nbytes for name in saves)
    assert kept == candidate.bytes
    assert [member.name for member in unit.members] == ["wo"]


def test_no_more_columns_than_outputs(rng):
    model = build(rng, wo=rng.standard_normal((ALL, 3)).astype("f"), bo=np.zeros(3, "f"))
    one = FactorizeValues()
    (unit,) = units(one, model)
    assert not list(one.candidates(unit, None, TARGET))  # 4 would be more than there are outputs
    feeds = feeds_of(model, rng)
    assert_same(model, narrowed(one, model, 3), feeds, 3e-6)
