"""StoreHalf: every kind of weight, bit for bit the one that numpy rounds to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, size_bytes
from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._halves import UNITS, to_half, worst_slice
from onnxslim_rx_passes.store_half import StoreHalf

Array = npt.NDArray[Any]

TARGET = load_target("portable")
TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MATMUL = "g (float[4, 40] x) => (float[4, 60] y) { y = MatMul(x, w) }"
CASES = {
    "matmul": (MATMUL, (40, 60)),
    "matmul-left": ("g (float[60, 4] x) => (float[40, 4] y) { y = MatMul(w, x) }", (40, 60)),
    "matmul-batched": (
        "g (float[3, 4, 40] x) => (float[3, 4, 60] y) { y = MatMul(x, w) }",
        (3, 40, 60),
    ),
    "gemm": ("g (float[4, 40] x) => (float[4, 60] y) { y = Gemm<transB=1>(x, w) }", (60, 40)),
    "conv": (
        "g (float[1, 8, 9, 9] x) => (float[1, 16, 7, 7] y) { y = Conv(x, w) }",
        (16, 8, 3, 3),
    ),
    "conv-transpose": (
        "g (float[1, 16, 5, 5] x) => (float[1, 8, 7, 7] y) { y = ConvTranspose(x, w) }",
        (16, 8, 3, 3),
    ),
    "embedding": ("g (int64[7] x) => (float[7, 16] y) { y = Gather(w, x) }", (100, 16)),
    "gru": (
        "g (float[5, 1, 12] x) => (float[5, 1, 1, 16] y) { y = GRU<hidden_size=16>(x, w, r) }",
        (1, 48, 12),
    ),
}


def model(
    text: str, weights: Mapping[str, Array] | None = None, opset: int = 17, **more: Array
) -> ir.Model:
    """A graph in ONNX's text form with the given initializers."""
    found = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    for name, array in {**(weights or {}), **more}.items():
        (value,) = {
            v for node in found.graph.all_nodes() for v in node.inputs if v and v.name == name
        }
        value.const_value = ir.tensor(array, name=name)
        found.graph.register_initializer(value)
    return load(ir.to_proto(found))


def offers(found: ir.Model, stats: LayerStatistics | None = None, **options: Any) -> list[str]:
    """Which type each layer is offered, and none."""
    return [str(c.stages[0].options["type"]) for _, c in _candidates(found, stats, **options)]


def _candidates(
    found: ir.Model, stats: LayerStatistics | None = None, **options: Any
) -> list[tuple[Layer, Candidate]]:
    one = StoreHalf(**{"min_elements": 1, **options})
    layers = [layer for layer in one.layers(found) if isinstance(layer, Layer)]
    return [(layer, c) for layer in layers for c in one.candidates(layer, stats, TARGET)]


def store(found: ir.Model, **options: Any) -> int:
    """Treat every layer; how many."""
    treatments = [(layer, c.stages, None) for layer, c in _candidates(found, **options)]
    one = StoreHalf(min_elements=1)
    assert apply_treatments(found, treatments, {one.name: one}) == []
    return len(treatments)


def feed(found: ir.Model, rng: np.random.Generator) -> dict[str, Array]:
    (x,) = found.graph.inputs
    assert x.shape is not None
    if x.dtype == ir.DataType.INT64:
        return {"x": rng.integers(0, 100, x.shape.numpy())}
    return {"x": rng.standard_normal(x.shape.numpy()).astype(np.float32)}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_the_model_computes_with_the_rounded_weight(
    case: str, name: str, rng: np.random.Generator
) -> None:
    text, shape = CASES[case]
    weights = {"w": rng.standard_normal(shape).astype(np.float32)}
    if case == "gru":
        weights["r"] = rng.standard_normal((1, 48, 16)).astype(np.float32)
    plain = model(text, weights)
    found = model(text, weights)
    assert store(found, type=name) == len(weights)
    rounded = {key: w.astype(TYPES[name]).astype(np.float32) for key, w in weights.items()}
    x = feed(plain, rng)
    expected = Runner(model(text, rounded))(x)["y"]
    np.testing.assert_array_equal(Runner(found)(x)["y"], expected)
    stored = found.graph.initializers[f"w.{name}"].const_value
    assert stored is not None
    assert stored.dtype.name.lower() == name
    assert size_bytes(found) < 0.6 * size_bytes(plain)


def test_tied_weights_stay_tied(rng: np.random.Generator) -> None:
    text = """g (int64[7] i) => (float[7, 100] y) {
        h = Gather(w, i)
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(h, t)
    }"""
    found = model(text, w=rng.standard_normal((100, 16)).astype(np.float32))
    assert store(found) == 1
    assert list(found.graph.initializers) == ["w.float16"]
    gather, transpose = (n for n in found.graph if n.op_type in ("Gather", "Transpose"))
    assert gather.inputs[0] is transpose.inputs[0]


