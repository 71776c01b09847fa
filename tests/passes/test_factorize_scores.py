"""FactorizeScores: narrower queries and keys, against ONNX Runtime and explicit products."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx import simplify
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, constant, load, nodes
from onnxslim_rx.passbase import Skip, Stage
from onnxslim_rx.planner import apply_plan
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._heads import constants_of
from onnxslim_rx_passes.factorize_scores import FactorizeScores
from onnxslim_rx_passes.factorize_values import FactorizeValues
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.attention import (
    ALL,
    HEADS,
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
    with_stand_ins,
)

TARGET = load_target("ort-cpu")
STATIC = (-1, 5, HEADS, WIDTH)
CASES: dict[str, dict[str, Any]] = {
    "merged": {},
    "merged-plain": {"projection": "merged-plain"},
    "merged-equal": {"projection": "merged-equal"},
    "merged-attribute": {
        "projection": "merged-attribute", "opset": 11, "weigh": "p = Softmax<axis = 3>(s)",
    },
    "merged-number": {"projection": "merged-number", "opset": 18},
    "merged-then-bias": {"projection": "merged-then-bias"},
    "three": {"projection": "three"},
    "three-plain": {"projection": "three-plain"},
    "three-cross": {"projection": "three-cross"},
    "cross": {"projection": "cross"},
    "gemm": {"projection": "gemm"},
    "gemms": {"projection": "gemms", "cut": STATIC},
    "cut-by-rest": {"cut": (-1, 5, HEADS, WIDTH)},
    "heads-by-rest": {"cut": (0, 5, -1, WIDTH)},
    "width-by-rest": {"cut": (0, 5, HEADS, -1)},
    "divided": {"scale": "divided", "mask": "where"},
    "unscaled": {"scale": "none", "mask": "none"},
    "scaled-query": {"query": "qs = Mul(qr, scale) qt = Transpose<perm = [0, 2, 1, 3]>(qs)"},
    "scaled-before": {"projection": "three", "query": "qt = Transpose<perm = [0, 2, 1, 3]>(qr)"},
    "scaled-key": {"key": "k9 = Transpose<perm = [0, 2, 3, 1]>(kr) kt = Div(k9, scale)"},
    "twice-transposed": {
        "key": "k9 = Transpose<perm = [0, 2, 1, 3]>(kr) kt = Transpose<perm = [0, 1, 3, 2]>(k9)"
    },
    "free-where": {"mask": "where", "low": np.float32(-np.inf)},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_spellings(case, rng):
    model = build(rng, **CASES[case])
    one = FactorizeScores()
    (unit,) = units(one, model)
    assert (unit.heads, unit.width, unit.free) == (HEADS, WIDTH, True)
    assert unit.name == "s0.scores"
    feeds = feeds_of(model, rng)
    stats = statistics(model, unit, feeds)
    for known in (None, stats):
        # products of 24 and sums of 10 terms in float32; moments keep half of float64's digits
        assert_same(model, narrowed(one, model, WIDTH, known), feeds, 2e-6)
        thin = narrowed(one, model, 3, known)
        for batch in (1, 3):
            assert_same(padded(one, model, 3, known), thin, feeds_of(model, rng, batch), 2e-6)
    assert units(one, thin) == []
    assert reasons(one, thin) == ["MatMul: its heads are narrower already"]
    # biases of keys alone go with their Add
    adds = [[n.op_type for n in nodes(m)].count("Add") for m in (model, thin)]
    assert adds[0] - adds[1] == (
        case in ("three", "three-cross", "scaled-before", "merged-then-bias")
    )


def test_names_of_weights_pass_on(rng):
    model = build(rng)
    thin = narrowed(FactorizeScores(), model, 3)
    shapes = {
        name: tuple(v.const_value.shape.numpy()) for name, v in thin.graph.initializers.items()
    }
    assert shapes["w"] == (10, ALL + 2 * HEADS * 3)
    assert shapes["bias"] == (ALL + 2 * HEADS * 3,)
    cut = held(constant(thin.graph.initializers["cut"]))
    assert cut.numpy().tolist() == [0, 0, HEADS, WIDTH]  # of v
    assert "s0" in {value.name for node in nodes(thin) for value in node.outputs}


def scores_of(model, feeds):
    twin = clone(model)
    (value,) = (v for node in nodes(twin) for v in node.outputs if v.name == "s0")
    value.type = twin.graph.outputs[0].type
    twin.graph.outputs.append(value)
    return Runner(twin)(feeds)["s0"].astype(np.float64)


@pytest.mark.parametrize("free", [True, False])
def test_the_error_is_that_of_the_scores_and_the_least(free, rng):
    # a mask that is no number far below the scores: what all keys share counts
    model = build(
        rng, projection="three-cross", mask="none" if free else "where", low=np.float32(-3)
    )
    one = FactorizeScores()
    (unit,) = units(one, model)
    assert unit.free is free
    feeds = feeds_of(model, rng, 40)
    stats = statistics(model, unit, feeds)
    offered = {c.stages[0].options["width"]: c.error for c in one.candidates(unit, stats, TARGET)}
    assert list(offered) == [4]
    x, y = (feeds[name].astype(np.float64).reshape(-1, feeds[name].shape[-1]) for name in "xy")
    wq, bq, wk, bk = constants_of(unit)
    if free:
        y, bk = y - y.mean(0), 0 * bk
    wanted = [
        (x @ wq[:, h : h + WIDTH] + bq[h : h + WIDTH])
        @ (y @ wk[:, h : h + WIDTH] + bk[h : h + WIDTH]).T
        for h in range(0, ALL, WIDTH)
    ]
    least = np.sqrt(sum((np.linalg.svd(one, compute_uv=False)[4:] ** 2).sum() for one in wanted))
    assert offered[4] == pytest.approx(least / np.linalg.norm(wanted), rel=0.05)  # the ridge
    thin = one.transform(unit, stage(one, 4, stats), constants_of(unit), stats)
    wq, bq, wk, bk = thin
    assert (bk == 0).all() == free
    found = [
        (x @ wq[:, h : h + 4] + bq[h : h + 4]) @ (y @ wk[:, h : h + 4] + bk[h : h + 4]).T
        for h in range(0, ALL // 2, 4)
    ]
    error = np.sqrt(sum(np.linalg.norm(a - b) ** 2 for a, b in zip(found, wanted, strict=True)))
    assert least * (1 - 1e-9) <= error <= 1.02 * least


KEPT: dict[str, dict[str, Any]] = {
    "mild-mask": {"mask": "where", "low": np.float32(-3)},
    "over-queries": {"weigh": "p = Softmax<axis = 2>(s)"},
    "old-axis": {"weigh": "p = Softmax(s)", "opset": 12, "projection": "three"},
    "returned": {"outputs": "float[N, S, M] out, float[N, H, S, S] s0"},
    "squared": {"mask": "s = Mul(s1, s1)"},
    "no-softmax": {"weigh": "p = Sigmoid(s)"},
}


@pytest.mark.parametrize("case", KEPT)
def test_biases_of_keys_stay_where_they_count(case, rng):
    model = build(rng, **KEPT[case])
    one = FactorizeScores()
    (unit,) = units(one, model)
    assert not unit.free
    feeds = feeds_of(model, rng)
    stats = statistics(model, unit, feeds)
    assert_same(model, narrowed(one, model, WIDTH, stats), feeds, 3e-6)
    assert_same(padded(one, model, 3, stats), narrowed(one, model, 3, stats), feeds, 3e-6)


def test_float16(rng):
    model = build(rng, kind="float16")
    one = FactorizeScores()
    feeds = feeds_of(model, rng)
    assert_same(model, narrowed(one, model, WIDTH), feeds, 1e-2)
    assert_same(padded(one, model, 3), narrowed(one, model, 3), feeds, 1e-2)


ONE_HEAD = (
    "q1 = MatMul(x, wq) k1 = MatMul(x, wk) v1 = MatMul(x, wv) kt = Transpose<perm = [0, 2, 1]>(k1) "
    "s0 = MatMul(q1, kt) p = Softmax(s0) c = MatMul(p, v1) out = MatMul(c, wo)"
)


@pytest.mark.parametrize("one", [FactorizeScores(), FactorizeValues()], ids=str)
@pytest.mark.parametrize(
    "case", [{"body": ONE_HEAD}, {"cut": (0, 0, 1, ALL)}], ids=["bare", "axis"]
)
def test_one_head(case, one, rng):
    model = build(rng, **case)
    (unit,) = units(one, model)
    assert (unit.heads, unit.width) == (1, ALL)
    feeds = feeds_of(model, rng)
    stats = statistics(model, unit, feeds)
    assert_same(padded(one, model, 8, stats), narrowed(one, model, 8, stats), feeds, 2e-6)


FIVE = {name: np.ones((10, 15), "f") for name in ("wq", "wk", "wv")} | {
    "wo": np.ones((15, 11), "f")
}
TWO = "float[N, S, M] out, float[N, S, A] other"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rotary": (
        {"query": "q8 = Transpose<perm = [0, 2, 1, 3]>(qr) q9 = Cos(q8) qt = Mul(q8, q9)"},
        "Mul lies between",
    ),
    "normalised": (
        {
            "query": "q9 = LayerNormalization(qr, ones) qt = Transpose<perm = [0, 2, 1, 3]>(q9)",
            "ones": np.ones(WIDTH, "f"),
        },
        "LayerNormalization lies between",
    ),
    "cache": (
        {
            "key": "k8 = Transpose<perm = [0, 2, 1, 3]>(kr) k9 = Concat<axis = 2>(past, k8) "
            "kt = Transpose<perm = [0, 1, 3, 2]>(k9)",
            "mask": "none",
            "weigh": "p9 = Softmax(s) p = Slice(p9, zero, five, three)",
            "past": np.ones((2, HEADS, 2, WIDTH), "f"),
            **{name: np.array([n]) for name, n in (("zero", 0), ("five", 5), ("three", 3))},
        },
        "Concat lies between",
    ),
    "returned": (
        {"outputs": "float[N, S, M] out, float[N, H, D, S] kt"},
        "read elsewhere",
    ),
    "reused": ({"extra": "other = Relu(k1)", "outputs": TWO}, "read elsewhere"),
    "shared-weight": (
        {"projection": "three", "extra": "other = MatMul(x, wq)", "outputs": TWO},
        "share the weight",
    ),
    "shared-bias": (
        {"projection": "three", "extra": "other = Add(out, bq)", "outputs": TWO,
         "end": "out = MatMul(cr, wo)", "wo": np.ones((ALL, ALL), "f")},
        "share the bias",
    ),
    "same": (
        {"projection": "three-plain", "key": "kt = Transpose<perm = [0, 2, 3, 1]>(qr)"},
        "are the same",
    ),
    "crossed-axes": (
        {"query": "qt = Transpose<perm = [0, 2, 1, 3]>(qr)", "cut": (0, HEADS, 5, WIDTH),
         "mask": "none", "side": (0, -1, ALL)},
        "more than to cut",
    ),
    "summed-over-positions": (  # five positions, and heads of five columns
        {"query": "qt = Transpose<perm = [0, 2, 3, 1]>(qr)", "cut": (0, 0, 3, 5),
         "side": (0, 0, 15), "key": "kt = Transpose<perm = [0, 2, 1, 3]>(kr)",
         "projection": "three-plain", **FIVE},
        "not the last axis",
    ),
    "heads-as-columns": (
        {"key": "kt = Transpose<perm = [0, 1, 3, 2]>(kr)", "cut": (0, 0, 5, 3), "side": (0, 0, 15),
         "projection": "three-plain", **FIVE},
        "as rows",
    ),
    "heads-along-another-axis": (  # in a batch of as many as there are heads
        {"key": "kt = Transpose<perm = [2, 0, 3, 1]>(kr)"},
        "not along the same axis",
    ),
    "copied-width": (
        {"body": ONE_HEAD.replace("q1 =", "q0 =").replace("k1 =", "q1 = Reshape(q0, cut) k1 ="),
         "cut": (0, 0, 0)},
        "copies the width",
    ),
    "computed-shape": (
        {"query": "q6 = Shape(x) q7 = Slice(q6, zero, two) q8 = Concat<axis = 0>(q7, rest) "
         "q9 = Reshape(q1, q8) qt = Transpose<perm = [0, 2, 1, 3]>(q9)",
         "zero": np.array([0]), "two": np.array([2]), "rest": np.array([HEADS, WIDTH])},
        "computed while",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case, rng):
    options, why = REFUSED[case]
    model = build(rng, **options)
    batch = HEADS if case == "heads-along-another-axis" else 2
    Runner(model)(feeds_of(model, rng, batch))  # it is a valid model
    one = FactorizeScores()
    assert units(one, model) == []
    assert any(why in reason for reason in reasons(one, model)), reasons(one, model)


def test_products_that_are_no_attention_are_passed_over_in_silence(rng):
    model = build(rng, query="qt = Relu(qr)", weigh="p = Relu(s)")
    assert list(FactorizeScores().layers(model)) == []


def test_both_passes_and_rounding_follow_each_other(rng):
    model = build(rng, projection="merged")
    passes = {
        p.name: p for p in (FactorizeScores(), FactorizeValues(), QuantizeWeights(min_elements=1))
    }
    feeds = feeds_of(model, rng)
    stats = {}
    plans = []
    for name in ("factorize-values", "factorize-scores"):
        (unit,) = units(passes[name], model)
        stats[unit.name] = statistics(model, unit, feeds)
        plans.append(LayerPlan(unit.name, (stage(passes[name], 4, stats[unit.name]),)))
    rounding = Stage("quantize-weights", {"bits": 8, "form": "cast-mul"})
    rounded = [LayerPlan(name, (rounding,)) for name in ("w", "wo")]
    for ordered in (plans, plans[::-1]):
        thin, skipped = apply_plan(model, ordered, passes, stats)
        assert skipped == []
        w, wo = (held(thin.graph.initializers[name].const_value) for name in ("w", "wo"))
        assert tuple(w.shape.numpy()) == (10, 3 * HEADS * 4)
        assert tuple(wo.shape.numpy()) == (HEADS * 4, 11)
        small, skipped = apply_plan(model, [*rounded, *ordered], passes, stats)
        assert skipped == []
        stored = held(small.graph.initializers["w.int8"].const_value)
        assert tuple(stored.shape.numpy()) == (10, 3 * HEADS * 4)
        assert_same(thin, small, feeds, 3e-2)
    # as if both were carried out on the weights alone
    dense = padded(passes["factorize-scores"], model, 4, stats["s0.scores"])
    dense = padded(passes["factorize-values"], dense, 4, stats["o.values"])
    assert_same(dense, thin, feeds, 3e-6)


@pytest.mark.parametrize("case", ["gemm", "scaled-query"])
def test_factors_on_the_way_count_in_the_choice(case, rng):
    model = build(rng, **CASES[case])
    initializers = model.graph.initializers.items()
    starts = {name: held(value.const_value).numpy() for name, value in initializers}
    same = {"gemm": {"w": starts.get("wt", np.zeros((1, 1))).T / 2, "bias": 2 * starts["bias"]}}
    twin = build(rng, **same.get(case, {"w": starts.get("w"), "bias": starts["bias"]}))
    feeds = feeds_of(model, rng, 40)
    curves = []
    for one in (model, twin):
        (unit,) = units(FactorizeScores(), one)
        stats = statistics(one, unit, feeds)
        found = FactorizeScores(width=2).candidates(unit, stats, TARGET)
        curves.append([candidate.error for candidate in found])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_candidates_say_what_is_saved(rng):
    model = build(rng, projection="three")
    (unit,) = units(FactorizeScores(), model)
    (candidate,) = FactorizeScores().candidates(unit, None, TARGET)
    less = HEADS * (WIDTH - 4)
    saves = {"wq": 10 * less * 4, "bq": less * 4, "wk": 10 * less * 4, "bk": ALL * 4}
    assert candidate.saves == saves
    whole = sum(held(constant(value)).nbytes for value in unit.weights)
    assert candidate.bytes == whole - sum(saves.values())
    assert candidate.flops == candidate.bytes // 2
    assert candidate.stages[0].options == {"method": "scores", "width": 4, "whitened": False}
    assert not list(FactorizeScores(width=WIDTH).candidates(unit, None, TARGET))
    (fixed,) = FactorizeScores(width=5).candidates(unit, None, TARGET)
    assert fixed.stages[0].options["width"] == 5
    thin = narrowed(FactorizeScores(), model, 4)
    kept = sum(thin.graph.initializers[name].const_value.nbytes for name in ("wq", "bq", "wk"))
    assert kept == candidate.bytes


def test_statistics_lower_the_error_on_the_inputs_they_were_taken_from(rng):
    model = build(rng, projection="three")
    one = FactorizeScores()
    (unit,) = units(one, model)
    feeds = feeds_of(model, rng, 50)
    feeds["x"] *= np.logspace(0, -2, 10, dtype="f")
    stats = statistics(model, unit, feeds)
    right = Runner(model)(feeds)["out"]
    errors = [
        np.linalg.norm(Runner(narrowed(one, model, 4, s))(feeds)["out"] - right)
        for s in (stats, None)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_options_and_plans_that_do_not_fit(rng):
    for options in ({"width": 0}, {"max_side": 0}):
        with pytest.raises(InputError, match="at least 1"):
            FactorizeScores(**options)
    model = build(rng)
    one = FactorizeScores()
    (unit,) = units(one, model)
    constants = constants_of(unit)
    with pytest.raises(InputError, match="width = 9"):
        one.transform(unit, stage(one, 9), constants, None)
    with pytest.raises(InputError, match="no statistics"):
        one.transform(unit, stage(one, 4, stats=1), constants, None)
    with pytest.raises(InputError, match="3 arrays"):
        one.restore(unit, (*constants, constants[0]))
    plain = dataclasses.replace(unit.members[0])
    with pytest.raises(InputError, match="no attention"):
        one.transform(plain, stage(one, 4), constants, None)
    assert "inputs, above 9" in reasons(FactorizeScores(max_side=9), model)[0]


def test_weights_that_are_not_finite(rng):
    model = build(rng, w=np.full((10, 3 * ALL), np.nan, "f"))
    one = FactorizeScores()
    (unit,) = units(one, model)
    assert not list(one.candidates(unit, None, TARGET))
    untouched: Any = None
    assert isinstance(one.apply(unit, stage(one, 4), None, untouched), Skip)


def test_a_real_model(assets, rng):
    model = simplify(load(assets / "models" / "minilm.onnx"), progress=False)
    assert isinstance(model, ir.Model)
    ids = rng.integers(1000, 20000, (3, 9))
    feeds = {"input_ids": ids, "attention_mask": (np.arange(9) < [[9], [6], [2]]).astype(np.int64)}
    feeds["token_type_ids"] = 0 * ids
    for one in (FactorizeScores(), FactorizeValues()):
        found = units(one, model)
        assert len(found) == 6
        for width in (32, 24):
            plans = [LayerPlan(unit.name, (stage(one, width),)) for unit in found]
            thin, skipped = apply_plan(model, plans, {one.name: one}, {})
            assert skipped == []
            assert len(list(nodes(thin))) == len(list(nodes(model)))
            twin = with_stand_ins(one, model, width)
            assert_same(twin if width < 32 else model, thin, feeds, 1e-5)
