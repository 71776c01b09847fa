"""FactorizeSiblings: one first factor for products of one activation."""

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
from onnxslim_rx_passes.factorize_siblings import FactorizeSiblings

TARGET = load_target("ort-cpu")
K, RANK = 24, 4
# weights (K, N) of one column space, in the layout that each node reads
NODES: dict[str, tuple[str, bool]] = {
    "matmul": ("MatMul(x, {w})", False),
    "gemm": ("Gemm(x, {w})", False),
    "gemm-transB": ("Gemm<transB = 1>(x, {w})", True),
    "gemm-scaled": ("Gemm<alpha = 0.5, beta = -2.0>(x, {w}, {b})", False),
    "gemm-bias-transB": ("Gemm<transB = 1, beta = 3.0>(x, {w}, {b})", True),
    "gemm-left": ("Gemm<transB = 1>({w}, x)", True),
    "gemm-left-transA": ("Gemm<transA = 1, transB = 1>({w}, x)", False),
}
# the same of an activation (K, M), whose first axis is contracted
UPRIGHT: dict[str, tuple[str, bool]] = {
    "matmul-left": ("MatMul({w}, x)", True),
    "gemm-transA": ("Gemm<transA = 1>(x, {w})", False),
    "gemm-transA-transB": ("Gemm<transA = 1, transB = 1>(x, {w})", True),
    "gemm-left": ("Gemm<alpha = 2.0>({w}, x)", True),
    "gemm-left-transA": ("Gemm<transA = 1>({w}, x)", False),
}


def siblings(build_model, rng, cases, shape, dtype=np.float32):
    """A model whose nodes all read x, and whose weights share a column space of rank `RANK`."""
    space = rng.standard_normal((K, RANK))
    lines, outputs, weights = [], [], {}
    for number, (text, transposed) in enumerate(cases):
        n = 10 + 3 * number
        weight = (space @ rng.standard_normal((RANK, n))).astype(dtype)
        weights[f"w{number}"] = np.ascontiguousarray(weight.T) if transposed else weight
        lines.append(f"y{number} = " + text.format(w=f"w{number}", b=f"b{number}"))
        outputs.append(f"float[?, ?] y{number}")
        if f"b{number}" in lines[-1]:
            weights[f"b{number}"] = rng.standard_normal(n).astype(dtype)
    kind = "float16" if dtype is np.float16 else "float"
    text = f"g ({kind}{list(shape)} x) => ({', '.join(outputs)}) {{ {'; '.join(lines)}; }}"
    text = text.replace("float[?", f"{kind}[?")
    return build_model(text.replace(";", "\n"), weights)


def only_unit(one, model) -> Layer:
    """The one unit that the pass finds."""
    (unit,) = one.layers(model)
    assert isinstance(unit, Layer)
    return unit


def treat(model, stats=None, **options):
    """Factorize the only unit by its first candidate."""
    one = FactorizeSiblings(min_elements=1, **options)
    unit = only_unit(one, model)
    candidate = next(iter(one.candidates(unit, stats, TARGET)))
    assert apply_treatments(model, [(unit, candidate.stages, stats)], {one.name: one}) == []
    return candidate


@pytest.mark.parametrize("upright", [False, True])
def test_every_mix_of_one_column_space_is_exact(upright, rng, build_model):
    cases = (UPRIGHT if upright else NODES).values()
    shape = (K, 5) if upright else (5, K)
    model = siblings(build_model, rng, cases, shape)
    x = rng.standard_normal(shape).astype(np.float32)
    before = Runner(model)({"x": x})
    treat(model, rank=RANK)
    after = Runner(model)({"x": x})
    for name, expected in before.items():
        tolerance = 48 * 2.0**-24 * K * np.abs(expected).max()
        np.testing.assert_allclose(after[name], expected, atol=tolerance, rtol=0)
    # X P is computed once
    assert len(list(model.graph)) == len(cases) + 1
    assert not any(name in model.graph.initializers for name in ("w0", "w1"))


