"""FactorizeGemm: every orientation of MatMul and Gemm, against numpy and ONNX Runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes import _factors
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm

TARGET = load_target("ort-cpu")


def model_of(op, x_shape, weight, *, left=False, bias=None, opset=17, **attributes):
    """x -> op with `weight` on one side -> y."""
    dtype = ir.DataType.from_numpy(weight.dtype)
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(x_shape))
    w = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    w.type, w.shape = ir.TensorType(dtype), ir.Shape(weight.shape)
    inputs = [w, x] if left else [x, w]
    weights = [w]
    if bias is not None:
        b = ir.Value(name="b", const_value=ir.tensor(bias, name="b"))
        b.type, b.shape = ir.TensorType(dtype), ir.Shape(bias.shape)
        inputs.append(b)
        weights.append(b)
    node = ir.node(op, inputs, attributes, name="layer")
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(dtype)
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=weights, opset_imports={"": opset}, name="g"
    )
    return ir.Model(graph, ir_version=8)


def statistics(x):
    """Of activations (rows, K)."""
    x = x.astype(np.float64)
    return LayerStatistics(x.T @ x, None, len(x), x, x.shape)


def only_layer(one, model) -> Layer:
    """The one layer that the pass finds."""
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    return layer


def treat(model, rank, stats=None, **options):
    """Factorize the only layer."""
    one = FactorizeGemm(rank=rank, min_elements=1, min_saving=0.0, **options)
    layer = only_layer(one, model)
    candidates = list(one.candidates(layer, stats, TARGET))
    assert len(candidates) == 1
    refused = apply_treatments(model, [(layer, candidates[0].stages, stats)], {one.name: one})
    assert refused == []
    return candidates[0]


def low_rank(rng, k, n, rank):
    return (rng.standard_normal((k, rank)) @ rng.standard_normal((rank, n))).astype(np.float32)


def with_spectrum(rng, k, n, values):
    """A matrix with these singular values, float32."""
    u = np.linalg.qr(rng.standard_normal((k, min(k, n))))[0]
    v = np.linalg.qr(rng.standard_normal((n, min(k, n))))[0]
    return ((u * np.asarray(values)) @ v.T).astype(np.float32)


def ranks_of(one, weight, stats=None):
    """The ranks that the pass offers for `x @ weight`."""
    layer = only_layer(one, model_of("MatMul", (5, len(weight)), weight))
    return [int(c.stages[0].options["rank"]) for c in one.candidates(layer, stats, TARGET)]


def output_error(delta, weight, gram):
    """`||X delta|| / ||X W||`, from the Gram matrix."""
    ratio = np.trace(delta.T @ gram @ delta) / np.trace(weight.T @ gram @ weight)
    return float(np.sqrt(ratio))


CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "matmul": ("MatMul", (5, 24), (24, 18), {}),
    "matmul-3d": ("MatMul", (2, 5, 24), (24, 18), {}),
    "matmul-vector": ("MatMul", (24,), (24, 18), {}),
    "matmul-batched": ("MatMul", (3, 5, 24), (3, 24, 18), {}),
    "matmul-broadcast": ("MatMul", (5, 24), (3, 24, 18), {}),
    "matmul-left": ("MatMul", (24, 5), (18, 24), {"left": True}),
    "matmul-left-batched": ("MatMul", (3, 24, 5), (3, 18, 24), {"left": True}),
    "gemm": ("Gemm", (5, 24), (24, 18), {}),
    "gemm-transB": ("Gemm", (5, 24), (18, 24), {"transB": 1}),
    "gemm-transA": ("Gemm", (24, 5), (24, 18), {"transA": 1}),
    "gemm-transA-transB": ("Gemm", (24, 5), (18, 24), {"transA": 1, "transB": 1}),
    "gemm-left": ("Gemm", (24, 5), (18, 24), {"left": True}),
    "gemm-left-transA": ("Gemm", (24, 5), (24, 18), {"left": True, "transA": 1}),
    "gemm-left-transB": ("Gemm", (5, 24), (18, 24), {"left": True, "transB": 1}),
    "gemm-scaled": ("Gemm", (5, 24), (24, 18), {"alpha": 0.5, "beta": -2.0}),
    "gemm-left-all": (
        "Gemm",
        (5, 24),
        (24, 18),
        {"left": True, "transA": 1, "transB": 1, "alpha": 3.0, "beta": 0.25},
    ),
}


@pytest.mark.parametrize(
    ("case", "with_bias"),
    [
        (case, bias)
        for case in CASES
        for bias in (False, True)
        if not bias or CASES[case][0] == "Gemm"
    ],
)
def test_a_weight_of_that_rank_is_exact_in_every_orientation(case, with_bias, rng):
    op, x_shape, w_shape, options = CASES[case]
    k, n = w_shape[-2:]
    batch = int(np.prod(w_shape[:-2]))
    weight = np.stack([low_rank(rng, k, n, 4) for _ in range(batch)]).reshape(w_shape)
    columns = 5 if options.get("left") else 18
    bias = rng.standard_normal(columns).astype(np.float32) if with_bias else None
    model = model_of(op, x_shape, weight, bias=bias, **options)
    x = rng.standard_normal(x_shape).astype(np.float32)
    before = Runner(model)({"x": x})["y"]

    treat(model, 4)

    after = Runner(model)({"x": x})["y"]
    assert after.shape == before.shape
    # two products of at most 24 terms in float32 instead of one: 48 roundings, generously
    assert np.abs(after - before).max() <= 48 * 2.0**-24 * 24 * np.abs(before).max()
    assert sum(v.const_value.size for v in model.graph.initializers.values()) < weight.size + 18
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("whitened", [False, True])
def test_the_output_error_is_the_predicted_one(rank, whitened, rng):
    weight = rng.standard_normal((16, 12)).astype(np.float32)
    x = (rng.standard_normal((200, 16)) * np.logspace(0, -1, 16)).astype(np.float32)
    model = model_of("MatMul", (200, 16), weight)
    candidate = treat(model, rank, statistics(x) if whitened else None)
    after = Runner(model)({"x": x})["y"]
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    measured = np.linalg.norm(after - exact) / np.linalg.norm(exact)
    if whitened:
        # the ridge of 1e-4 of the mean energy adds at most its root
        assert measured == pytest.approx(candidate.error, abs=1e-2)
    else:
        bound = np.linalg.norm(x, 2) * candidate.error * np.linalg.norm(weight)
        assert np.linalg.norm(after - exact) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("case", ["gemm-transB", "gemm-left", "matmul-left", "matmul-batched"])
def test_restore_gives_the_weight_that_the_emitted_factors_stand_for(case, rng):
    op, x_shape, w_shape, options = CASES[case]
    weight = rng.standard_normal(w_shape).astype(np.float32)
    one = FactorizeGemm(rank=3, min_elements=1, min_saving=0.0)
    x = rng.standard_normal(x_shape).astype(np.float32)
    model = model_of(op, x_shape, weight, **options)
    layer = only_layer(one, model)
    stage = Stage(one.name, {"method": "svd", "rank": 3})
    (dense,) = one.restore(layer, one.transform(layer, stage, (weight,), None))
    assert dense.shape == weight.shape
    expected = Runner(model_of(op, x_shape, dense.astype(np.float32), **options))({"x": x})["y"]
    apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    after = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(after, expected, atol=1e-5 * np.abs(expected).max())


def test_names_types_and_metadata_of_the_output_survive(rng):
    model = model_of("MatMul", (5, 24), low_rank(rng, 24, 18, 4))
    model.graph.node(0).metadata_props["origin"] = "here"
    model.graph.outputs[0].shape = ir.Shape(["batch", 18])
    treat(model, 4)
    (y,) = model.graph.outputs
    assert (y.name, list(y.shape)) == ("y", [ir.SymbolicDim("batch"), 18])
    assert {node.metadata_props["origin"] for node in model.graph} == {"here"}
    assert {node.metadata_props["rx.by"] for node in model.graph} == {"factorize-gemm"}


def test_a_second_run_changes_nothing(rng):
    model = model_of("Gemm", (5, 64), rng.standard_normal((64, 64)).astype(np.float32))
    treat(model, 8)
    again = FactorizeGemm(rank=4, min_elements=1)
    assert all(isinstance(found, Skipped) for found in again.layers(model))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_factors_have_the_type_of_the_weight(dtype, rng):
    model = model_of("MatMul", (5, 24), low_rank(rng, 24, 18, 2).astype(dtype))
    treat(model, 2)
    assert {v.const_value.numpy().dtype for v in model.graph.initializers.values()} == {
        np.dtype(dtype)
    }


def test_a_weight_that_two_nodes_read_is_left_alone(rng):
    model = model_of("MatMul", (24, 24), rng.standard_normal((24, 24)).astype(np.float32))
    first = model.graph.node(0)
    second = ir.node("MatMul", [first.outputs[0], first.inputs[1]], name="second")
    model.graph.append(second)
    (found,) = FactorizeGemm(min_elements=1).layers(model)
    assert isinstance(found, Skipped)
    assert "share" in found.why


def test_a_weight_that_would_take_too_long_is_left_alone(rng):
    model = model_of("MatMul", (5, 64), rng.standard_normal((64, 65)).astype(np.float32))
    (found,) = FactorizeGemm(min_elements=1, max_side=63).layers(model)
    assert isinstance(found, Skipped)
    assert "smaller side 64, above 63" in found.why
    only_layer(FactorizeGemm(min_elements=1, max_side=64), model)


def test_the_ladder_descends_in_multiples_and_saves_enough(rng):
    model = model_of("MatMul", (5, 256), rng.standard_normal((256, 192)).astype(np.float32))
    one = FactorizeGemm()
    layer = only_layer(one, model)
    ranks = [int(c.stages[0].options["rank"]) for c in one.candidates(layer, None, TARGET)]
    assert ranks == sorted(ranks, reverse=True)
    assert len(ranks) >= 4
    for rank in ranks:
        assert rank % 16 == 0
        assert rank * (256 + 192) <= 0.9 * 256 * 192


def test_an_error_bound_picks_the_least_rank_that_keeps_it(rng):
    weight = low_rank(rng, 24, 18, 3) + 1e-4 * rng.standard_normal((24, 18)).astype(np.float32)
    model = model_of("MatMul", (5, 24), weight.astype(np.float32))
    one = FactorizeGemm(max_rel_error=0.01, min_elements=1)
    layer = only_layer(one, model)
    (candidate,) = one.candidates(layer, None, TARGET)
    assert candidate.stages[0].options["rank"] == 3
    assert candidate.error <= 0.01


def test_weights_that_are_not_finite_get_no_candidate(rng):
    weight = rng.standard_normal((24, 18)).astype(np.float32)
    weight[0, 0] = np.nan
    one = FactorizeGemm(min_elements=1)
    layer = only_layer(one, model_of("MatMul", (5, 24), weight))
    assert list(one.candidates(layer, None, TARGET)) == []


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"max_rel_error": 1.0},
        {"rank": 2, "max_rel_error": 0.1},
        {"method": "qr"},
        {"min_saving": 1.0},
        {"min_elements": 0},
        {"max_side": 0},
        {"ratio": 1.0},
        {"energy": 0.0},
        {"min_quality": 1.5},
        {"rule": "aic"},
        {"rule": "mdl", "ratio": 0.5},
        {"min_quality": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="factorize-gemm"):
        FactorizeGemm(**options)


def test_whitening_without_statistics_is_refused(rng):
    one = FactorizeGemm(method="whitened-svd", min_elements=1)
    layer = only_layer(one, model_of("MatMul", (5, 24), low_rank(rng, 24, 18, 3)))
    with pytest.raises(InputError, match="no statistics"):
        list(one.candidates(layer, None, TARGET))


@pytest.mark.parametrize("method", ["svd", "scaled-svd", "whitened-svd"])
def test_the_error_of_every_rank_of_the_ladder_is_exact(method, rng):
    weight = with_spectrum(rng, 96, 80, np.logspace(0, -2, 80))
    x = rng.standard_normal((5000, 96)) * np.logspace(0, -1, 96)
    stats = statistics(x)
    one = FactorizeGemm(method=method, min_elements=1)
    layer = only_layer(one, model_of("MatMul", (5, 96), weight))
    candidates = list(one.candidates(layer, stats, TARGET))
    assert len(candidates) >= 2
    for candidate in candidates:
        (dense,) = one.restore(layer, one.transform(layer, candidate.stages[0], (weight,), stats))
        true = output_error(
            dense - weight.astype(np.float64), weight.astype(np.float64), stats.gram
        )
        # whitening measures with the ridge, up to 1e-4 of the mean energy of a channel
        assert candidate.error == pytest.approx(true, rel=2e-2 if "white" in method else 1e-6)


def test_methods_that_know_more_of_the_inputs_have_smaller_errors(rng):
    weight = with_spectrum(rng, 96, 80, np.logspace(0, -1, 80))
    mix = rng.standard_normal((96, 96)) * np.logspace(0, -2, 96)
    stats = statistics(rng.standard_normal((5000, 96)) @ mix * np.logspace(0, -1, 96))
    errors = {}
    for method in ("svd", "scaled-svd", "whitened-svd"):
        one = FactorizeGemm(method=method, rank=16, min_elements=1)
        layer = only_layer(one, model_of("MatMul", (5, 96), weight))
        (candidate,) = one.candidates(layer, stats, TARGET)
        errors[method] = candidate.error
    assert errors["whitened-svd"] < errors["scaled-svd"] < errors["svd"]


@pytest.mark.parametrize(
    ("known", "method"),
    [
        ((), "svd"),
        (("mean_abs",), "scaled-svd"),
        (("gram",), "whitened-svd"),
        (("gram", "mean_abs"), "whitened-svd"),
    ],
)
def test_auto_takes_what_the_statistics_allow(known, method, rng):
    x = rng.standard_normal((200, 96))
    full = {"gram": x.T @ x, "mean_abs": np.abs(x).mean(0)}
    kept = {name: full.get(name) if name in known else None for name in full}
    stats = LayerStatistics(kept["gram"], None, 200, None, (), mean_abs=kept["mean_abs"])
    one = FactorizeGemm(rank=16, min_elements=1)
    weight = rng.standard_normal((96, 80)).astype(np.float32)
    model = model_of("MatMul", (5, 96), weight)
    (candidate,) = one.candidates(only_layer(one, model), stats, TARGET)
    assert candidate.stages[0].options["method"] == method
    assert candidate.error > 0
    if method == "scaled-svd":  # without a Gram matrix: with the channels taken as independent
        layer = only_layer(one, model)
        (dense,) = one.restore(layer, one.transform(layer, candidate.stages[0], (weight,), stats))
        diagonal = np.diag(full["mean_abs"] ** 2)
        true = output_error(dense - weight, weight.astype(np.float64), diagonal)
        assert candidate.error == pytest.approx(true, rel=1e-6)
    (again,) = FactorizeGemm(rank=16, method=method, min_elements=1).candidates(
        only_layer(one, model), stats, TARGET
    )
    assert again.stages == candidate.stages


def test_scaling_without_statistics_is_refused(rng):
    one = FactorizeGemm(method="scaled-svd", min_elements=1)
    layer = only_layer(one, model_of("MatMul", (5, 24), low_rank(rng, 24, 18, 3)))
    with pytest.raises(InputError, match="scaled-svd and no statistics"):
        list(one.candidates(layer, None, TARGET))


def test_rules_find_what_they_ask_for(rng):
    values = np.logspace(0, -2, 160)
    weight = with_spectrum(rng, 200, 160, values)
    energy = np.cumsum(values**2) / (values**2).sum()
    cases: tuple[tuple[dict[str, Any], Any], ...] = (
        ({"energy": 0.9}, np.argmax(energy >= 0.9) + 1),
        ({"max_rel_error": 0.3}, np.argmax(energy >= 1 - 0.3**2) + 1),
        ({"min_quality": 0.98}, np.argmax(energy >= 0.98**2) + 1),
    )
    for options, least in cases:
        (rank,) = ranks_of(FactorizeGemm(**options), weight)
        assert rank == -(-least // 16) * 16  # the bound holds: rounded up
    (rank,) = ranks_of(FactorizeGemm(ratio=0.5), weight)
    assert rank == int(0.5 * 200 * 160 / 360) // 16 * 16  # at most the share: rounded down
    assert ranks_of(FactorizeGemm(ratio=0.05), weight) == [int(0.05 * 200 * 160 / 360)]


@pytest.mark.parametrize("rule", ["evbmf", "mdl"])
def test_noise_rules_find_the_signal(rule, rng):
    signal = with_spectrum(rng, 300, 200, [100.0] * 20 + [0.0] * 180)
    weight = signal + rng.standard_normal((300, 200)).astype(np.float32)
    assert ranks_of(FactorizeGemm(rule=rule), weight) == [32]  # 20, as the target likes it


@pytest.mark.parametrize("options", [{"max_rel_error": 0.01}, {"min_quality": 0.9999}])
def test_a_bound_that_no_rank_keeps_and_pays_gives_nothing(options, rng):
    assert ranks_of(FactorizeGemm(**options), rng.standard_normal((200, 160))) == []
    assert ranks_of(FactorizeGemm(rank=150), rng.standard_normal((200, 160))) == []


@hypothesis.given(
    k=st.integers(1, 70),
    n=st.integers(1, 70),
    bounds=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
    name=st.sampled_from(["ratio", "energy", "max_rel_error", "min_quality"]),
    seed=st.integers(0, 9),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_ranks_rise_with_what_is_asked_for_and_always_pay(k, n, bounds, name, seed):
    weight = np.random.default_rng(seed).standard_normal((k, n))
    low, high = sorted(bounds, reverse=name == "max_rel_error")
    first = ranks_of(FactorizeGemm(**{name: low}, min_elements=1), weight)
    second = ranks_of(FactorizeGemm(**{name: high}, min_elements=1), weight)
    for rank in (*first, *second):
        assert rank * (k + n) <= 0.9 * k * n
    if second:
        assert first  # what pays for more pays for less
        assert first[0] <= second[0]


@hypothesis.given(k=st.integers(1, 400), n=st.integers(1, 400))
@hypothesis.settings(max_examples=40, deadline=None)
def test_the_ladder_descends_and_errors_rise(k, n):
    rng = np.random.default_rng(k * 1000 + n)
    one = FactorizeGemm(min_elements=1)
    layer = only_layer(one, model_of("MatMul", (5, k), rng.standard_normal((k, n))))
    found = list(one.candidates(layer, None, TARGET))
    ranks = [int(c.stages[0].options["rank"]) for c in found]
    assert ranks == sorted(set(ranks), reverse=True)
    assert all(rank >= 16 and rank * (k + n) <= 0.9 * k * n for rank in ranks)
    errors = [c.error for c in found]
    assert errors == sorted(errors)
    assert all(isinstance(c.bytes, int) for c in found)
    assert [c.bytes for c in found] == [8 * rank * (k + n) for rank in ranks]


@pytest.mark.parametrize("case", ["zero", "rank-one", "tiny", "huge"])
def test_weights_at_the_edge(case, rng):
    weight = {
        "zero": np.zeros((24, 18)),
        "rank-one": np.outer(rng.standard_normal(24), rng.standard_normal(18)),
        "tiny": low_rank(rng, 24, 18, 2) * 1e-30,
        "huge": low_rank(rng, 24, 18, 2) * 1e30,
    }[case].astype(np.float32)
    x = rng.standard_normal((5, 24)).astype(np.float32)
    for stats in (None, statistics(np.zeros((7, 24))), statistics(x)):
        model = model_of("MatMul", (5, 24), weight)
        before = Runner(model)({"x": x})["y"]
        candidate = treat(model, 3, stats)
        assert 0.0 <= candidate.error < 1e-3
        after = Runner(model)({"x": x})["y"]
        np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max(), rtol=0)


def test_one_column_pays_never(rng):
    assert ranks_of(FactorizeGemm(min_elements=1), rng.standard_normal((96, 1))) == []
    assert ranks_of(FactorizeGemm(min_elements=1, rank=1), rng.standard_normal((1, 96))) == []


def test_the_largest_float16_stays_finite(rng):
    weight = np.full((40, 40), 65504, np.float16)
    model = model_of("MatMul", (5, 40), weight)
    treat(model, 2)
    for value in model.graph.initializers.values():
        assert np.isfinite(value.const_value.numpy()).all()


def test_a_vector_times_several_matrices_is_left_alone(rng):
    model = model_of("MatMul", (24,), rng.standard_normal((3, 24, 18)).astype(np.float32))
    (found,) = FactorizeGemm(min_elements=1).layers(model)
    assert isinstance(found, Skipped)
    assert "a vector" in found.why


def test_no_transpose_is_needed_for_a_transposed_activation(rng):
    model = model_of("Gemm", (24, 5), low_rank(rng, 24, 18, 4), transA=1)
    treat(model, 4)
    assert [node.op_type for node in model.graph] == ["MatMul", "Gemm"]


def test_of_very_many_columns_only_what_needs_no_pairs_of_them(monkeypatch, rng, build_model):
    monkeypatch.setattr("onnxslim_rx_passes.factorize_gemm.MOST_COLUMNS", 20)
    weight = rng.standard_normal((24, 30)).astype(np.float32)
    model = build_model(
        "g (float[2, 24] x) => (float[2, 30] y) { y = MatMul(x, w) }", {"w": weight}
    )
    (found,) = FactorizeGemm(min_elements=1).layers(model)
    assert isinstance(found, Skipped)
    assert "24 columns" in found.why
    (found,) = FactorizeGemm(min_elements=1, method="svd").layers(model)
    assert isinstance(found, Layer)


def test_of_a_large_matrix_the_ladder_has_few_ranks(monkeypatch):
    monkeypatch.setattr("onnxslim_rx_passes._ranks._LARGE", 60)
    assert FactorizeGemm().largest(96, 128) == 16
    assert FactorizeGemm(ratio=0.8).largest(96, 128) > 40
    assert FactorizeGemm().largest(48, 128) > 20


def test_factors_are_made_once_for_the_same_numbers(monkeypatch, rng):
    made = []
    plain = _factors._factorize

    def counted(*arguments):
        made.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(_factors, "_factorize", counted)
    w, x = rng.standard_normal((9, 7)), rng.standard_normal((40, 9))
    stats = LayerStatistics(x.T @ x, None, 40, None, (40, 9), mean_abs=np.abs(x).mean(axis=0))
    other = dataclasses.replace(stats, gram=2 * x.T @ x + np.eye(9))
    for method in ("svd", "scaled-svd", "whitened-svd"):
        first = _factors.factorize(w, method, 3, stats)
        again = _factors.factorize(w.copy(), method, 3, stats)
        np.testing.assert_array_equal(first[0] @ first[1], again[0] @ again[1])
    assert len(made) == 3
    _factors.factorize(w, "whitened-svd", 3, other)
    _factors.factorize(w, "whitened-svd", 4, stats)
    _factors.factorize(w + 1, "svd", 3, stats)
    assert len(made) == 6
    _factors.factorize(w, "svd", 3, other)  # asks for no statistics
    assert len(made) == 6
