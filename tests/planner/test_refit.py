"""Refitted factors against least squares on the rows of uncut runs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone, digest, mark
from onnxslim_rx.passbase import Layer, Stage
from onnxslim_rx.planner import apply_plan
from onnxslim_rx.planner.fit.refit import refit
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm

WIDTH, RANK = 16, 5


def model_of(signature, body, **weights):
    """A model in ONNX's text syntax whose weights are the given arrays."""
    inputs, outputs = signature.split("=>")
    shapes = [
        f"{ir.DataType.from_numpy(w.dtype).name.lower()}[{','.join(map(str, w.shape))}] {name}"
        for name, w in weights.items()
    ]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g ({", ".join([inputs, *shapes])})'
        f" => ({outputs}) {{ {body} }}"
    )
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


def marked(model, *outputs):
    """The model, with the nodes that make `outputs` marked as those of a pass."""
    for node in model.graph.all_nodes():
        if node.outputs[0].name in outputs:
            mark(node, "factorize-something")
    return model


def noise(rng, *shape, dtype=np.float32):
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype)


def decaying(rng, rows, columns):
    """A weight that a low rank fits in part."""
    u, _, vt = np.linalg.svd(rng.standard_normal((rows, columns)), full_matrices=False)
    return (u * 0.8 ** np.arange(len(vt)) @ vt).astype(np.float32)


def residual(rng, depth):
    """Blocks of two layers whose output is added to what enters, the sum normalised."""
    body = [
        f"f{i} = MatMul(h{i}, v{i}) g{i} = Add(f{i}, b{i}) a{i} = Tanh(g{i})"
        f" o{i} = MatMul(a{i}, w{i}) c{i} = Add(o{i}, b{i}) s{i} = Add(c{i}, h{i})"
        f" h{i + 1} = LayerNormalization(s{i}, scale)"
        for i in range(depth)
    ]
    weights = {"scale": np.ones(WIDTH, np.float32)}
    for i in range(depth):
        weights |= {f"{n}{i}": 2 * decaying(rng, WIDTH, WIDTH) for n in "vw"}
        weights[f"b{i}"] = noise(rng, WIDTH)
    return model_of(
        f"float[N,S,{WIDTH}] x, int64[N,S] mask => float[N,S,{WIDTH}] y",
        f"h0 = Sin(x) {' '.join(body)} y = Identity(h{depth})",
        **weights,
    )


def factorized(model, rank=RANK, min_elements=1):
    one = FactorizeGemm(min_elements=min_elements)
    stage = Stage("factorize-gemm", {"method": "svd", "rank": rank})
    layers = [found for found in one.layers(model) if isinstance(found, Layer)]
    plans = [LayerPlan(layer.name, (stage,)) for layer in layers]
    found, skipped = apply_plan(model, plans, {"factorize-gemm": one}, {})
    assert not skipped
    return found