def test_activations_of_three_axes_and_float16(rng, build_model):
    model = siblings(build_model, rng, [NODES["matmul"]] * 2, (5, K), np.float16)
    treat(model, rank=RANK)
    kinds = {value.const_value.numpy().dtype for value in model.graph.initializers.values()}
    assert kinds == {np.dtype(np.float16)}
    model = siblings(build_model, rng, [NODES["matmul"]] * 3, (2, 5, K))
    x = rng.standard_normal((2, 5, K)).astype(np.float32)
    before = Runner(model)({"x": x})
    treat(model, rank=RANK)
    after = Runner(model)({"x": x})
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, atol=1e-4, rtol=0)


def test_those_that_contract_another_axis_are_no_siblings(rng, build_model):
    text = """g (float[24, 24] x) => (float[24, 20] a, float[20, 24] b) {
        a = MatMul(x, u)
        b = MatMul(v, x)
    }"""
    weights = {
        "u": rng.standard_normal((24, 20)).astype(np.float32),
        "v": rng.standard_normal((20, 24)).astype(np.float32),
    }
    assert list(FactorizeSiblings(min_elements=1).layers(build_model(text, weights))) == []


def test_what_lies_between_siblings_still_follows_the_first(rng, build_model):
    text = """g (float[5, 24] x) => (float[5, 10] b) {
        a = MatMul(x, w0)
        r = Relu(a)
        s = MatMul(r, w2)
        b = Gemm(x, w1, s)
    }"""
    space = rng.standard_normal((K, RANK))
    weights = {
        "w0": (space @ rng.standard_normal((RANK, 12))).astype(np.float32),
        "w1": (space @ rng.standard_normal((RANK, 10))).astype(np.float32),
        "w2": rng.standard_normal((12, 10)).astype(np.float32),
    }
    model = build_model(text, weights)
    x = rng.standard_normal((5, K)).astype(np.float32)
    before = Runner(model)({"x": x})["b"]
    treat(model, rank=RANK)
    np.testing.assert_allclose(Runner(model)({"x": x})["b"], before, atol=1e-3, rtol=0)
    made: set[Any] = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        assert set(node.inputs) <= made
        made.update(node.outputs)


def test_the_unit_names_regions_constants_and_members(rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:3], (5, K))
    unit = only_unit(FactorizeSiblings(min_elements=1), model)
    assert unit.name == "w0 + w1 + w2"
    assert [value.name for value in unit.weights] == ["w0", "w1", "w2"]
    assert list(unit.nodes) == list(model.graph)
    plain = {layer.name for layer in FactorizeGemm(min_elements=1).layers(model)}  # type: ignore[union-attr]
    assert {member.name for member in unit.members} == plain


@pytest.mark.parametrize("whitened", [False, True])
def test_the_error_of_every_candidate_is_exact(whitened, rng, build_model):
    text = """g (float[5, 96] x) => (float[5, 64] a, float[5, 80] b) {
        a = MatMul(x, u)
        b = Gemm<transB = 1>(x, v)
    }"""
    u = rng.standard_normal((96, 64)).astype(np.float32)
    v = rng.standard_normal((80, 96)).astype(np.float32)
    model = build_model(text, {"u": u, "v": v})
    x = rng.standard_normal((4000, 96)) * np.logspace(0, -1, 96)
    gram = x.T @ x
    member = LayerStatistics(gram, None, len(x), None, ())
    stats = LayerStatistics(None, None, 0, None, (), members=(member, member))
    one = FactorizeSiblings(min_elements=1)
    unit = only_unit(one, model)
    candidates = list(one.candidates(unit, stats if whitened else None, TARGET))
    errors = [candidate.error for candidate in candidates]
    assert len(errors) > 2
    assert errors == sorted(errors)
    joined = np.hstack([u, v.T]).astype(np.float64)
    weigh = gram if whitened else np.eye(96)
    for candidate in candidates:
        (stage,) = candidate.stages
        assert stage.options["method"] == ("whitened-svd" if whitened else "svd")
        factors = one.transform(unit, stage, (u, v), stats)
        dense = one.restore(unit, factors)
        assert [w.shape for w in dense] == [u.shape, v.shape]
        delta = np.hstack([dense[0], dense[1].T]) - joined
        true = np.trace(delta.T @ weigh @ delta) / np.trace(joined.T @ weigh @ joined)
        assert candidate.error == pytest.approx(np.sqrt(true), rel=1e-2)
        assert candidate.bytes == 4 * sum(factor.size for factor in factors)