def test_weights_of_a_branch_are_stored_in_the_branch(rng: np.random.Generator) -> None:
    text = """g (bool[] c, float[4, 40] x) => (float[4, 60] y) {
        y = If (c) <
            then_branch = t () => (float[4, 60] a) { a = MatMul(x, w) },
            else_branch = e () => (float[4, 60] b) { b = MatMul(x, v) }
        >
    }"""
    weights = {k: rng.standard_normal((40, 60)).astype(np.float32) for k in ("w", "v")}
    found = model(text, weights)
    assert store(found) == 2
    x = rng.standard_normal((4, 40)).astype(np.float32)
    for condition, name in ((True, "w"), (False, "v")):
        expected = x @ weights[name].astype(np.float16).astype(np.float32)
        made = Runner(found)({"c": np.array(condition), "x": x})["y"]
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_for_what_float16_cannot_hold(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 60)).astype(np.float32)
    assert offers(model(MATMUL, w=weight)) == ["float16"]
    large = weight.copy()
    large[3, 3] = 7e4
    assert offers(model(MATMUL, w=large)) == ["bfloat16"]
    assert offers(model(MATMUL, w=large), type="float16") == []
    # one column of tiny numbers, all but invisible in the weight's own norm
    tiny = weight.copy()
    tiny[:, 7] *= 1e-7
    assert offers(model(MATMUL, w=tiny)) == ["bfloat16"]
    # and tiny numbers among large ones, of which nothing is left to be seen
    mixed = weight.copy()
    mixed[7, :] *= 1e-7
    assert offers(model(MATMUL, w=mixed)) == ["float16"]
    assert offers(model(MATMUL, opset=12, w=large)) == []


def test_errors_are_those_of_the_outputs_where_inputs_are_known(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 60)).astype(np.float32)
    x = rng.standard_normal((500, 40)) * 10.0 ** rng.uniform(-2, 2, 40)
    rounded = weight.astype(np.float16).astype(np.float64)
    stats = LayerStatistics(x.T @ x, None, len(x), None, (1, 40))
    for known, moments in ((None, np.eye(40)), (stats, x)):
        ((_, candidate),) = _candidates(model(MATMUL, w=weight), known)
        lost = np.linalg.norm(moments @ (rounded - weight)) / np.linalg.norm(moments @ weight)
        assert candidate.error == pytest.approx(lost, rel=1e-6)
        assert 0 < candidate.error < UNITS["float16"]
        assert candidate.bytes == weight.nbytes // 2
        assert candidate.folds
        assert not candidate.follows


def test_double_precision_comes_back_as_such(rng: np.random.Generator) -> None:
    text = "g (double[4, 40] x) => (double[4, 60] y) { y = MatMul(x, w) }"
    weight = rng.standard_normal((40, 60))
    found = model(text, w=weight)
    assert store(found) == 1
    x = rng.standard_normal((4, 40))
    expected = x @ weight.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(Runner(found)({"x": x})["y"], expected, rtol=1e-12)


def test_what_is_refused_says_why(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 60)).astype(np.float32)
    half = "g (float16[4, 40] x) => (float16[4, 60] y) { y = MatMul(x, w) }"
    treated = model(MATMUL, w=weight)
    assert store(treated) == 1
    cases = {
        "FLOAT16 already": model(half, w=weight.astype(np.float16)),
        "through Cast": treated,
        "opset 5": model(MATMUL, opset=5, w=weight),
    }
    for why, found in cases.items():
        (layer,) = StoreHalf(min_elements=1).layers(found)
        assert isinstance(layer, Skipped)
        assert why in layer.why
    (layer,) = StoreHalf().layers(model(MATMUL, w=weight[:, :1]))
    assert isinstance(layer, Skipped)
    assert "below 512" in layer.why
    assert offers(model(MATMUL, w=weight[:, :1])) == []  # a node takes as much as it saves


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_get_no_candidate(bad: float, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 60)).astype(np.float32)
    weight[0, 0] = bad
    found = model(MATMUL, w=weight)
    assert offers(found) == []
    (layer,) = StoreHalf().layers(found)
    assert isinstance(layer, Layer)
    one, stage = StoreHalf(), Stage("store-half", {"type": "float16"})
    with pytest.raises(InputError, match="beyond the range of float16"):
        one.transform(layer, stage, (weight,), None)
    (skipped,) = apply_treatments(found, [(layer, (stage,), None)], {one.name: one})
    assert "beyond the range" in skipped.why


def test_factors_are_rounded_one_by_one(rng: np.random.Generator) -> None:
    (layer,) = StoreHalf().layers(model(MATMUL, w=rng.standard_normal((40, 60)).astype("f4")))
    assert isinstance(layer, Layer)
    p, q = rng.standard_normal((40, 5)), rng.standard_normal((5, 60))
    stage = Stage("store-half", {"type": "bfloat16"})
    found = StoreHalf().transform(layer, stage, (p, q), None)
    for one, before in zip(found, (p, q), strict=True):
        assert one.dtype == before.dtype
        np.testing.assert_array_equal(one, before.astype(ml_dtypes.bfloat16).astype(np.float64))


@pytest.mark.parametrize("options", [{"type": "float8"}, {"min_elements": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="store-half"):
        StoreHalf(**options)


@given(
    hnp.arrays(np.float32, (6, 5), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from(sorted(TYPES)),
)
def test_normal_numbers_lose_a_unit_at_most(array: Array, name: str) -> None:
    array[np.abs(array) < 2.0**-14] = 0  # float16's least normal number
    found = to_half(array, name)
    assert found is not None
    unit = UNITS[name]
    assert (np.abs(found.astype(np.float64) - array) <= unit * np.abs(array)).all()
    assert worst_slice(array, found, (1,)) <= unit


def test_the_worst_slice_is_found_in_any_axes_and_in_parts(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((3, 4, 5))
    found = array.copy()
    found[1, :, 2] *= 1.5
    found[0, :, 0] *= 1.25
    for block in (1, 7, 1 << 20):
        monkeypatch.setattr("onnxslim_rx_passes._halves._BLOCK", block)
        assert worst_slice(array, found, (0, 2)) == pytest.approx(0.5)
        assert worst_slice(np.zeros((2, 2)), np.zeros((2, 2)), (0,)) == 0