def samples(rng, count):
    found = []
    for number in range(count):
        length = 3 + number % 7
        mask = np.ones((2, length), np.int64)
        mask[1, length // 2 :] = 0
        x = rng.standard_normal((2, length, WIDTH)).astype(np.float32)
        found.append({"x": x, "mask": mask})
    return found


def seen(model, name, data):
    """Rows of a value in uncut runs, padding left out."""
    whole = clone(model)
    values = {value.name: value for node in whole.graph for value in node.outputs}
    if name in values:
        whole.graph.outputs.clear()
        whole.graph.outputs.append(values[name])
    runner = Runner(whole, optimize=False)
    found = []
    for sample in data:
        array = np.asarray({**sample, **runner(sample)}[name], np.float64)
        masked = "mask" in sample and array.shape[:2] == sample["mask"].shape
        keep = sample["mask"].astype(bool) if masked else ...
        found.append(array[keep].reshape(-1, array.shape[-1]))
    return np.concatenate(found)


def relative(original, compressed, name, data):
    wanted = seen(original, name, data)
    return np.linalg.norm(wanted - seen(compressed, name, data)) / np.linalg.norm(wanted)


def weight(model, name):
    return model.graph.initializers[name].const_value.numpy()


def regression(x, y, near, rank):
    """The product of a rank closest to `y`, with the ridge as rows of its own."""
    share = max(1e-4, 0.5 * x.shape[1] / len(x))
    extra = np.sqrt(share * np.sum(x**2) / x.shape[1]) * np.eye(x.shape[1])
    x, y = np.vstack([x, extra]), np.vstack([y, extra @ near])
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    vt = np.linalg.svd(x @ best, full_matrices=False)[2][:rank]
    return best @ vt.T @ vt


def test_each_layer_is_fitted_behind_those_before_it(rng):
    depth = 2
    model, data = residual(rng, depth), samples(rng, 30)
    small = factorized(model)
    reference = clone(small)
    before, shown = digest(model), relative(model, small, "y", data)
    found = refit(model, small, data)
    assert digest(model) == before
    assert [one.name for one in found] == [f"{n}{i}" for i in range(depth) for n in "vw"]
    for one in found:
        entering, target, output = (
            (f"h{one.name[1]}", f"g{one.name[1]}", f"f{one.name[1]}")
            if one.name[0] == "v"
            else (f"a{one.name[1]}", f"s{one.name[1]}", f"o{one.name[1]}")
        )
        x = seen(reference, entering, data)
        y = seen(reference, output, data)
        y += seen(model, target, data) - seen(reference, target, data)
        best = regression(x, y, weight(model, one.name).astype(np.float64), RANK)
        p, q = (weight(small, f"{one.name}.{side}") for side in "pq")
        assert (p.shape, q.shape) == ((WIDTH, RANK), (RANK, WIDTH))
        np.testing.assert_allclose(p @ q, best, atol=2e-3 * np.abs(best).max())
        assert one.before == pytest.approx(relative(model, reference, target, data), rel=1e-3)
        for side, array in zip("pq", (p, q), strict=True):
            value = reference.graph.initializers[f"{one.name}.{side}"]
            value.const_value = ir.tensor(array)
        assert one.after == pytest.approx(relative(model, reference, target, data), rel=1e-3)
        assert one.after < one.before
        assert one.rows == len(x)
        assert one.why_not == ""
    assert relative(model, small, "y", data) < 0.95 * shown
    fresh = samples(rng, 20)
    assert relative(model, small, "y", fresh) < relative(model, factorized(model), "y", fresh)


def test_it_is_smaller_nowhere_and_the_same_twice(rng):
    model, data = residual(rng, 2), samples(rng, 20)
    one, other = factorized(model), factorized(model)
    assert refit(model, one, data) == refit(model, other, data)
    assert digest(one) == digest(other)
    shapes = {name: value.const_value.shape for name, value in one.graph.initializers.items()}
    kept = factorized(model).graph.initializers
    assert shapes == {name: value.const_value.shape for name, value in kept.items()}


GEMMS = {
    "plain": ("Gemm(x, w, b)", (WIDTH, 12), False),
    "scaled": ("Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", (12, WIDTH), False),
    "across": ("Gemm<transA=1, alpha=-2.0>(t, w)", (WIDTH, 12), False),
    "left": ("Gemm<alpha=3.0, beta=0.5>(w, t, b)", (12, WIDTH), True),
    "left across": ("Gemm<transA=1, transB=1>(w, x)", (WIDTH, 12), True),
    "matmul left": ("MatMul(w, t)", (12, WIDTH), True),
    "three axes": ("MatMul(x, w)", (1, WIDTH, 12), False),
}


@pytest.mark.parametrize("case", GEMMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_layouts_and_scalings(rng, case, dtype):
    """What is reported is what uncut runs show, so the weights were stored as they are read."""
    call, shape, left = GEMMS[case]
    columns = 12
    w = decaying(rng, *shape[-2:]).reshape(shape).astype(dtype)
    b = noise(rng, *((columns, 1) if left else (columns,)), dtype=dtype)
    tail = "z = Transpose<perm=[1,0]>(y)" if left else "z = Neg(y)"
    name = {np.float32: "float", np.float16: "float16"}[dtype]
    if case == "three axes":
        tail = "z = Neg(y)"
    rank = "A,B,C" if case == "three axes" else "A,B"
    model = model_of(
        f"{name}[N,{WIDTH}] x => {name}[{rank}] z",
        f"t = Transpose<perm=[1,0]>(x) y = {call} {tail}",
        w=w, **({"b": b} if "b)" in call else {}),
    )  # fmt: skip
    mean = rng.standard_normal(WIDTH)
    data = [{"x": (noise(rng, 40, WIDTH) + mean).astype(dtype)} for _ in range(5)]
    small = factorized(model, rank=4)
    (one,) = refit(model, small, data)
    exact = 1e-3 if dtype == np.float32 else 0.05
    before = relative(model, factorized(model, rank=4), "z", data)
    assert one.before == pytest.approx(before, rel=exact)
    assert one.after == pytest.approx(relative(model, small, "z", data), rel=exact)
    assert one.after < 0.9 * one.before
    assert {weight(small, f"w.{side}").dtype for side in "pq"} == {np.dtype(dtype)}


def test_pointwise_convolutions(rng):
    model = model_of(
        "float[N,8,5,5] x => float[N,6,3,3] y",
        "c = Conv<kernel_shape=[1,1], strides=[2,2]>(x, w) y = Add(c, b)",
        w=decaying(rng, 6, 8).reshape(6, 8, 1, 1), b=noise(rng, 1, 6, 1, 1),
    )  # fmt: skip
    w = weight(model, "w").reshape(6, 8)
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    p, q = vt[:2].reshape(2, 8, 1, 1), (u[:, :2] * s[:2]).reshape(6, 2, 1, 1)

    def small(first, second):
        body = f"m = Conv<{first}>(x, p) c = Conv<{second}>(m, q) y = Add(c, b)"
        made = model_of(
            "float[N,8,5,5] x => float[N,6,3,3] y", body, p=p, q=q, b=weight(model, "b")
        )
        return marked(made, "m", "c")

    data = [{"x": noise(rng, 4, 8, 5, 5) + noise(rng, 8, 1, 1)} for _ in range(6)]
    for strides, kept in ((("strides=[2,2]", ""), False), (("", "strides=[2,2]"), True)):
        first, second = (f"kernel_shape=[1,1]{', ' if s else ''}{s}" for s in strides)
        found = small(first, second)
        (one,) = refit(model, found, data)
        assert one.name == "w"
        wanted, now = (
            np.concatenate([Runner(m)(sample)["y"] for sample in data]) for m in (model, found)
        )
        error = np.linalg.norm(wanted - now) / np.linalg.norm(wanted)
        assert one.after == pytest.approx(error, rel=1e-3)
        assert one.after < one.before
        # positions that only the second reads: its matrix alone is fitted
        assert np.array_equal(weight(found, "p"), p) == kept


def test_one_matrix_and_a_first_factor_of_several(rng):
    """Both stand in for layers; only the matrix that makes the output is fitted."""
    w1, w2, w3 = (decaying(rng, WIDTH, WIDTH) for _ in range(3))
    model = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y",
        "a = MatMul(x, w1) b = MatMul(x, w2) c = Mul(a, b) d = MatMul(c, w3) y = Neg(d)",
        w1=w1, w2=w2, w3=w3,
    )  # fmt: skip
    p = np.linalg.svd(np.hstack([w1, w2]))[0][:, :RANK].astype(np.float32)
    small = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y",
        "m = MatMul(x, p) a = MatMul(m, q1) b = MatMul(m, q2) c = Mul(a, b)"
        " d = MatMul(c, r) y = Neg(d)",
        p=p, q1=p.T @ w1, q2=p.T @ w2, r=w3 + 0.01 * noise(rng, WIDTH, WIDTH),
    )  # fmt: skip
    marked(small, "m", "a", "b", "d")
    data = [{"x": rng.standard_normal((50, WIDTH)).astype(np.float32)} for _ in range(5)]
    before = {name: weight(small, name) for name in ("p", "q1", "q2", "r")}
    reference = clone(small)
    found = {one.name: one for one in refit(model, small, data)}
    assert list(found) == ["w1", "w2", "w3"]
    changed = {n: not np.array_equal(weight(small, n), array) for n, array in before.items()}
    assert changed == {"p": False, "q1": True, "q2": True, "r": True}
    assert found["w3"].after == pytest.approx(relative(model, small, "d", data), rel=1e-3)
    x = seen(reference, "m", data)
    best = regression(x, seen(model, "a", data), before["q1"], RANK)
    np.testing.assert_allclose(weight(small, "q1"), best, atol=1e-4)