def test_restored_weights_are_what_the_new_nodes_compute(rng, build_model):
    model = siblings(build_model, rng, NODES.values(), (5, K))
    one = FactorizeSiblings(min_elements=1)
    unit = only_unit(one, model)
    stage = Stage(one.name, {"method": "svd", "rank": 2})
    weights = tuple(value.const_value.numpy() for value in unit.weights)  # type: ignore[union-attr]
    dense = one.restore(unit, one.transform(unit, stage, weights, None))
    x = rng.standard_normal((5, K)).astype(np.float32)
    assert apply_treatments(model, [(unit, (stage,), None)], {one.name: one}) == []
    after = Runner(model)({"x": x})
    for (name, got), (text, transposed), w in zip(
        after.items(), NODES.values(), dense, strict=True
    ):
        if "{b}" not in text:
            y = x @ (w.T if transposed else w)
            expected = y.T if "({w}" in text else y
            np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=name)


def test_a_second_run_finds_nothing(rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:3], (5, K))
    treat(model, rank=RANK)
    assert list(FactorizeSiblings(min_elements=1).layers(model)) == []
    found = list(FactorizeGemm(min_elements=1).layers(model))
    assert all(isinstance(layer, Skipped) for layer in found)


def test_a_weight_that_others_read_is_no_sibling(rng, build_model):
    text = """g (float[24, 24] x) => (float[24, 24] a, float[24, 24] b) {
        a = MatMul(x, u)
        b = MatMul(a, u)
    }"""
    model = build_model(text, {"u": rng.standard_normal((24, 24)).astype(np.float32)})
    assert list(FactorizeSiblings(min_elements=1).layers(model)) == []


def test_too_many_elements_are_refused_with_a_reason(rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:2], (5, K))
    (found,) = FactorizeSiblings(min_elements=1, max_elements=100).layers(model)
    assert isinstance(found, Skipped)
    assert "above 100" in found.why


def test_weights_that_are_not_finite_are_refused(rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:2], (5, K))
    one = FactorizeSiblings(min_elements=1)
    unit = only_unit(one, model)
    stage = Stage(one.name, {"method": "svd", "rank": 2})
    broken = unit.weights[1].const_value.numpy().copy()  # type: ignore[union-attr]
    broken[0, 0] = np.nan
    unit.weights[1].const_value = ir.tensor(broken, name="w1")
    assert list(one.candidates(unit, None, TARGET)) == []
    (refused,) = apply_treatments(model, [(unit, (stage,), None)], {one.name: one})
    assert "NaN" in refused.why
    assert "w1" in model.graph.initializers


@pytest.mark.parametrize("rank", [0, 24])
def test_ranks_that_do_not_fit_are_refused(rank, rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:2], (5, K))
    one = FactorizeSiblings(min_elements=1)
    unit = only_unit(one, model)
    stage = Stage(one.name, {"method": "svd", "rank": rank})
    (refused,) = apply_treatments(model, [(unit, (stage,), None)], {one.name: one})
    assert f"rank {rank} is not in 1 to 23" in refused.why


def test_whitening_needs_statistics(rng, build_model):
    model = siblings(build_model, rng, list(NODES.values())[:2], (5, K))
    one = FactorizeSiblings(min_elements=1, method="whitened-svd")
    with pytest.raises(InputError, match="no statistics"):
        list(one.candidates(only_unit(one, model), None, TARGET))
    with pytest.raises(InputError, match="max_elements"):
        FactorizeSiblings(max_elements=0)
