"""FactorizeExperts: mixtures in one constant and in constants of their own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_experts import FactorizeExperts

TARGET = load_target("ort-cpu")
K, H, E, RANK = 20, 28, 3, 3

DENSE = """g (float[T, 20] x, float[T, 3] g) => (float[T, 20] y) {{
    g0, g1, g2 = Split<axis = 1>(g)
    {experts}
    m0 = Mul(g0, y0)
    m1 = Mul(g1, y1)
    m2 = Mul(g2, y2)
    s = Add(m0, m1)
    y = Add(s, m2)
}}"""
ROUTED = """g (float[T, 20] x, int64[A] i0, int64[B] i1, int64[C] i2) => (float[T, 20] y) {{
    x0 = Gather<axis = 0>(x, i0)
    x1 = Gather<axis = 0>(x, i1)
    x2 = Gather<axis = 0>(x, i2)
    {experts}
    start = Sub(x, x)
    last = Constant<value = int64[1] {{1}}>()
    j0 = Unsqueeze(i0, last)
    j1 = Unsqueeze(i1, last)
    j2 = Unsqueeze(i2, last)
    s0 = ScatterND<reduction = "add">(start, j0, y0)
    s1 = ScatterND<reduction = "add">(s0, j1, y1)
    y = ScatterND<reduction = "add">(s1, j2, y2)
}}"""
STACKED = """g (float[T, 20] x, float[3, T, 1] g) => (float[T, 20] y) {{
    {experts}
    first = Constant<value = int64[1] {{0}}>()
    u0 = Unsqueeze(y0, first)
    u1 = Unsqueeze(y1, first)
    u2 = Unsqueeze(y2, first)
    all = Concat<axis = 0>(u0, u1, u2)
    weighed = Mul(all, g)
    y = ReduceSum<keepdims = 0>(weighed, first)
}}"""
# gate, up and down projection; Gemm has its weights transposed
EXPERT = {
    "matmul": """a{e} = MatMul({x}, gate{e})
    b{e} = MatMul({x}, up{e})
    c{e} = Sigmoid(a{e})
    d{e} = Mul(c{e}, b{e})
    z{e} = MatMul(d{e}, down{e})
    y{e} = Add(z{e}, bias{e})
    """,
    "gemm": """a{e} = Gemm<transB = 1>({x}, gate{e})
    b{e} = Gemm<transB = 1>({x}, up{e})
    c{e} = Sigmoid(a{e})
    d{e} = Mul(c{e}, b{e})
    y{e} = Gemm<transB = 1, beta = 2.0>(d{e}, down{e}, bias{e})
    """,
}


def mixture(build_model, rng, form=DENSE, kind="matmul", share="second"):
    """A mixture of gated experts whose weights have a factor of rank `RANK` in common."""
    own = form is ROUTED
    experts = "".join(EXPERT[kind].format(e=e, x=f"x{e}" if own else "x") for e in range(E))
    weights = {f"bias{e}": rng.standard_normal(K).astype(np.float32) for e in range(E)}
    for name, k, n in (("gate", K, H), ("up", K, H), ("down", H, K)):
        common = rng.standard_normal((RANK, n) if share == "second" else (k, RANK))
        for e in range(E):
            if share == "second":
                weight = rng.standard_normal((k, RANK)) @ common
            else:
                weight = common @ rng.standard_normal((RANK, n))
            weight = (weight / np.sqrt(k)).astype(np.float32)
            weights[f"{name}{e}"] = weight if kind == "matmul" else np.ascontiguousarray(weight.T)
    return build_model(form.format(experts=experts), weights)


def feeds_for(rng, form=DENSE, rows=11):
    """Inputs of a mixture of the form."""
    x = rng.standard_normal((rows, K)).astype(np.float32)
    if form is ROUTED:
        return {"x": x} | {f"i{e}": rng.integers(0, rows, 4 + 3 * e) for e in range(E)}
    shape = (rows, E) if form is DENSE else (E, rows, 1)
    return {"x": x, "g": rng.random(shape).astype(np.float32)}


def units_of(one, model) -> dict[str, Layer]:
    """The units by name."""
    found = list(one.layers(model))
    assert all(isinstance(unit, Layer) for unit in found)
    return {unit.name: unit for unit in found}


@pytest.mark.parametrize("kind", ["matmul", "gemm"])
@pytest.mark.parametrize("form", [DENSE, ROUTED, STACKED])
def test_all_places_of_a_mixture_are_found(form, kind, rng, build_model):
    units = units_of(FactorizeExperts(min_elements=1), mixture(build_model, rng, form, kind))
    assert set(units) == {f"experts {n}0 + {n}1 + {n}2" for n in ("gate", "up", "down")}
    for unit in units.values():
        assert len(unit.nodes) == len(unit.weights) == len(unit.members) == E
        assert [member.weight for member in unit.members] == list(unit.weights)


@pytest.mark.parametrize("kind", ["matmul", "gemm"])
@pytest.mark.parametrize("form", [DENSE, ROUTED, STACKED])
@pytest.mark.parametrize("share", ["second", "first"])
def test_experts_with_a_common_factor_are_exact(form, kind, share, rng, build_model):
    model = mixture(build_model, rng, form, kind, share)
    feeds = feeds_for(rng, form)
    before = Runner(model)(feeds)["y"]
    one = FactorizeExperts(rank=RANK, share=share, min_elements=1)
    treatments, expected = [], 0
    for name, unit in units_of(one, model).items():
        found = list(one.candidates(unit, None, TARGET))
        # experts that read one tensor are siblings: sharing a first factor is left to that pass
        one_input = share == "first" and form is not ROUTED and "down" not in name
        assert len(found) == (0 if one_input else 1)
        for candidate in found:
            treatments.append((unit, candidate.stages, None))
            expected += 1 + E
            assert candidate.error < 1e-6
    assert apply_treatments(model, treatments, {one.name: one}) == []
    after = Runner(model)(feeds)["y"]
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max(), rtol=0)
    factors = [name for name in model.graph.initializers if name.endswith((".p", ".q"))]
    assert len(factors) == expected  # the shared one is stored once


@pytest.mark.parametrize("shape", [(4, 20, 28), (2, 2, 20, 28)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("share", ["second", "first"])
@pytest.mark.parametrize("batched", [False, True])
def test_one_constant_with_a_common_factor_is_exact(shape, left, share, batched, rng, build_model):
    *batch, k, n = shape
    common = rng.standard_normal((RANK, n) if share == "second" else (k, RANK))
    own = rng.standard_normal((*batch, k, RANK) if share == "second" else (*batch, RANK, n))
    weight = (own @ common if share == "second" else common @ own).astype(np.float32)
    weight = np.ascontiguousarray(np.swapaxes(weight, -1, -2)) if left else weight
    x_shape = [*(batch if batched else ()), *((k, 5) if left else (5, k))]
    unknown = ", ".join(["?"] * len(shape))
    pair = "w, x" if left else "x, w"
    model = build_model(
        f"g (float{x_shape} x) => (float[{unknown}] y) {{ y = MatMul({pair}) }}", {"w": weight}
    )
    x = rng.standard_normal(x_shape).astype(np.float32)
    before = Runner(model)({"x": x})["y"]
    one = FactorizeExperts(rank=RANK, share=share, min_elements=1)
    (unit,) = units_of(one, model).values()
    assert unit.name == "w"  # as others call that weight
    (candidate,) = one.candidates(unit, None, TARGET)
    (dense,) = one.restore(unit, one.transform(unit, candidate.stages[0], (weight,), None))
    np.testing.assert_allclose(dense, weight, atol=1e-4)
    assert apply_treatments(model, [(unit, candidate.stages, None)], {one.name: one}) == []
    after = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max(), rtol=0)
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert stored == candidate.bytes < weight.nbytes


@pytest.mark.parametrize("method", ["svd", "whitened-svd"])
def test_the_errors_of_experts_in_one_constant_are_exact(method, rng, build_model):
    weight = rng.standard_normal((4, 64, 48)).astype(np.float32)
    model = build_model(
        "g (float[5, 64] x) => (float[4, 5, 48] y) { y = MatMul(x, w) }", {"w": weight}
    )
    x = rng.standard_normal((3000, 64)) * np.logspace(0, -1, 64)
    gram = x.T @ x
    stats = LayerStatistics(gram, None, len(x), None, ())
    one = FactorizeExperts(method=method, min_elements=1)
    (unit,) = units_of(one, model).values()
    candidates = list(one.candidates(unit, stats, TARGET))
    prefix = "whitened-" if method != "svd" else ""
    methods = [str(c.stages[0].options["method"]) for c in candidates]
    assert list(dict.fromkeys(methods)) == [f"{prefix}svd-second", f"{prefix}svd-first"]
    weigh = gram if method != "svd" else np.eye(64)
    for name in set(methods):
        errors = [c.error for c, m in zip(candidates, methods, strict=True) if m == name]
        assert errors == sorted(errors)
    for candidate in candidates:
        (dense,) = one.restore(unit, one.transform(unit, candidate.stages[0], (weight,), stats))
        delta = dense - weight
        true = sum(np.trace(d.T @ weigh @ d) for d in delta)
        true /= sum(np.trace(w.T @ weigh @ w) for w in weight.astype(np.float64))
        assert candidate.error == pytest.approx(np.sqrt(true), rel=1e-2)


def test_each_expert_counts_by_what_was_routed_to_it(rng, build_model):
    weights = [rng.standard_normal((H, K)).astype(np.float32) for _ in range(E)]
    model = mixture(build_model, rng, ROUTED)
    one = FactorizeExperts(rank=8, share="second", min_elements=1)
    unit = units_of(one, model)["experts down0 + down1 + down2"]
    xs = [rng.standard_normal((n, H)) * s for n, s in ((900, 1.0), (300, 0.1), (300, 0.1))]
    members = tuple(LayerStatistics(x.T @ x, None, len(x), None, ()) for x in xs)
    stats = LayerStatistics(None, None, 0, None, (), members=members)
    stage = Stage(one.name, {"method": "whitened-svd-second", "rank": 8})
    p, q = one.transform(unit, stage, tuple(weights), stats)
    assert (p.shape, q.shape) == ((E, H, 8), (8, K))

    def error(ps, second):
        pairs = zip(xs, weights, ps, strict=True)
        return sum(np.linalg.norm(x @ (a @ second - w)) ** 2 for x, w, a in pairs)

    plain = Stage(one.name, {"method": "svd-second", "rank": 8})
    assert error(p, q) < 0.8 * error(*one.transform(unit, plain, tuple(weights), None))
    # the optimum: the outputs, one below the other, on their leading right singular vectors
    stacked = np.vstack([x @ w for x, w in zip(xs, weights, strict=True)])
    best = (np.linalg.svd(stacked, compute_uv=False)[8:] ** 2).sum()
    assert error(p, q) == pytest.approx(best, rel=1e-2)


def test_statistics_are_those_of_the_members(rng, build_model):
    model = mixture(build_model, rng, ROUTED)
    one = FactorizeExperts(rank=8, share="second", min_elements=1)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    collected = collect(model, list(unit.members), [feeds_for(rng, ROUTED) for _ in range(8)])
    members = tuple(collected[member.name] for member in unit.members)
    stats = LayerStatistics(None, None, 0, None, (), members=members)
    (candidate,) = one.candidates(unit, stats, TARGET)
    assert candidate.stages[0].options["method"] == "whitened-svd-second"
    assert apply_treatments(model, [(unit, candidate.stages, stats)], {one.name: one}) == []


def test_an_expert_that_saw_nothing_is_not_given_up(rng, build_model):
    model = mixture(build_model, rng, ROUTED)
    one = FactorizeExperts(share="second", min_elements=1)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    # two experts of one row space, the third of another, and room for both
    spaces = rng.standard_normal((2, RANK, H))
    weights = tuple(rng.standard_normal((K, RANK)) @ spaces[e // 2] for e in range(E))
    x = rng.standard_normal((500, K))
    seen = LayerStatistics(x.T @ x, None, 500, None, ())
    stage = Stage(one.name, {"method": "whitened-svd-second", "rank": 2 * RANK})
    for third in (None, LayerStatistics(np.zeros((K, K)), None, 0, None, ())):
        stats = LayerStatistics(None, None, 0, None, (), members=(seen, seen, third))
        dense = one.restore(unit, one.transform(unit, stage, weights, stats))
        np.testing.assert_allclose(dense[2], weights[2], atol=1e-5)


def test_without_gram_matrices_experts_count_by_their_rows(rng, build_model):
    one = FactorizeExperts(rank=8, share="second", min_elements=1)
    model = mixture(build_model, rng, ROUTED)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    weights = [rng.standard_normal((K, H)).astype(np.float32) for _ in range(E)]
    for value, weight in zip(unit.weights, weights, strict=True):
        value.const_value = ir.tensor(weight, name=value.name)
    rows = (900, 30, 0)
    members = tuple(LayerStatistics(None, None, n, None, ()) for n in rows)
    stats = LayerStatistics(None, None, 0, None, (), members=members)
    (candidate,) = one.candidates(unit, stats, TARGET)
    (stage,) = candidate.stages
    assert stage.options["method"] == "svd-second"
    dense = one.restore(unit, one.transform(unit, stage, tuple(weights), stats))
    errors = [np.linalg.norm(d - w) for d, w in zip(dense, weights, strict=True)]
    assert errors[0] < errors[1] < errors[2]
    counts = np.asarray(rows) + 1.0
    norms = np.asarray([np.linalg.norm(w) for w in weights])
    true = np.sqrt(counts @ np.square(errors) / (counts @ norms**2))
    assert candidate.error == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        # a sum that nothing weighs
        "a = MatMul(x, u)\n b = MatMul(x, v)\n y = Add(a, b)",
        # weighed by constants
        "a = MatMul(x, u)\n b = MatMul(x, v)\n c = Mul(a, h)\n d = Mul(b, h)\n y = Add(c, d)",
        # two ways that are not alike
        "a = MatMul(x, u)\n b = Gemm(x, v)\n c = Mul(a, x)\n d = Mul(b, x)\n y = Add(c, d)",
        # the first linear layer up the way may be anybody's
        "a = MatMul(x, u)\n b = MatMul(x, v)\n p = Add(a, x)\n q = Add(b, x)\n"
        "c = Mul(p, x)\n d = Mul(q, x)\n y = Add(c, d)",
        # attention: neither a sum nor a stack
        "a = MatMul(x, u)\n b = MatMul(x, v)\n y = MatMul(a, b)",
        # heads side by side: no stack
        "a = MatMul(x, u)\n b = MatMul(x, v)\n y = Concat<axis = 0>(a, b)",
        # one expert twice
        "a = MatMul(x, u)\n c = Mul(a, x)\n d = Mul(a, x)\n y = Add(c, d)\n z = MatMul(y, v)",
    ],
)
def test_what_is_no_mixture_is_not_offered(text, rng, build_model):
    weights = {name: rng.standard_normal((20, 20)).astype(np.float32) for name in "uv"}
    half = np.asarray([0.5], np.float32)
    model = build_model(
        f"g (float[20, 20] x) => (float[?, 20] y) {{ {text} }}", {**weights, "h": half}
    )
    assert list(FactorizeExperts(min_elements=1).layers(model)) == []


def test_vectors_and_single_matrices_are_left_alone(rng, build_model):
    text = "g (float[20] x) => (float[3, 24] y) { y = MatMul(x, w) }"
    weight = rng.standard_normal((3, 20, 24)).astype(np.float32)
    (found,) = FactorizeExperts(min_elements=1).layers(build_model(text, {"w": weight}))
    assert isinstance(found, Skipped)
    assert "vector" in found.why
    text = "g (float[5, 20] x) => (float[1, 5, 24] y) { y = MatMul(x, w) }"
    assert list(FactorizeExperts(min_elements=1).layers(build_model(text, {"w": weight[:1]}))) == []


def test_a_second_run_finds_nothing(rng, build_model):
    model = mixture(build_model, rng)
    one = FactorizeExperts(rank=RANK, share="second", min_elements=1)
    treatments = [
        (unit, next(iter(one.candidates(unit, None, TARGET))).stages, None)
        for unit in units_of(one, model).values()
    ]
    assert apply_treatments(model, treatments, {one.name: one}) == []
    assert list(one.layers(model)) == []


def test_experts_that_are_too_large_or_not_finite_are_refused(rng, build_model):
    model = mixture(build_model, rng)
    found = list(FactorizeExperts(min_elements=1, max_elements=100).layers(model))
    assert len(found) == 3
    assert all(isinstance(one, Skipped) and "above 100" in one.why for one in found)
    one = FactorizeExperts(min_elements=1)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    broken = np.full((K, H), np.inf, np.float32)
    unit.weights[1].const_value = ir.tensor(broken, name="up1")
    assert list(one.candidates(unit, None, TARGET)) == []
    stage = Stage(one.name, {"method": "svd-second", "rank": 3})
    (refused,) = apply_treatments(model, [(unit, (stage,), None)], {one.name: one})
    assert "NaN" in refused.why


@pytest.mark.parametrize("rank", [0, H + 1])
def test_ranks_that_do_not_fit_are_refused(rank, rng, build_model):
    model = mixture(build_model, rng)
    one = FactorizeExperts(min_elements=1)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    stage = Stage(one.name, {"method": "svd-second", "rank": rank})
    (refused,) = apply_treatments(model, [(unit, (stage,), None)], {one.name: one})
    assert f"rank {rank} is not in 1 to {H}" in refused.why


def test_large_float16_experts_stay_finite(build_model):
    weight = np.full((4, 40, 40), 6e4, np.float16)
    text = "g (float16[5, 40] x) => (float16[4, 5, 40] y) { y = MatMul(x, w) }"
    model = build_model(text, {"w": weight})
    one = FactorizeExperts(rank=1, min_elements=1)
    (unit,) = units_of(one, model).values()
    candidate = next(iter(one.candidates(unit, None, TARGET)))
    assert apply_treatments(model, [(unit, candidate.stages, None)], {one.name: one}) == []
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        assert array.dtype == np.float16
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    "options", [{"share": "third"}, {"method": "scaled-svd"}, {"max_elements": 0}, {"rank": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="factorize-experts"):
        FactorizeExperts(**options)


def test_whitening_needs_statistics(rng, build_model):
    model = mixture(build_model, rng)
    one = FactorizeExperts(method="whitened-svd", min_elements=1)
    unit = units_of(one, model)["experts up0 + up1 + up2"]
    with pytest.raises(InputError, match="no statistics"):
        list(one.candidates(unit, None, TARGET))
    stage = Stage(one.name, {"method": "whitened-svd-second", "rank": 3})
    weights = tuple(value.const_value.numpy() for value in unit.weights)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no statistics"):
        one.transform(unit, stage, weights, None)
