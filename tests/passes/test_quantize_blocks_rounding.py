"""QuantizeWeights in blocks: methods, corrections, and factors of layers in a chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.inherited import inherited, statistics_by_input
from onnxslim_rx.passbase import LayerStatistics, Stage
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes import _block_rounding
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes.factorize_embedding import FactorizeEmbedding
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.blocks import (
    LOOK_UP,
    TARGETS,
    TIED,
    feeds_for,
    layers_of,
    modelled,
    most_off,
    offers,
    quantize,
    quantizer,
    run,
    stage_of,
)

K, N = 96, 80
MATMUL = f"g (float[5, {K}] x) => (float[5, {N}] y) {{ y = MatMul(x, w) }}"
GEMM = f"g (float[5, {K}] x) => (float[5, {N}] y) {{ y = Gemm<transB = 1, alpha = 2.0>(x, w, c) }}"


def inputs(rng, rows=400, k=K):
    """Correlated, with channels of different sizes."""
    mixed = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k))
    return (mixed + 0.3 * rng.standard_normal((rows, k))) * rng.uniform(0.2, 3.0, k)


def known(x):
    return LayerStatistics(x.T @ x, None, len(x), x[:8], x.shape)


def weight(rng, shape=(K, N)):
    return rng.standard_normal(shape).astype(np.float32)


def loss(x, w, dense):
    return float(np.linalg.norm(x @ (dense - w)) / np.linalg.norm(x @ w))


def applied(model, stages, stats, *passes: Any):
    one = passes[0]
    layer = layers_of(model, one)[0]
    by_name = {p.name: p for p in passes}
    assert apply_treatments(model, [(layer, stages, stats)], by_name) == []
    return model


@pytest.mark.parametrize("method", ["nearest", "clip", "hqq", "gptq", "awq"])
@pytest.mark.parametrize("form", ["nbits", "dequantize-linear"])
def test_every_method_stores_what_it_promises(method, form, rng):
    w, x = weight(rng), inputs(rng)
    model = modelled(MATMUL, w, form=form)
    found = quantize(model, form, {"w": known(x)}, bits=4, group=32, rank=0, method=method)
    stage, dense = found["w"]
    assert stage.options["method"] == method
    feeds = feeds_for(model, rng)
    exact = run(model, feeds, optimize=False)["y"]
    np.testing.assert_allclose(exact, feeds["x"] @ dense, rtol=1e-4, atol=1e-4)
    if method != "awq":  # there, what is rounded are scaled activations
        fast = run(model, feeds)["y"]
        assert (np.abs(fast - feeds["x"] @ dense) <= most_off(feeds["x"], dense.T, 32)).all()


def test_methods_that_know_the_inputs_lose_less(rng):
    w, x = weight(rng), inputs(rng)
    lost = {}
    for method in ("nearest", "clip", "awq", "gptq"):
        (one,) = offers(
            modelled(MATMUL, w), stats={"w": known(x)}, bits=4, group=32, rank=0, method=method
        )
        lost[method] = one.error
    assert lost["gptq"] < 0.8 * lost["clip"] < 0.8 * lost["nearest"] * 1.05
    assert lost["awq"] < lost["nearest"]


@pytest.mark.parametrize("text", [MATMUL, GEMM])
@pytest.mark.parametrize("form", ["nbits", "dequantize-linear"])
def test_a_correction_is_added_to_what_the_integers_give(form, text, rng):
    w, x = weight(rng), inputs(rng)
    stored = w.T.copy() if "transB" in text else w
    c = rng.standard_normal(N).astype(np.float32)
    model = modelled(text, stored, form=form, c=c)
    stage, dense = quantize(model, form, {"w": known(x)}, bits=4, group=32, rank=8, method="gptq")[
        "w"
    ]
    assert stage.options["rank"] == 8
    dense = dense.T if "transB" in text else dense
    feeds = feeds_for(model, rng)
    expected = feeds["x"] @ dense
    if "Gemm" in text:
        expected = 2.0 * expected + c
    found = run(model, feeds, optimize=False)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    fast = run(model, feeds)["y"]
    assert np.linalg.norm(fast - expected) < 0.02 * np.linalg.norm(expected)
    kinds = {str(v.name): v.const_value for v in model.graph.initializers.values()}
    assert {kinds[f"w.{name}.int8"].dtype.name for name in "ab"} == {"INT8"}  # type: ignore[union-attr]


def test_a_correction_lowers_the_error_of_the_same_blocks(rng):
    w, x = weight(rng), inputs(rng)
    model, stats = modelled(MATMUL, w), {"w": known(x)}
    candidates = offers(model, stats=stats, bits=4, group=32)
    by_rank = {one.stages[0].options["rank"]: one for one in candidates}
    assert set(by_rank) == {0, 16}
    (by_rank[32],) = offers(model, stats=stats, bits=4, group=32, rank=32)
    assert by_rank[32].error < by_rank[16].error < 0.9 * by_rank[0].error
    assert by_rank[0].bytes < by_rank[16].bytes < by_rank[32].bytes
    assert by_rank[0].flops < by_rank[16].flops


def test_a_rank_that_the_weight_has_not_is_not_offered(rng):
    text = "g (float[5, 512] x) => (float[5, 8] y) { y = MatMul(x, w) }"
    stats = {"w": known(inputs(rng, k=512))}
    found = offers(modelled(text, weight(rng, (512, 8))), stats=stats, bits=4, group=32)
    assert [one.stages[0].options["rank"] for one in found] == [0]


def test_equal_questions_are_answered_once(rng, monkeypatch):
    w, x = weight(rng), inputs(rng)
    model, one = modelled(MATMUL, w), quantizer(bits=4, group=32, rank=0)
    stats = known(x)
    layer = layers_of(model, one)[0]
    (candidate,) = one.candidates(layer, stats, TARGETS["nbits"])
    monkeypatch.setattr(_block_rounding, "_rounded", None)  # would fail
    (dense,) = one.transform(layer, candidate.stages[0], (w.astype(np.float64),), stats)
    assert loss(x, w, dense) == pytest.approx(candidate.error, rel=1e-6)
    with pytest.raises(TypeError):
        one.transform(layer, candidate.stages[0], (w + 1.0,), stats)
    applied(model, candidate.stages, stats, one)


def test_zeros_stay_zeros_under_every_method(rng):
    for method, rank in (("gptq", 0), ("awq", 0), ("hqq", 0), ("gptq", 4)):
        options = BlockOptions(4, 32, method=method, rank=rank)
        model = modelled(MATMUL, np.zeros((K, N), np.float32))
        stats = known(inputs(rng))
        one = quantizer()
        layer = layers_of(model, one)[0]
        (dense,) = one.transform(layer, stage_of(options), (np.zeros((K, N)),), stats)
        assert not dense.any()
        applied(model, (stage_of(options),), stats, one)
        assert not run(model, feeds_for(model, rng), optimize=False)["y"].any()


# -- chains -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [MATMUL, GEMM])
@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_factors_are_rounded_as_was_predicted(text, method, rng):
    w, x = weight(rng), inputs(rng)
    stored = w.T.copy() if "transB" in text else w
    c = np.zeros(N, np.float32)
    factorize, round_ = FactorizeGemm(rank=48, min_elements=1), quantizer()
    options = BlockOptions(4, 16, method=method)
    model = modelled(text, stored, c=c)
    layer = layers_of(model, factorize)[0]
    first = Stage("factorize-gemm", {"method": "whitened-svd", "rank": 48})
    stats = known(x)
    factors = factorize.transform(layer, first, (stored.astype(np.float64),), stats)
    p, q = round_.transform(layer, stage_of(options), factors, stats)
    applied(model, (first, stage_of(options)), stats, factorize, round_)

    assert [node.op_type for node in model.graph].count("MatMulNBits") == 2
    feeds = feeds_for(model, rng)
    factor = 2.0 if "Gemm" in text else 1.0
    expected = factor * (feeds["x"] @ p) @ q
    found = run(model, feeds, optimize=False)["y"]
    # factors are stored in float32 before they are rounded: few integers may differ by one
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_second_factors_are_rounded_under_what_the_first_makes(rng):
    w, x = weight(rng), inputs(rng)
    factorize = FactorizeGemm(rank=48, min_elements=1)
    model = modelled(MATMUL, w)
    layer = layers_of(model, factorize)[0]
    first = Stage("factorize-gemm", {"method": "svd", "rank": 48})
    lost = {}
    for method, stats in (("nearest", None), ("gptq", known(x))):
        factors = factorize.transform(layer, first, (w.astype(np.float64),), stats)
        stage = stage_of(BlockOptions(4, 16, method=method))
        p, q = quantizer().transform(layer, stage, factors, stats)
        lost[method] = loss(x, factors[0] @ factors[1], p @ q)
    assert lost["gptq"] < 0.8 * lost["nearest"]


def test_factors_of_a_table_are_rounded_as_was_predicted(rng):
    table = weight(rng, LOOK_UP[1])
    factorize, round_ = FactorizeEmbedding(rank=32, min_elements=1), quantizer()
    model = modelled(LOOK_UP[0], table)
    layer = layers_of(model, factorize)[0]
    stats = LayerStatistics(None, rng.integers(0, 9, 100), 400, None, (7,))
    first = Stage("factorize-embedding", {"method": "scaled-svd", "rank": 32})
    second = stage_of(BlockOptions(4, 16, method="clip"))
    factors = factorize.transform(layer, first, (table.astype(np.float64),), stats)
    p, q = round_.transform(layer, second, factors, stats)
    applied(model, (first, second), stats, factorize, round_)
    kinds = [node.op_type for node in model.graph]
    assert "GatherBlockQuantized" in kinds
    assert "MatMulNBits" in kinds
    feeds = {"x": np.array([0, 99, 3, 1, 5, 5, 50])}
    expected = p[feeds["x"]] @ q
    found = run(model, feeds, optimize=False)["y"]
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_a_factor_that_blocks_do_not_suit_is_stored_in_int8(rng):
    text = LOOK_UP[0]
    table = weight(rng, LOOK_UP[1])
    factorize, round_ = FactorizeEmbedding(rank=31, min_elements=1), quantizer()
    model = modelled(text, table)
    first = Stage("factorize-embedding", {"method": "svd", "rank": 31})
    second = stage_of(BlockOptions(4, 32, method="clip"))
    layer = layers_of(model, factorize)[0]
    factors = factorize.transform(layer, first, (table.astype(np.float64),), None)
    p, q = round_.transform(layer, second, factors, None)
    applied(model, (first, second), None, factorize, round_)
    types = {str(v.name): v.const_value.dtype.name for v in model.graph.initializers.values()}  # type: ignore[union-attr]
    assert types["w.p.int8"] == "INT8"  # rows of 31 are no whole bytes
    assert types["w.q.q4"] == "UINT8"
    feeds = {"x": np.arange(7)}
    found = run(model, feeds, optimize=False)["y"]
    expected = p[feeds["x"]] @ q
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_a_factor_of_unknown_inputs_does_without_statistics(rng):
    w = weight(rng)
    factorize, round_ = FactorizeGemm(rank=48, min_elements=1), quantizer()
    model = modelled(MATMUL, w)
    first = Stage("factorize-gemm", {"method": "svd", "rank": 48})
    second = stage_of(BlockOptions(4, 16, method="gptq"))
    applied(model, (first, second), None, factorize, round_)
    assert [node.op_type for node in model.graph].count("MatMulNBits") == 2


# -- what is known of inputs ------------------------------------------------------------------


def made_by(
    one: Any, model: ir.Model, stage: Stage, stats: LayerStatistics
) -> list[LayerStatistics]:
    """What is known of the layers that a stage makes of the first one."""
    known_inputs = statistics_by_input(layers_of(model, one)[0], stats)
    applied(model, (stage,), stats, one)
    layers = layers_of(model, QuantizeWeights(min_elements=1))
    found = [inherited(known_inputs, layer) for layer in layers]
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        (MATMUL, False),
        (GEMM, True),
        (f"g (float[{K}, 5] x) => (float[{N}, 5] y) {{ y = MatMul(w, x) }}", True),
        (f"g (float[{K}, 5] x) => (float[5, {N}] y) {{ y = Gemm<transA = 1>(x, w) }}", False),
    ],
)
def test_the_gram_matrix_behind_a_factor_is_that_of_what_it_makes(text, turned, rng):
    w, x = weight(rng), inputs(rng)
    stored = w.T.copy() if turned else w
    model = modelled(text, stored, c=np.zeros(N, np.float32))
    one = FactorizeGemm(rank=8, min_elements=1)
    stage = Stage("factorize-gemm", {"method": "svd", "rank": 8})
    p, _ = one.transform(layers_of(model, one)[0], stage, (stored.astype(np.float64),), None)
    first, second = made_by(one, model, stage, known(x))
    assert second.gram is not None
    np.testing.assert_array_equal(first.gram, x.T @ x)
    np.testing.assert_allclose(second.gram, (x @ p).T @ (x @ p), rtol=1e-5, atol=1e-3)
    assert second.rows == len(x)


def test_the_gram_matrix_behind_a_table_counts_its_rows(rng):
    table = weight(rng, LOOK_UP[1])
    ids = rng.integers(0, 100, 300)
    stats = LayerStatistics(None, np.bincount(ids, minlength=100), 300, None, (7,))
    model = modelled(LOOK_UP[0], table)
    one = FactorizeEmbedding(rank=8, min_elements=1)
    stage = Stage("factorize-embedding", {"method": "svd", "rank": 8})
    p, _ = one.transform(layers_of(model, one)[0], stage, (table.astype(np.float64),), None)
    first, second = made_by(one, model, stage, stats)
    assert second.gram is not None
    assert first.counts is stats.counts
    np.testing.assert_allclose(second.gram, p[ids].T @ p[ids], rtol=1e-5, atol=1e-3)


def test_a_tied_table_is_rounded_for_its_rows_and_judged_by_its_logits(rng):
    table, x = weight(rng, TIED[1]), inputs(rng)
    counts = rng.integers(0, 9, 100)
    reads = LayerStatistics(None, counts, int(counts.sum()), None, (7,))
    stats = LayerStatistics(None, counts, int(counts.sum()), None, (7,), members=(reads, known(x)))
    model, one = modelled(TIED[0], table), quantizer(bits=4, group=32)
    layer = layers_of(model, one)[0]
    (candidate,) = one.candidates(layer, stats, TARGETS["nbits"])
    (dense,) = one.transform(layer, candidate.stages[0], (table.astype(np.float64),), stats)
    (plain,) = one.transform(layer, candidate.stages[0], (table.astype(np.float64),), None)
    np.testing.assert_array_equal(dense, plain)
    wrong = dense - table
    logits = loss(x, table.T, dense.T)
    rows = np.linalg.norm(wrong) / np.linalg.norm(table)
    read = np.sqrt((counts @ wrong**2).sum() / (counts @ table.astype(np.float64) ** 2).sum())
    assert candidate.error == pytest.approx(max(logits, rows, read), rel=1e-6)
    (gptq,) = quantizer(bits=4, group=32, method="gptq").candidates(layer, stats, TARGETS["nbits"])
    (other,) = one.transform(layer, gptq.stages[0], (table.astype(np.float64),), stats)
    assert loss(x, table.T, other.T) < logits


def test_nothing_is_known_behind_what_is_no_product(rng):
    text = f"g (float[5, {K}] x) => (float[5, {N}] y) {{ s = Sigmoid(x)  y = MatMul(s, w) }}"
    model = modelled(text, weight(rng))
    (layer,) = layers_of(model, quantizer())
    (x,) = model.graph.inputs
    assert inherited({x: known(inputs(rng))}, layer) is None
    assert inherited({}, layer) is None
