"""TensorizeGemm: every layout of MatMul and Gemm, against float64 numpy and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.tensorize_gemm import TensorizeGemm
from tests.passes.conftest import build

Array = npt.NDArray[Any]

TARGET = load_target("ort-cpu")
K, N = 23, 18
STAGES: dict[str, dict[str, Any]] = {
    "tucker": {"method": "tucker", "rank_in": 5, "rank_out": 4},
    "tt": {"method": "tt", "rank_in": 5, "rank_out": 4, "split": 3},
    "cp": {"method": "cp", "rank": 4, "split": 3},
}


def dense(method: str, rng: np.random.Generator) -> Array:
    """(K, N) of the ranks in `STAGES`, written down axis by axis."""
    shapes: tuple[tuple[int, ...], ...]
    if method == "tucker":
        shapes, sums = ((K, 5), (5, 4), (4, N)), "kr,rs,sn->kn"
    elif method == "tt":
        shapes, sums = ((K, 5), (5, 3, 4), (4, 6)), "kr,ris,sj->kij"
    else:
        shapes, sums = ((K, 4), (3, 4), (6, 4)), "kr,ir,jr->kij"
    product: Array = np.einsum(sums, *(rng.standard_normal(shape) for shape in shapes))
    return product.reshape(K, N)


def model_of(
    node: str, shape: str, weight: Array, *, more: Mapping[str, Array] | None = None, **kind: Any
) -> ir.Model:
    """x -> a node that reads x, w and perhaps b -> y."""
    text = f"g (float[{shape}] x) => (float y) {{ y = {node} }}"
    return build(text, {"w": weight.astype(np.float32), **(more or {})}, **kind)


def layer_of(model: ir.Model, **options: Any) -> Layer:
    """The only one."""
    (layer,) = TensorizeGemm(min_elements=1, **options).layers(model)
    assert isinstance(layer, Layer), layer
    return layer


def reason_of(model: ir.Model, **options: Any) -> str:
    """Why the only layer is refused."""
    (found,) = TensorizeGemm(min_elements=1, **options).layers(model)
    assert isinstance(found, Skipped)
    return found.why


def treat(
    model: ir.Model, options: Mapping[str, Any], stats: LayerStatistics | None = None
) -> list[str]:
    """Put three products in the place of the only layer; the operators."""
    one = TensorizeGemm(min_elements=1)
    stage = Stage(one.name, options)
    assert apply_treatments(model, [(layer_of(model), (stage,), stats)], {one.name: one}) == []
    return [node.op_type for node in model.graph]


CASES: dict[str, tuple[str, str, tuple[int, ...], bool]] = {
    "matmul": ("MatMul(x, w)", "5, 23", (5, K), False),
    "matmul-3d": ("MatMul(x, w)", "a, b, 23", (2, 7, K), False),
    "matmul-4d": ("MatMul(x, w)", "a, 3, b, 23", (2, 3, 1, K), False),
    "matmul-vector": ("MatMul(x, w)", "23", (K,), False),
    "matmul-empty": ("MatMul(x, w)", "a, 4, 23", (0, 4, K), False),
    "gemm": ("Gemm(x, w)", "a, 23", (5, K), False),
    "gemm-empty": ("Gemm(x, w, b)", "a, 23", (0, K), False),
    "gemm-bias": ("Gemm(x, w, b)", "a, 23", (5, K), False),
    "gemm-transA": ("Gemm<transA = 1>(x, w, b)", "23, a", (K, 5), False),
    "gemm-transB": ("Gemm<transB = 1>(x, w, b)", "a, 23", (5, K), True),
    "gemm-both": ("Gemm<transA = 1, transB = 1>(x, w, b)", "23, a", (K, 5), True),
    "gemm-scaled": ("Gemm<alpha = 0.5, beta = -2.0>(x, w, b)", "a, 23", (5, K), False),
    "gemm-all": ("Gemm<alpha = 3.0, beta = 1.25, transA = 1, transB = 1>(x, w, b)", "23, a",
                 (K, 5), True),
    "gemm-without-bias": ("Gemm<beta = 0.0>(x, w, b)", "a, 23", (5, K), False),
}  # fmt: skip


@pytest.mark.parametrize("method", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_a_weight_of_these_ranks_is_exact_in_every_layout(method, case, rng):
    node, shape, sizes, transposed = CASES[case]
    weight = dense(method, rng)
    more = {"b": rng.standard_normal(N).astype(np.float32)} if "b)" in node else {}
    model = model_of(node, shape, weight.T if transposed else weight, more=more)
    x = rng.standard_normal(sizes).astype(np.float32)
    before = Runner(model)({"x": x})["y"]

    ops = treat(model, STAGES[method])

    after = Runner(model)({"x": x})["y"]
    assert after.shape == before.shape
    # CP is fitted, until sweeps gain less than 2e-5 of the error
    tol = 1e-4 if method == "cp" else 1e-5
    assert np.abs(after - before).max(initial=0) <= tol * np.abs(before).max(initial=0)
    assert ops.count("MatMul") + ops.count("Gemm") == (2 if method == "cp" else 3)
    assert "Shape" not in ops
    assert ("Add" in ops) == (method != "tucker" and "b)" in node and "beta = 0" not in node)
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (5, N), (1, N)])
def test_what_gemm_adds_may_have_any_shape_that_broadcasts(shape, rng):
    bias = rng.standard_normal(shape).astype(np.float32)
    model = model_of("Gemm<beta = 2.0>(x, w, b)", "5, 23", dense("tt", rng), more={"b": bias})
    x = rng.standard_normal((5, K)).astype(np.float32)
    before = Runner(model)({"x": x})["y"]
    treat(model, STAGES["tt"])
    np.testing.assert_allclose(Runner(model)({"x": x})["y"], before, atol=1e-4)


@pytest.mark.parametrize("method", ["tt", "cp"])
def test_sizes_come_from_the_tensor_where_the_number_of_axes_is_not_known(method, rng):
    text = """g (float[5, 23] x, int64[n] s) => (float y) {
        shaped = Reshape(x, s)
        y = MatMul(shaped, w)
    }"""
    weight = dense(method, rng).astype(np.float32)
    model = build(text, {"w": weight})
    assert treat(model, STAGES[method]).count("Shape") == 1
    run = Runner(model)
    x = rng.standard_normal((5, K)).astype(np.float32)
    for leading in ((5,), (1, 5), (5, 1, 1)):
        y = run({"x": x, "s": np.array([*leading, K])})["y"]
        np.testing.assert_allclose(y, (x @ weight).reshape(*leading, N), atol=1e-3)


@pytest.mark.parametrize("method", STAGES)
def test_a_layer_in_a_body_is_treated(method, rng):
    text = """g (float[a, 23] x, bool c) => (float y) {
        y = If(c) <
            then_branch = t () => (float u) { u = MatMul(x, w) },
            else_branch = e () => (float v) { v = Constant<value = float {1.0}>() }
        >
    }"""
    weight = dense(method, rng).astype(np.float32)
    model = build(text, {"w": weight})
    one = TensorizeGemm(min_elements=1)
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    stage = Stage(one.name, STAGES[method])
    assert apply_treatments(model, [(layer, (stage,), None)], {one.name: one}) == []
    x = rng.standard_normal((4, K)).astype(np.float32)
    y = Runner(model)({"x": x, "c": np.array(True)})["y"]
    np.testing.assert_allclose(y, x @ weight, atol=1e-3)


@pytest.mark.parametrize("method", STAGES)
@pytest.mark.parametrize("case", ["gemm-all", "matmul-3d"])
def test_restore_gives_the_weight_that_the_nodes_stand_for(method, case, rng):
    node, shape, sizes, transposed = CASES[case]
    weight = rng.standard_normal((N, K) if transposed else (K, N)).astype(np.float32)
    more = {"b": rng.standard_normal(N).astype(np.float32)}
    one, stage = TensorizeGemm(), Stage("tensorize-gemm", STAGES[method])
    model = model_of(node, shape, weight, more=more)
    factors = one.transform(layer_of(model), stage, (weight.astype(np.float64),), None)
    (stands,) = one.restore(layer_of(model), factors)
    assert stands.shape == weight.shape
    assert [f.ndim for f in factors] == [2, 2, 2]
    x = rng.standard_normal(sizes).astype(np.float32)
    expected = Runner(model_of(node, shape, stands, more=more))({"x": x})["y"]
    treat(model, STAGES[method])
    after = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(after, expected, atol=1e-5 * np.abs(expected).max())
    (same,) = one.restore(layer_of(model_of(node, shape, weight, more=more)), (stands,))
    np.testing.assert_array_equal(same, stands)


@pytest.mark.parametrize("method", STAGES)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_factors_have_the_type_of_the_weight(method, dtype, rng):
    kind = "float16" if dtype is np.float16 else "double"
    weight = (dense(method, rng) / 8).astype(dtype)
    text = f"g ({kind}[a, 23] x) => ({kind}[a, 18] y) {{ y = Gemm<alpha = 0.5>(x, w) }}"
    model = build(text, {"w": weight})
    x = rng.standard_normal((6, K)).astype(dtype)
    treat(model, STAGES[method])
    types = {v.const_value.dtype.numpy() for v in model.graph.initializers.values()}  # type: ignore[union-attr]
    assert types == {np.dtype(dtype), np.dtype(np.int64)} - (
        {np.dtype(np.int64)} if method == "tucker" else set()
    )
    exact = 0.5 * x.astype(np.float64) @ weight.astype(np.float64)
    # fp16: a few roundings of 2^-11 in each of three products
    tol = 1e-2 if dtype is np.float16 else 1e-4
    after = Runner(model)({"x": x})["y"]
    assert np.abs(after - exact).max() <= tol * np.abs(exact).max()


def test_names_and_origin_survive_and_a_second_run_changes_nothing(rng):
    model = model_of("Gemm(x, w)", "a, 23", dense("tt", rng))
    model.graph.node(0).metadata_props["origin"] = "here"
    treat(model, STAGES["tt"])
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert {node.metadata_props["origin"] for node in model.graph} == {"here"}
    assert {node.metadata_props["rx.by"] for node in model.graph} == {"tensorize-gemm"}
    for one in (TensorizeGemm(min_elements=1), FactorizeGemm(min_elements=1)):
        found = [layer.why for layer in one.layers(model) if isinstance(layer, Skipped)]
        assert found == ["MatMul: is a factor already"] * 3


REFUSED: Sequence[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
    ("MatMul(w, x)", "23, 18, 5", {}, {}, "MatMul: its weight is on the left"),
    ("Gemm<transB = 1>(w, x)", "5, 18", {}, {}, "Gemm: its weight is on the left"),
    ("MatMul(x, w)", "a, 23", {}, {"split": 4}, "18 columns are no 4 times 2 or more"),
    ("MatMul(x, w)", "a, 23", {}, {"split": 18}, "18 columns are no 18 times 2 or more"),
    ("MatMul(x, w)", "a, 23", {}, {"max_side": 17}, "smaller side 18, above 17"),
    ("MatMul(x, w)", "a, 23", {"opset": 6}, {}, "opset 6 adds without broadcasting"),
]


@pytest.mark.parametrize(("node", "shape", "kind", "options", "why"), REFUSED)
def test_layers_that_cannot_be_treated_say_why(node, shape, kind, options, why, rng):
    model = model_of(node, shape, dense("tt", rng), **kind)
    assert why in reason_of(model, **options)


def test_other_weights_are_refused_with_the_reason(rng):
    prime = model_of("MatMul(x, w)", "a, 23", rng.standard_normal((K, 17)))
    assert reason_of(prime) == "MatMul: its 17 columns are no product of two sides"
    assert isinstance(layer_of(prime, method="tucker"), Layer)
    batch = model_of("MatMul(x, w)", "a, 23", rng.standard_normal((2, K, N)))
    assert reason_of(batch) == "MatMul: its weight is a batch of matrices"
    text = "g (float[a, 18] x) => (float y) { z = MatMul(x, w)  y = MatMul(z, w) }"
    shared = build(text, {"w": rng.standard_normal((N, N)).astype(np.float32)})
    assert reason_of(shared) == "MatMul: 2 nodes share it"
    text = "g (float[5, 23] x, int64[n] s) => (float y) { z = Reshape(x, s)  y = MatMul(z, w) }"
    weight = dense("tt", rng).astype(np.float32)
    assert "any number of axes" in reason_of(build(text, {"w": weight}, opset=9))
    assert isinstance(layer_of(model_of("MatMul(x, w)", "a, 23", weight, opset=9)), Layer)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "svd", "rank": 2}, "there is no method 'svd'"),
        ({"method": "tt", "rank": 2, "split": 3}, "rank_in and rank_out is missing"),
        ({"method": "cp", "rank_in": 2, "split": 3}, "rank is missing"),
        ({"method": "tt", "rank_in": 2, "rank_out": 2, "split": 5}, "no 5 times"),
        ({"method": "tt", "rank_in": 2, "rank_out": 7, "split": 3}, "2, 7 do not fit"),
        ({"method": "tt", "rank_in": 7, "rank_out": 2, "split": 3}, "7, 2 do not fit"),
        ({"method": "tt", "rank_in": 0, "rank_out": 2, "split": 3}, "0, 2 do not fit"),
        ({"method": "tucker", "rank_in": 2, "rank_out": 19}, "2, 19 do not fit"),
    ],
)
def test_stages_that_do_not_fit_are_refused(options, why, rng):
    model = model_of("MatMul(x, w)", "a, 23", dense("tt", rng))
    one, layer = TensorizeGemm(min_elements=1), layer_of(model)
    stage = Stage(one.name, options)
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert why in refused.why
    with pytest.raises(InputError, match=why):
        one.transform(layer, stage, (np.ones((K, N)),), None)
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_weights_that_are_not_finite_and_stages_of_chains_are_refused(rng):
    weight = dense("tt", rng)
    weight[3, 4] = np.inf
    model = model_of("MatMul(x, w)", "a, 23", weight)
    one, layer = TensorizeGemm(min_elements=1, method="tt", rank=2), layer_of(model)
    assert list(one.candidates(layer, None, TARGET)) == []
    stage = Stage(one.name, STAGES["tt"])
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert "NaN or infinity" in refused.why
    with pytest.raises(InputError, match="factorized already"):
        one.transform(layer, stage, (np.ones((K, 2)), np.ones((2, N))), None)


def test_a_layer_of_zeros_that_is_only_timed_has_factors_of_the_right_sizes(rng):
    for method, options in STAGES.items():
        model = model_of("MatMul(x, w)", "a, 23", np.zeros((K, N)))
        treat(model, options)
        y = Runner(model)({"x": np.ones((2, K), np.float32)})["y"]
        assert y.shape == (2, N), method
        assert not y.any()


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank_in": 2},
        {"rank_in": 2, "rank_out": 0},
        {"rank_in": 2, "rank_out": 2, "ratio": 0.5},
        {"rank": 2, "rank_in": 2, "rank_out": 2},
        {"method": "svd"},
        {"method": "tt,qr"},
        {"weighting": "patches"},
        {"split": 1},
        {"max_side": 0},
        {"ratio": 1.0},
        {"rule": "aic"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="tensorize-gemm"):
        TensorizeGemm(**options)
