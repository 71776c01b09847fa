"""FuseLayerNorm: every spelling, and nothing that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_layer_norm import FuseLayerNorm

MEAN = "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) "
VARIANCE = "p = Pow(d, two) v = ReduceMean<axes = [-1]>(p) e = Add(v, eps) "
AFFINE = " r = Mul(q, g) y = Add(r, b)"
SPELLINGS = {
    "quotient": MEAN + VARIANCE + "s = Sqrt(e) q = Div(d, s)" + AFFINE,
    "power": MEAN + VARIANCE + "s = Pow(e, half) q = Div(d, s)" + AFFINE,
    "inverse power": MEAN + VARIANCE + "s = Pow(e, minus) q = Mul(d, s)" + AFFINE,
    "reciprocal": MEAN + VARIANCE + "s = Sqrt(e) i = Reciprocal(s) q = Mul(i, d)" + AFFINE,
    "one by": MEAN + VARIANCE + "s = Sqrt(e) i = Div(one, s) q = Mul(i, d)" + AFFINE,
    "product": MEAN
    + "p = Mul(d, d) v = ReduceMean<axes = [-1]>(p) e = Add(eps, v) s = Sqrt(e) q = Div(d, s)"
    + " r = Mul(g, q) y = Add(b, r)",
    "twice": MEAN + VARIANCE + "s = Sqrt(e) d2 = Sub(x, m) q = Div(d2, s)" + AFFINE,
    "all twice": MEAN
    + VARIANCE
    + "s = Sqrt(e) m2 = ReduceMean<axes = [2]>(x) d2 = Sub(x, m2) q = Div(d2, s)"
    + AFFINE,
    "scale first": MEAN + VARIANCE + "s = Sqrt(e) i = Reciprocal(s) j = Mul(i, g) r = Mul(d, j)"
    " y = Add(r, b)",
}


def weights(rng, dtype="f", shape=(16,), **changed):
    found = {"two": 2, "half": 0.5, "minus": -0.5, "one": 1, "eps": 1e-5}
    found |= {"g": rng.standard_normal(shape), "b": rng.standard_normal(shape)}
    return {name: np.asarray(value, dtype) for name, value in {**found, **changed}.items()}


def graph(body, kind="float"):
    return f"g ({kind}[N, 8, 16] x) => ({kind}[N, 8, 16] y) {{ {body} }}"


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
def test_layer_norm(rewrite, rng, body):
    values = weights(rng)
    done = rewrite(FuseLayerNorm(), graph(body), values, tolerance=2e-6)

    assert done.ops == ["LayerNormalization"]
    (node,) = done.after.graph
    assert [value.name for value in node.inputs] == ["x", "g", "b"]
    x = rng.standard_normal((2, 8, 16)).astype("f")
    wide = x.astype("d")
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    got = Runner(done.after)({"x": x})["y"]
    np.testing.assert_allclose(got, normal * values["g"] + values["b"], atol=5e-6)


def test_axes_as_input_and_several_of_them(rewrite, rng):
    body = SPELLINGS["quotient"].replace("<axes = [-1]>(x)", "(x, ax)")
    body = body.replace("<axes = [-1]>(p)", "(p, ax)")
    values = weights(rng, shape=(8, 16)) | {"ax": np.array([1, -1])}
    done = rewrite(FuseLayerNorm(), graph(body), values, opset=18, tolerance=2e-6)
    assert done.ops == ["LayerNormalization"]


@pytest.mark.parametrize("tail", ["", " r = Mul(q, g)", " r = Add(q, b)"], ids=["", "mul", "add"])
def test_without_scale_or_bias(rewrite, rng, tail):
    body = MEAN + VARIANCE + "s = Sqrt(e) q = Div(d, s)" + tail
    body = body.replace(" r =", " y =") if tail else body.replace("q =", "y =")
    done = rewrite(FuseLayerNorm(), graph(body), weights(rng), tolerance=2e-6)
    assert done.ops == ["LayerNormalization"]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 16), (1, 16)], ids=str)
def test_scales_that_broadcast(rewrite, rng, shape):
    body = SPELLINGS["quotient"]
    done = rewrite(FuseLayerNorm(), graph(body), weights(rng, shape=shape), tolerance=2e-6)
    assert done.ops == ["LayerNormalization"]


@pytest.mark.parametrize("shape", [(8, 1), (8, 16), (1, 8, 1)], ids=str)
def test_scales_along_other_axes_stay_behind(rewrite, rng, shape):
    body = SPELLINGS["quotient"]
    done = rewrite(FuseLayerNorm(), graph(body), weights(rng, shape=shape), tolerance=2e-6)
    assert done.ops == ["LayerNormalization", "Mul", "Add"]

    body = SPELLINGS["scale first"]
    done = rewrite(FuseLayerNorm(), graph(body), weights(rng, shape=shape), tolerance=2e-6)
    assert done.reasons == ["the scale varies along other axes than the normalised ones"]


def test_computed_scales(rewrite, rng):
    text = f"""g (float[N, 8, 16] x, float[16] g) => (float[N, 8, 16] y)
        {{ {SPELLINGS["quotient"]} }}"""
    values = weights(rng)
    del values["g"]
    done = rewrite(FuseLayerNorm(), text, values, tolerance=5e-6)
    assert done.ops == ["LayerNormalization"]


def test_half_precision(rewrite, rng):
    body = SPELLINGS["quotient"]
    done = rewrite(FuseLayerNorm(), graph(body, "float16"), weights(rng, "e"), tolerance=4e-3)
    assert done.ops == ["LayerNormalization"]


def test_casts_around_it_go(rewrite, rng):
    inner = SPELLINGS["quotient"].replace("(x", "(w")
    inner = inner.replace("r = Mul(q", "h = Cast<to = 10>(q) r = Mul(h")
    values = weights(rng, "e") | {"two": np.float32(2), "eps": np.float32(1e-5)}
    text = graph("w = Cast<to = 1>(x) " + inner, "float16")
    done = rewrite(FuseLayerNorm(), text, values, runs=False)  # ONNX Runtime's own fusion fails
    assert done.ops == ["LayerNormalization"]
    x = {"x": rng.standard_normal((2, 8, 16)).astype("e")}
    right, other = (Runner(model, optimize=False)(x)["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=8e-3)


def test_casts_that_matter_stay(rewrite, rng):
    inner = SPELLINGS["quotient"].replace("(x", "(w").replace("y = Add", "z = Add")
    text = graph(f"w = Cast<to = 1>(x) {inner} y = Cast<to = 10>(z)", "float16")
    done = rewrite(FuseLayerNorm(), text, weights(rng), runs=False)  # as above
    assert done.ops == ["Cast", "LayerNormalization", "Cast"]
    x = {"x": rng.standard_normal((2, 8, 16)).astype("e")}
    right, other = Runner(done.before, optimize=False)(x)["y"], Runner(done.after)(x)["y"]
    np.testing.assert_allclose(right, other, atol=8e-3)

    inner = MEAN + VARIANCE + "s = Sqrt(e) z = Div(d, s)"
    double = graph(f"w = Cast<to = 1>(x) {inner.replace('(x', '(w')} y = Cast<to = 1>(z)")
    done = rewrite(FuseLayerNorm(), double, weights(rng), tolerance=2e-6)
    assert done.ops == ["Cast", "LayerNormalization", "Cast"]


def test_what_is_not_finite_stays_so(rewrite, rng):
    done = rewrite(FuseLayerNorm(), graph(SPELLINGS["quotient"]), weights(rng), tolerance=2e-6)
    x = rng.standard_normal((4, 8, 16)).astype("f")
    x[0, 0, 0], x[1, 1, 1], x[2], x[3, 3, 3] = np.nan, np.inf, 0, 1e30
    right, other = (Runner(model)({"x": x})["y"] for model in (done.before, done.after))
    np.testing.assert_allclose(right, other, atol=1e-5)


KEPT = {
    "double": ("double", SPELLINGS["quotient"], "in its own precision for double"),
    "first axes": ("float", SPELLINGS["quotient"].replace("[-1]", "[1]"), "not the last ones"),
    "shared": ("float", SPELLINGS["quotient"] + " z = Identity(d)", "read elsewhere"),
}


@pytest.mark.parametrize("case", KEPT)
def test_refused(rewrite, rng, case):
    kind, body, why = KEPT[case]
    text = graph(body, kind)
    text = text.replace(" y)", f" y, {kind}[N, 8, 16] z)") if " z = " in body else text
    done = rewrite(FuseLayerNorm(), text, weights(rng, "d" if kind == "double" else "f"))
    assert not done.entry.changed
    assert why in done.reasons[0]


def test_sizes_that_are_not_known(rewrite, rng):
    text = f"g (float[N, M] x) => (float[N, M] y) {{ {SPELLINGS['quotient']} }}"
    done = rewrite(FuseLayerNorm(), text, weights(rng, shape=()), tolerance=2e-6)
    assert done.reasons == [
        "the normalised axes are not the last ones, or their sizes are not known"
    ]


@pytest.mark.parametrize("changed", [{"two": 3}, {"eps": -1}, {"eps": [[[[0.1]]]]}], ids=str)
def test_other_constants_stay(rewrite, rng, changed):
    runs = changed.get("eps") != -1
    body = SPELLINGS["quotient"].replace("Pow(d", "Pow(x") if changed.get("two") else None
    text = graph(body or SPELLINGS["quotient"])
    text = text.replace("[N, 8, 16] y", "[A, N, 8, 16] y") if "eps" in changed and runs else text
    values = weights(rng, **changed)
    done = rewrite(FuseLayerNorm(), text, values, runs="two" not in changed and runs)
    assert not done.entry.changed


def test_other_deviations_and_opsets_stay(rewrite, rng):
    body = SPELLINGS["quotient"]
    for other in (body.replace("Sub(x, m)", "Sub(m, x)"), body.replace("[-1]>(p)", "[1]>(p)")):
        assert not rewrite(FuseLayerNorm(), graph(other), weights(rng)).entry.changed
    assert not rewrite(FuseLayerNorm(), graph(body), weights(rng), opset=16).entry.changed
    kept = body.replace("axes = [-1]", "axes = [-1], keepdims = 0").replace("16]", "8]")
    square = graph(kept).replace("8, 16]", "16, 16]").replace("[N", "[16")
    assert not rewrite(FuseLayerNorm(), square, weights(rng)).entry.changed


def test_deviations_from_something_else_stay(rewrite, rng):
    mixed = SPELLINGS["all twice"].replace("m2 = ReduceMean<axes = [2]>(x)", "m2 = Neg(x)")
    assert not rewrite(FuseLayerNorm(), graph(mixed), weights(rng)).entry.changed
    columns = SPELLINGS["quotient"].replace("axes = [-1]", "axes = [1]", 1)
    assert not rewrite(FuseLayerNorm(), graph(columns), weights(rng)).entry.changed
    tail = SPELLINGS["all twice"].split("d2 =")[1].replace("(x, m2)", "(z, m2)")
    other = MEAN + VARIANCE + "s = Sqrt(e) z = Neg(x) m2 = ReduceMean<axes = [2]>(z) d2 =" + tail
    assert not rewrite(FuseLayerNorm(), graph(other), weights(rng)).entry.changed


def test_products_with_a_scale_that_is_there_stay(rewrite, rng):
    text = graph("q = LayerNormalization(x, b) y = Mul(q, g)")
    assert not rewrite(FuseLayerNorm(), text, weights(rng)).entry.changed


def test_residuals_and_second_readers_stay(rewrite, rng):
    text = """g (float[N, 8, 16] x, float[N, 8, 16] z) => (float[N, 8, 16] y) {
        q = LayerNormalization(x, g)  y = Add(q, z) }"""
    assert not rewrite(FuseLayerNorm(), text, {"g": np.ones(16, "f")}).entry.changed

    text = """g (float[N, 8, 16] x) => (float[N, 8, 16] y, float[N, 8, 16] q) {
        q = LayerNormalization(x, g)  y = Add(q, b) }"""
    done = rewrite(FuseLayerNorm(), text, {"g": np.ones(16, "f"), "b": np.ones(16, "f")})
    assert done.reasons == ["an intermediate result is read elsewhere too"]


def test_inside_a_branch(rewrite, rng):
    text = f"""g (bool on, float[N, 8, 16] x) => (float[N, 8, 16] y) {{
        y = If(on) <then_branch = t () => (float[N, 8, 16] z) {{
                       {SPELLINGS["quotient"].replace("y =", "z =")} }},
                   else_branch = f () => (float[N, 8, 16] k) {{ k = Neg(x) }}>
    }}"""
    done = rewrite(FuseLayerNorm(), text, weights(rng), tolerance=2e-6)
    assert done.ops.count("LayerNormalization") == 1
    assert "Sqrt" not in done.ops