def test_what_is_as_good_as_it_gets_is_kept(rng):
    model, data = residual(rng, 1), samples(rng, 10)
    small = factorized(model, rank=WIDTH)
    exact = clone(model)
    marked(exact, "f0")
    before = digest(exact)
    (one,) = refit(model, exact, data)
    assert (one.before, one.after) == (0.0, 0.0)
    assert one.why_not == "no other factors are closer"
    assert digest(exact) == before
    # of full rank there is rounding left to fit: never more of it
    for one in refit(model, small, data):
        assert one.after <= one.before < 1e-5


def test_a_fit_that_is_worse_on_its_own_rows_is_dropped(rng):
    """The ridge draws to the original weight; factors that ignore it are closer on these rows."""
    model = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y", "a = MatMul(x, w) y = Neg(a)",
        w=noise(rng, WIDTH, WIDTH),
    )  # fmt: skip
    x = noise(rng, 8, WIDTH)
    u, s, vt = np.linalg.svd(x @ weight(model, "w"), full_matrices=False)
    small = factorized(model)
    p = np.linalg.lstsq(x, u[:, :RANK] * s[:RANK], rcond=None)[0]
    for name, array in (("w.p", p), ("w.q", vt[:RANK])):
        value = small.graph.initializers[name]
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
    before = digest(small)
    (one,) = refit(model, small, [{"x": x}])
    assert one.why_not == "no other factors are closer"
    assert one.after == one.before == pytest.approx(relative(model, small, "y", [{"x": x}]), 1e-4)
    assert digest(small) == before


