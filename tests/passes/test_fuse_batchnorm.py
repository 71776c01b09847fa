"""FuseBatchnorm: against BatchNormalization in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_batchnorm import FuseBatchnorm

# Two roundings more or less in sums of at most 54 terms: 54 * 2^-24 = 3e-6, with room for the
# normalisation, which divides by standard deviations of about 1/2.
TOLERANCE = 1e-5


def statistics(rng, channels):
    """scale, bias, mean and variance, the latter not small."""
    scale, bias, mean = (rng.standard_normal(channels).astype("f") for _ in range(3))
    return {"s": scale, "o": bias, "m": mean, "v": rng.uniform(0.3, 2, channels).astype("f")}


PRODUCTS = {
    "conv": ("Conv(x, w, b)", (5, 6, 3, 3), (5,)),
    "conv without bias": ("Conv(x, w)", (5, 6, 3, 3), None),
    "grouped conv": ("Conv<group = 3, pads = [1, 1, 1, 1]>(x, w, b)", (9, 2, 3, 3), (9,)),
    "conv transpose": ("ConvTranspose(x, w, b)", (6, 5, 3, 3), (5,)),
    "grouped conv transpose": ("ConvTranspose<group = 3>(x, w, b)", (6, 4, 3, 3), (12,)),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_convolutions(rewrite, rng, case):
    call, shape, bias = PRODUCTS[case]
    weights = {"w": rng.standard_normal(shape).astype("f"), **statistics(rng, _channels(case))}
    if bias is not None:
        weights["b"] = rng.standard_normal(bias).astype("f")
    text = f"""g (float[N, 6, 7, 7] x) => (float[N, C, H, W] y)
    {{ p = {call}  y = BatchNormalization<epsilon = 0.01>(p, s, o, m, v) }}"""

    done = rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE)

    assert done.ops == [call.partition("(")[0].partition("<")[0]]
    assert len(done.after.graph.initializers) == 2


def _channels(case):
    return {"grouped conv": 9, "grouped conv transpose": 12}.get(case, 5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), ()])
def test_gemm(rewrite, rng, transposed, bias):
    weight = rng.standard_normal((5, 8) if transposed else (8, 5)).astype("f")
    weights = {"w": weight, "b": np.float32(rng.standard_normal(bias)), **statistics(rng, 5)}
    text = f"""g (float[N, 8] x) => (float[N, 5] y) {{
    p = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>(x, w, b)
    y = BatchNormalization(p, s, o, m, v) }}"""

    done = rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE)

    assert done.ops == ["Gemm"]


def test_weights_in_constant_nodes_and_names(build_model, rng):
    text = """g (float[N, 2, 5, 5] x) => (float[N, 1, H, W] y) {
    w = Constant<value = float[1, 2, 1, 1] {1.0, 2.0}>()
    [first] p = Conv(x, w)
    y = BatchNormalization(p, s, o, m, v) }"""
    model = build_model(text.replace("[first] ", ""), statistics(rng, 1))
    model.graph[1].name = "first"
    model.graph[1].metadata_props["source"] = "net.py:3"
    model.graph[2].metadata_props["source"] = "net.py:4"
    feeds = {"x": rng.standard_normal((2, 2, 5, 5)).astype("f")}

    after = PassManager([FuseBatchnorm()]).run(model).model

    (node,) = after.graph
    assert (node.name, node.metadata_props["source"]) == ("first", "net.py:4")
    np.testing.assert_allclose(Runner(after)(feeds)["y"], Runner(model)(feeds)["y"], atol=1e-5)


BODY = "p = Conv(x, w)  y = BatchNormalization(p, s, o, m, v)"
KEPT = {
    "read elsewhere": (BODY + "  z = Neg(p)", ", float[N, 5, H, W] z"),
    "returned": (BODY, ", float[N, 5, H, W] p"),
    "shared weight": (BODY + "  z = Conv(x, w)", ", float[N, 5, H, W] z"),
    "training": (
        "p = Conv(x, w)  y, q, r = BatchNormalization<training_mode = 1>(p, s, o, m, v)",
        "",
    ),
    "nothing in front": ("p = Relu(x)  y = BatchNormalization(x, t, t, t, t)", ""),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_fused(rewrite, rng, case):
    body, more = KEPT[case]
    weights = {"w": rng.standard_normal((5, 6, 3, 3)).astype("f"), **statistics(rng, 5)}
    weights["t"] = np.ones(6, "f")
    text = f"g (float[N, 6, 7, 7] x) => (float[N, C, H, W] y{more}) {{ {body} }}"

    done = rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert len(done.reasons) == 1


def test_computed_overridable_and_degenerate_statistics(rewrite, rng):
    weights = {"w": rng.standard_normal((5, 6, 3, 3)).astype("f"), **statistics(rng, 5)}
    text = f"g (float[N, 6, 7, 7] x, float[5] s) => (float[N, C, H, W] y) {{ {BODY} }}"
    assert not rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE).entry.changed

    weights["v"] = np.full(5, -1, "f")  # the root is NaN, in the model as it is, too
    done = rewrite(FuseBatchnorm(), text.replace(", float[5] s", ""), weights, runs=False)
    assert done.reasons == ["the result would not be finite"]


def test_float16_weights_that_would_overflow_stay(build_model, rng):
    text = f"g (float16[N, 1, 4, 4] x) => (float16[N, 1, H, W] y) {{ {BODY} }}"
    ones = np.ones(1, np.float16)
    weights = {"w": np.full((1, 1, 1, 1), 6e4, np.float16), "s": 2 * ones}
    model = build_model(text, {**weights, "o": ones, "m": ones, "v": ones})

    journal = PassManager([FuseBatchnorm()], verify=None).run(model).journal

    assert not journal[0].changed
    assert all(v.dtype == ir.DataType.FLOAT16 for v in model.graph.initializers.values())


def test_matrices_and_bodies(rewrite, rng):
    weights = {"w": rng.standard_normal((8, 5)).astype("f"), **statistics(rng, 5)}
    text = f"g (float[N, 8] x) => (float[N, 5] y) {{ {BODY.replace('Conv', 'MatMul')} }}"
    assert rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE).ops == ["Gemm"]

    text = """g (bool k, float[N, 8] x) => (float[N, C] y) { y = If(k)
    <then_branch = t () => (float[N, 5] u)
       { p = Gemm(x, w)  u = BatchNormalization(p, s, o, m, v) },
     else_branch = e () => (float[N, 8] n) { n = Neg(x) }> }"""
    done = rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["If", "Gemm", "Neg"]

    text = f"g (float[N, 5, 8] x) => (float[N, 5, 5] y) {{ {BODY.replace('Conv', 'MatMul')} }}"
    assert not rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE).entry.changed


def test_weights_and_statistics_that_are_fills(rewrite, rng):
    text = """g (float[N, 2, 5, 5] x) => (float[N, 3, H, W] y) {
    w = ConstantOfShape<value = float[1] {0.5}>(a)
    f = ConstantOfShape<value = float[1] {0.02}>(b)
    p = Conv(x, w)  y = BatchNormalization(p, f, f, f, f) }"""
    weights = {"a": np.array([3, 2, 3, 3]), "b": np.array([3])}
    done = rewrite(FuseBatchnorm(), text, weights, tolerance=TOLERANCE)
    assert [op for op in done.ops if op != "ConstantOfShape"] == ["Conv"]
