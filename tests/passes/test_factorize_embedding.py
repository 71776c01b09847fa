"""FactorizeEmbedding: look-ups and tied projections, against numpy and ONNX Runtime."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, serialize
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.planner.carry_out import apply_plan
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.preparation import UnitStatistics
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._row_svd import projections, row_curve, row_moments, times
from onnxslim_rx_passes.factorize_embedding import FactorizeEmbedding
from onnxslim_rx_passes.quantize_weights import QuantizeWeights

TARGET = load_target("ort-cpu")
V, K = 37, 12


def table(rng, rank, rows=V, columns=K, dtype=np.float32):
    product = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return product.astype(dtype)


def found(model, **options) -> Layer:
    """The only layer."""
    layers = list(FactorizeEmbedding(min_elements=1, **options).layers(model))
    assert len(layers) == 1
    assert isinstance(layers[0], Layer), layers[0]
    return layers[0]


def why(model, **options) -> str:
    """Why the only table is refused."""
    (layer,) = FactorizeEmbedding(min_elements=1, **options).layers(model)
    assert isinstance(layer, Skipped)
    return layer.why


def treat(model, rank, stats=None, method="svd"):
    """Factorize the only table in a copy; check the copy."""
    one = FactorizeEmbedding(min_elements=1)
    stage = Stage(one.name, {"method": method, "rank": rank})
    copy = clone(model)
    assert apply_treatments(copy, [(found(copy), (stage,), stats)], {one.name: one}) == []
    onnx.checker.check_model(serialize(copy), full_check=True)
    return copy


def dense(model, rank, stats=None, method="svd"):
    """The model with the table that the factors stand for."""
    one = FactorizeEmbedding(min_elements=1)
    layer = found(model)
    stage = Stage(one.name, {"method": method, "rank": rank})
    copy = clone(model)
    (root,) = layer.weights
    weight = tensor_of(root).numpy()
    (product,) = one.restore(
        layer, one.transform(layer, stage, (weight.astype(np.float64),), stats)
    )
    assert product.shape == weight.shape
    copy.graph.initializers[str(root.name)].const_value = ir.tensor(product.astype(weight.dtype))
    return copy


def close(left, right, feeds, tolerance=2e-5):
    a, b = Runner(left)(feeds), Runner(right)(feeds)
    assert list(a) == list(b)
    for name, array in a.items():
        assert array.shape == b[name].shape
        scale = max(float(np.abs(array).max()), 1e-3)
        np.testing.assert_allclose(b[name], array, rtol=0, atol=tolerance * scale)


LOOKUP = "g (int64[A, B] i) => (float[A, B, 12] y) { y = Gather(E, i) }"
TIED = {
    "matmul": "float[A, B, 37] y) { h = Gather(E, i) r = Relu(h) T = Transpose<perm=[1,0]>(E)"
    " y = MatMul(r, T) }",
    "matmul-identity": "float[A, B, 37] y) { h = Gather(E, i) r = Relu(h) S = Identity(E)"
    " T = Transpose(S) y = MatMul(r, T) }",
    "gemm": "float[A, 37] y) { h = Gather(E, i) r = ReduceMean<axes=[1], keepdims=0>(h)"
    " y = Gemm<transB=1, alpha=0.5, beta=2.0>(r, E, b) }",
    "gemm-transposes": "float[A, 37] y) { h = Gather(E, i) m = ReduceMean<axes=[1], keepdims=0>(h)"
    " r = Transpose(m) T = Transpose(E) y = Gemm<transA=1>(r, T, b) }",
    "gemm-left": "float[37, A] y) { h = Gather(E, i) r = ReduceMean<axes=[1], keepdims=0>(h)"
    " y = Gemm<transB=1>(E, r) }",
    "gemm-left-transposed": "float[12, B] y) { h = Gather(E, i)"
    " r = ReduceMean<axes=[0], keepdims=0>(h) T = Transpose(E) x = MatMul(r, T)"
    " y = Gemm<transA=1, transB=1>(E, x) }",
    "matmul-left": "float[A, 37, B] y) { h = Gather(E, i) r = Transpose<perm=[0,2,1]>(h)"
    " y = MatMul(E, r) }",
    "matmul-left-transposed": "float[A, 12, B] y) { h = Gather(E, i)"
    " r = Transpose<perm=[0,2,1]>(h) x = MatMul(E, r) T = Transpose(E) y = MatMul(T, x) }",
    "matmul-soft-lookup": "float[A, B, 12] y) { h = Gather(E, i) T = Transpose(E)"
    " x = MatMul(h, T) s = Softmax(x) y = MatMul(s, E) }",
    "two-lookups": "float[A, B, 12] y) { h = Gather(E, i) j = Mul(i, i) c = Mod(j, n)"
    " k = Gather<axis=-2>(E, c) y = Add(h, k) }",
}


def tied(build_model, case, weight):
    weights = {"E": weight, "b": np.arange(37, dtype=weight.dtype), "n": np.int64(37)}
    text = "g (int64[A, B] i) => (" + TIED[case]
    used = {name: w for name, w in weights.items() if name in text.replace("=>", "")}
    used = {k: v for k, v in used.items() if any(t in text for t in (f", {k})", f"({k}", f"({k},"))}
    return build_model(text, used)


@pytest.fixture
def feeds(rng):
    return {"i": rng.integers(-V, V, (3, 5))}


@pytest.mark.parametrize("rank", [3, K])
def test_a_table_of_that_rank_is_looked_up_exactly(build_model, rng, rank, feeds):
    model = build_model(LOOKUP, {"E": table(rng, rank)})
    after = treat(model, rank)
    assert [node.op_type for node in after.graph] == ["Gather", "MatMul"]
    assert sorted(after.graph.initializers) == ["E.p", "E.q"]
    close(model, after, feeds)


@pytest.mark.parametrize("case", TIED)
def test_all_readers_share_the_factors(build_model, rng, case, feeds):
    model = tied(build_model, case, table(rng, 4))
    layer = found(model)
    assert layer.name == "E"
    assert [value.name for value in layer.weights] == ["E"]
    after = treat(model, 4)
    assert "E" not in after.graph.initializers
    assert {"E.p", "E.q"} <= set(after.graph.initializers)
    close(model, after, feeds)
    # beyond what the table holds, the factors stand for what `restore` says
    full = tied(build_model, case, table(rng, K))
    close(dense(full, 3), treat(full, 3), feeds)


@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (2, 1, 3)])
def test_indices_of_any_rank(build_model, rng, shape):
    dims = ", ".join(map(str, shape))
    out = ", ".join([*map(str, shape), "12"])
    text = f"g (int64[{dims}] i) => (float[{out}] y) {{ y = Gather(E, i) }}"
    model = build_model(
        text.replace("int64[]", "int64[1]") if not shape else text, {"E": table(rng, 5)}
    )
    if not shape:
        model.graph.inputs[0].shape = ir.Shape([])
    i = rng.integers(0, V, shape)
    before = Runner(model)({"i": i})["y"]
    after = Runner(treat(model, 5))({"i": i})["y"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_the_order_of_nodes_stays_topological_and_names_survive(build_model, rng):
    model = tied(build_model, "matmul", table(rng, K))
    model.graph.outputs[0].metadata_props["origin"] = "here"
    after = treat(model, 5)
    seen = set()
    for node in after.graph:
        assert all(v.producer() is None or v.producer() in seen for v in node.inputs)
        seen.add(node)
    assert after.graph.outputs[0].name == "y"
    assert after.graph.outputs[0].metadata_props["origin"] == "here"


def test_frequent_rows_keep_more(build_model, rng):
    weight = table(rng, K)
    counts = np.zeros(V, dtype=np.int64)
    counts[:4] = 1000
    model = build_model(LOOKUP, {"E": weight})
    stats = LayerStatistics(None, counts, rows=4000, sample=None, shape=(1, 8))
    i = {"i": np.arange(4)[None]}
    errors = {
        method: np.linalg.norm(Runner(treat(model, 4, stats, method))(i)["y"] - weight[:4])
        for method in ("svd", "scaled-svd")
    }
    assert errors["scaled-svd"] < 0.2 * errors["svd"]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 40),
    columns=st.integers(1, 14),
    gram=st.booleans(),
    counted=st.booleans(),
)
def test_curve_is_the_largest_of_the_errors_measured(seed, rows, columns, gram, counted):
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((rows, columns))
    counts = rng.integers(0, 3, rows) if counted else None
    x = rng.standard_normal((50, columns)) * np.logspace(0, -2, columns)
    g = x.T @ x if gram else None
    moments = row_moments(e, counts)
    rank = min(rows, columns)
    a, q = projections(moments, g, rank)
    curve = row_curve(moments, g, a, q)
    assert curve.shape == (rank + 1,)
    assert (np.diff(curve) <= 0).all()
    worst = 0.0
    for r in range(rank, -1, -1):
        d = e - times(e, a[:, :r], np.float64) @ q[:r]
        c = np.ones(rows) if counts is None else counts + 1.0
        root = np.sqrt(c)[:, None]
        worst = max(worst, np.linalg.norm(root * d) / np.linalg.norm(root * e))
        if g is not None:
            worst = max(worst, np.linalg.norm(x @ d.T) / np.linalg.norm(x @ e.T))
        unseen = np.ones(rows, bool) if counts is None else counts == 0
        if unseen.any():
            own = np.linalg.norm(e[unseen], axis=1)
            floor = np.maximum(own, np.sqrt(np.mean(own**2)))
            worst = max(
                worst, np.percentile((np.linalg.norm(d[unseen], axis=1) / floor) ** 2, 95) ** 0.5
            )
        assert curve[r] == pytest.approx(worst, rel=1e-6, abs=1e-6)
    if gram or not counted:
        return
    # least weighted error of all products: Eckart and Young on the scaled rows
    assert counts is not None
    for r in range(1, rank):
        d = np.sqrt(counts + 1.0)[:, None] * (e - e @ a[:, :r] @ q[:r])
        least = np.linalg.svd(np.sqrt(counts + 1.0)[:, None] * e)[1][r:]
        assert np.linalg.norm(d) <= np.linalg.norm(least) * (1 + 1e-3) + 1e-9


def test_rows_never_read_are_not_given_up(build_model, rng):
    """With one row read a million times, the others still share a quarter of their energy."""
    weight = table(rng, K)
    counts = np.zeros(V, dtype=np.int64)
    counts[0] = 10**6
    a, q = projections(row_moments(weight, counts), None, 4)
    unseen = weight[1:].astype(np.float64)
    kept = 1 - np.linalg.norm(unseen - unseen @ a @ q) ** 2 / np.linalg.norm(unseen) ** 2
    best = np.linalg.svd(unseen, compute_uv=False) ** 2
    assert kept > 0.8 * best[:3].sum() / best.sum()


def collected(model, data):
    layer = found(model)
    members = layer.members or (layer,)
    return UnitStatistics({layer.name: layer}, collect(model, members, data))[layer.name]


def test_statistics_of_a_tied_table_count_reads_and_whiten_logits(build_model, rng):
    model = tied(build_model, "matmul", table(rng, K, dtype=np.float32))
    data = [{"i": rng.integers(0, 9, (2, 5))} for _ in range(3)]
    stats = collected(model, data)
    counts, projection = stats.members
    expected = np.bincount(np.concatenate([d["i"].ravel() for d in data]), minlength=V)
    np.testing.assert_array_equal(counts.counts, expected)
    x = np.maximum(Runner(model)(data[0])["y"], 0)  # only its shape matters
    assert projection.gram.shape == (K, K)
    assert x.shape == (2, 5, V)
    one = FactorizeEmbedding(min_elements=1)
    layer = found(model)
    methods = {c.stages[0].options["method"] for c in one.candidates(layer, stats, TARGET)}
    assert methods <= {"whitened-svd"}
    feed = {"i": rng.integers(0, V, (2, 7))}
    close(dense(model, 3, stats, "whitened-svd"), treat(model, 3, stats, "whitened-svd"), feed)


def test_whitening_serves_the_logits_better(build_model, rng):
    model = tied(build_model, "matmul", rng.standard_normal((V, K)).astype(np.float32))
    weight = model.graph.initializers["E"].const_value.numpy()
    x = rng.standard_normal((500, K)) * np.logspace(0, -1.5, K)
    counts = LayerStatistics(None, np.ones(V, dtype=np.int64), V, None, (1, 8))
    logits = LayerStatistics(x.T @ x, None, 500, None, (1, 8, K))
    stats = LayerStatistics(None, None, V, None, (1, 8), members=(counts, logits))
    one = FactorizeEmbedding(min_elements=1)
    layer = found(model)
    error = {}
    for method in ("scaled-svd", "whitened-svd"):
        stage = Stage(one.name, {"method": method, "rank": 4})
        (e,) = one.restore(layer, one.transform(layer, stage, (weight,), stats))
        error[method] = np.linalg.norm(x @ (e - weight).T) / np.linalg.norm(x @ weight.T)
    assert error["whitened-svd"] < 0.8 * error["scaled-svd"]


def test_the_gram_matrix_of_one_hot_rows_is_never_asked_for(build_model, rng):
    model = tied(build_model, "matmul-soft-lookup", table(rng, K))
    members = found(model).members
    assert [(m.kind, m.node.outputs[0].name) for m in members] == [
        ("embedding", "h"),
        ("linear", "x"),
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_factors_have_the_type_of_the_table(build_model, rng, dtype, feeds):
    name = {np.float16: "float16", np.float64: "double"}[dtype]
    model = build_model(LOOKUP.replace("float", name), {"E": table(rng, 2, dtype=dtype)})
    after = treat(model, 2)
    assert {v.const_value.numpy().dtype for v in after.graph.initializers.values()} == {
        np.dtype(dtype)
    }
    close(model, after, feeds, 3e-3 if dtype == np.float16 else 1e-12)


def test_factors_of_large_half_precision_tables_are_finite(build_model, rng, feeds):
    weight = (table(rng, K) * 1e4).clip(-6e4, 6e4).astype(np.float16)
    after = treat(build_model(LOOKUP.replace("float", "float16"), {"E": weight}), K)
    p, q = (tensor_of(v).numpy().astype("d") for v in after.graph.initializers.values())
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), np.linalg.norm(q, axis=1), rtol=1e-2)
    np.testing.assert_allclose(p @ q, weight.astype("d"), atol=2e-3 * 6e4)


REFUSED = {
    "transposed": ("float[A, B, 37] y) { T = Transpose(E) y = Gather(T, i) }", "axis other than 0"),
    "added": ("float[37, 12] y) { h = Gather(E, i) y = Add(E, E) }", "shared with Add"),
    "bias": ("float[A, 12] y) { h = Gather(E, i) y = Gemm(h, E, E) }", "shared with Gemm input 2"),
    "cast": ("float16[A, B, 12] y) { C = Cast<to=10>(E) y = Gather(C, i) }", "through Cast"),
    "returned": (
        "float[A, B, 12] y, float[12, 37] T) { y = Gather(E, i) T = Transpose(E)"
        " z = MatMul(y, T) }",
        "graph output",
    ),
    "folds": (
        "float[37, 37] y) { h = Gather(E, i) T = Transpose(E) y = MatMul(E, T) }",
        "folds away",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_others_read_in_other_ways_are_refused(build_model, rng, case):
    text, reason = REFUSED[case]
    assert reason in why(build_model("g (int64[A, B] i) => (" + text, {"E": table(rng, 3)}))


def test_a_reader_alone_does_not_take_the_others_away(build_model, rng):
    model = tied(build_model, "matmul", table(rng, 3))
    part = build_model(LOOKUP, {"E": table(rng, 3)})
    torn = dataclasses.replace(found(model), node=part.graph.node(0))
    one = FactorizeEmbedding(min_elements=1)
    stage = Stage(one.name, {"method": "svd", "rank": 2})
    (refused,) = apply_treatments(part, [(torn, (stage,), None)], {one.name: one})
    assert "another graph" in refused.why
    assert len(model.graph) == 4


def test_a_table_that_callers_may_override_is_refused(build_model, rng):
    model = build_model(LOOKUP, {"E": table(rng, 3)})
    model.graph.inputs.append(model.graph.initializers["E"])
    assert "graph input" in why(model)


def test_a_table_that_a_branch_reads_too_is_refused(build_model, rng):
    text = """g (int64[A, B] i, bool c) => (float[A, B, 12] y) {
        h = Gather(E, i)
        y = If (c) <
            then_branch = t () => (float[A, B, 12] p) { p = Gather(E, i) },
            else_branch = e () => (float[A, B, 12] q) { q = Identity(h) }
        >
    }"""
    assert "several graphs" in why(build_model(text, {"E": table(rng, 3)}))


def test_small_wide_and_treated_tables_are_left_alone(build_model, rng):
    model = build_model(LOOKUP, {"E": table(rng, 3)})
    (small,) = FactorizeEmbedding().layers(model)
    assert isinstance(small, Skipped)
    assert "below 4096" in small.why
    assert "above 11" in why(model, max_side=11)
    assert why(treat(model, 3)) == "Gather: is a factor already"


def test_tables_that_are_not_finite(build_model, rng):
    weight = table(rng, 3)
    weight[5, 5] = np.inf
    model = build_model(LOOKUP, {"E": weight})
    one = FactorizeEmbedding(min_elements=1)
    layer = found(model)
    assert list(one.candidates(layer, None, TARGET)) == []
    stage = Stage(one.name, {"method": "svd", "rank": 2})
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert "NaN or infinity" in refused.why


@pytest.mark.parametrize("rank", [0, 13])
def test_a_rank_that_does_not_fit_is_refused(build_model, rng, rank):
    model = build_model(LOOKUP, {"E": table(rng, 3)})
    one = FactorizeEmbedding(min_elements=1)
    stage = Stage(one.name, {"method": "svd", "rank": rank})
    (refused,) = apply_treatments(model, [(found(model), (stage,), None)], {one.name: one})
    assert "does not fit" in refused.why
    assert [node.op_type for node in model.graph] == ["Gather"]


def test_candidates_descend_save_and_rise_in_error(build_model, rng):
    big = build_model(
        LOOKUP.replace("12", "128"), {"E": rng.standard_normal((500, 128)).astype("f")}
    )
    one = FactorizeEmbedding()
    offers = list(one.candidates(found(big), None, TARGET))
    ranks = [int(c.stages[0].options["rank"]) for c in offers]
    assert len(ranks) >= 3
    assert ranks == sorted(ranks, reverse=True)
    errors = [c.error for c in offers]
    assert errors == sorted(errors)
    assert all(c.bytes <= 0.9 * 500 * 128 * 4 for c in offers)


def test_an_error_bound_finds_the_rank(build_model, rng):
    big = build_model(LOOKUP.replace("12", "64"), {"E": table(rng, 16, 200, 64)})
    one = FactorizeEmbedding(max_rel_error=1e-3)
    (candidate,) = one.candidates(found(big), None, TARGET)
    assert candidate.stages[0].options["rank"] == 16
    assert candidate.error < 1e-5


def test_methods_without_their_statistics_are_refused(build_model, rng):
    layer = found(build_model(LOOKUP, {"E": table(rng, 3)}))
    counts = LayerStatistics(None, np.ones(V, dtype=np.int64), V, None, (1, 8))
    for method, stats in (("scaled-svd", None), ("whitened-svd", counts)):
        one = FactorizeEmbedding(method=method, min_elements=1)
        with pytest.raises(InputError, match="no statistics"):
            list(one.candidates(layer, stats, TARGET))
    other = LayerStatistics(None, np.ones(V + 1, dtype=np.int64), V, None, (1, 8))
    with pytest.raises(InputError, match="another table"):
        list(FactorizeEmbedding(min_elements=1).candidates(layer, other, TARGET))
    with pytest.raises(InputError, match="max_side"):
        FactorizeEmbedding(max_side=0)


def test_a_plan_factorizes_and_quantizes_the_factors(build_model, rng, feeds):
    weight = table(rng, 4, 600, 48)
    model = build_model(LOOKUP.replace("12", "48"), {"E": weight})
    passes = {
        "factorize-embedding": FactorizeEmbedding(),
        "quantize-weights": QuantizeWeights(min_elements=1),
    }
    stages = (
        Stage("factorize-embedding", {"method": "svd", "rank": 4}),
        Stage("quantize-weights", {"bits": 8, "form": "cast-mul"}),
    )
    copy, skipped = apply_plan(model, [LayerPlan("E", stages, 0.0, 0.0)], passes, {})
    assert skipped == []
    types = {
        tensor_of(v).dtype for v in copy.graph.initializers.values() if tensor_of(v).size > 600
    }
    assert types == {ir.DataType.INT8}
    close(model, copy, feeds, 0.05)


def test_a_large_table_takes_seconds(rng):
    """A fifth of 50,000 x 1,024 here; the time grows with the rows."""
    e = rng.standard_normal((10_000, 512), dtype=np.float32)
    begin = time.process_time()
    moments = row_moments(e, rng.integers(0, 5, 10_000))
    a, q = projections(moments, None, 256)
    row_curve(moments, None, a, q)
    assert times(e, a, np.float32).shape == (10_000, 256)
    assert time.process_time() - begin < 10