def test_layers_that_cannot_be_fitted_say_why(rng):
    text = """
        s = MatMul(x, stack)
        r = ReduceMean<keepdims=0, axes=[0]>(s)
        b = If (c) <
            then_branch = t () => (float[M,16] p) { p = MatMul(r, inner) },
            else_branch = e () => (float[M,16] o) { o = Neg(r) }
        >
        i = Identity(held)
        k = MatMul(b, i)
        t1 = MatMul(k, tied)
        t2 = MatMul(t1, tied)
        plain = MatMul(t2, free)
        y = Neg(plain)
    """
    weights = {n: noise(rng, WIDTH, WIDTH) for n in ("inner", "held", "tied", "free")}
    weights["stack"] = noise(rng, 2, WIDTH, WIDTH)
    model = model_of(f"float[N,{WIDTH}] x, bool c => float[N,{WIDTH}] y", text, **weights)
    small = clone(model)
    marked(small, "s", "p", "k", "t1", "t2")
    before = digest(small)
    data = [{"x": noise(rng, 9, WIDTH), "c": np.array(True)}]
    found = {one.name: one for one in refit(model, small, data)}
    assert {name: one.why_not for name, one in found.items()} == {
        "s": "its weight is a batch of matrices",
        "p": "it lies in the body of another node",
        "k": "reaches MatMul through Identity: simplify first",
        "t1": "2 nodes share its weight",
        "t2": "2 nodes share its weight",
    }
    assert all(math.isnan(one.before) and one.rows == 0 for one in found.values())
    assert digest(small) == before
    assert refit(model, clone(model), data) == []
    # without its layers, the data is not even looked at
    assert refit(model, clone(model), []) == []


def test_a_layer_above_the_memory_keeps_its_factors(rng):
    model, data = residual(rng, 1), samples(rng, 5)
    small = factorized(model)
    before = digest(small)
    for one in refit(model, small, data, memory_bytes=10_000):
        assert one.why_not == f"a fit of {WIDTH} x {WIDTH} takes more than 0 MiB"
    assert digest(small) == before


def test_sums_of_more_rows_than_the_layer_are_no_target(rng):
    """The bias of the first is added; what repeats the rows of the second is not."""
    model = model_of(
        f"float[1,{WIDTH}] x, float[5,{WIDTH}] z => float[5,{WIDTH}] y",
        "a = MatMul(x, w1) b = Add(a, bias) c = Tanh(b) d = MatMul(c, w2) e = Add(z, d) y = Neg(e)",
        w1=decaying(rng, WIDTH, WIDTH), w2=decaying(rng, WIDTH, WIDTH), bias=noise(rng, WIDTH),
    )  # fmt: skip
    data = [{"x": noise(rng, 1, WIDTH), "z": noise(rng, 5, WIDTH)} for _ in range(30)]
    small = factorized(model)
    first, second = refit(model, small, data)
    assert second.after == pytest.approx(relative(model, small, "d", data), rel=1e-3)
    assert second.rows == 30
    assert first.why_not == second.why_not == ""
