"""FactorizeGemm: every orientation of MatMul and Gemm, against numpy and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
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
