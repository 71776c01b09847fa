"""FuseGeluMs, FuseBiasGelu and FuseSkipLayerNorm: operators of com.microsoft, on request."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.fuse_bias_gelu import FuseBiasGelu
from onnxslim_rx_passes.fuse_gelu_ms import FuseGeluMs
from onnxslim_rx_passes.fuse_skip_layer_norm import FuseSkipLayerNorm

ERF = "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)"
TANH = (
    "r = Mul(x, x) p = Mul(r, x) q = Mul(p, cubic) s = Add(x, q) u = Mul(s, scale) t = Tanh(u)"
    " c = Add(t, one) d = Mul(half, x) y = Mul(d, c)"
)
NUMBERS = {"root": 2**0.5, "one": 1, "half": 0.5, "cubic": 0.044715, "scale": (2 / np.pi) ** 0.5}
NUMBERS = {name: np.float32(number) for name, number in NUMBERS.items()}


def gelu(body, kind="float"):
    return f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"


@pytest.mark.parametrize(("body", "op_type"), [(ERF, "Gelu"), (TANH, "FastGelu")])
def test_gelu(rewrite, body, op_type):
    done = rewrite(FuseGeluMs(), gelu(body), NUMBERS, tolerance=1e-6)
    assert done.ops == [op_type]
    assert done.after.graph[0].domain == "com.microsoft"
    assert done.after.opset_imports["com.microsoft"] == 1


def test_gelu_stays(rewrite, build_model):
    assert not rewrite(FuseGeluMs(), gelu(ERF), NUMBERS, opset=20).entry.changed
    model = build_model(gelu(ERF), NUMBERS)
    portable = PassManager([FuseGeluMs()], verify=None, target="portable").run(model)
    assert not portable.journal[0].changed
    half = {name: np.float16(number) for name, number in NUMBERS.items()}
    done = rewrite(FuseGeluMs(), gelu(ERF, "float16"), half)
    assert done.reasons == ["ONNX Runtime has no Gelu for float16 on the CPU"]
    done = rewrite(FuseGeluMs(), gelu(ERF).replace(" y)", " y, float[N, 8] c)"), NUMBERS)
    assert done.reasons == ["an intermediate result is read elsewhere too"]


def biased(op, bias="float[8] b", extra="", add="Add(x, b)"):
    return (
        f"""g (float[N, 3, 8] x, {bias}) => (float[N, 3, 8] y{extra}) {{ s = {add} y = {op}(s) }}"""
    )


@pytest.mark.parametrize(
    ("op", "op_type"), [("Gelu", "BiasGelu"), ('Gelu<approximate = "tanh">', "FastGelu")]
)
@pytest.mark.parametrize("add", ["Add(x, b)", "Add(b, x)"])
def test_bias(rewrite, op, op_type, add):
    done = rewrite(FuseBiasGelu(), biased(op, add=add), opset=20, tolerance=1e-6)
    assert done.ops == [op_type]


@pytest.mark.parametrize(("body", "op_type"), [(ERF, "BiasGelu"), (TANH, "FastGelu")])
def test_bias_of_gelu_of_com_microsoft(build_model, body, op_type):
    text = f"g (float[N, 8] h, float[8] v) => (float[N, 8] y) {{ x = Add(v, h) {body} }}"
    rules = [FuseGeluMs(), FuseBiasGelu()]
    done = PassManager(rules, verify="end").run(build_model(text, NUMBERS))
    assert [node.op_type for node in done.model.graph] == [op_type]


def test_bias_stays(rewrite, build_model):
    other = "what is added is no vector as long as the last axis"
    for bias in ("float[1] b", "float[3, 8] b", "float[N, 3, 8] b", "float[1, 8] b"):
        assert rewrite(FuseBiasGelu(), biased("Gelu", bias), opset=20).reasons == [other]
    shared = biased("Gelu", extra=", float[N, 3, 8] s")
    done = rewrite(FuseBiasGelu(), shared, opset=20)
    assert done.reasons == ["an intermediate result is read elsewhere too"]
    half = biased("Gelu").replace("float[", "float16[")
    done = rewrite(FuseBiasGelu(), half, opset=20)
    assert done.reasons == ["ONNX Runtime has no BiasGelu for float16 on the CPU"]
    model = build_model(biased("Gelu"), opset=20)
    portable = PassManager([FuseBiasGelu()], verify=None, target="portable").run(model)
    assert not portable.journal[0].changed


def normal(z="float[N, 4, 8] z", attributes="", extra="", kind="float"):
    text = f"""g (float[N, 4, 8] x, {z}) => (float[N, 4, 8] y{extra}) {{
        s = Add(x, z) y = LayerNormalization{attributes}(s, scale, bias) }}"""
    return text.replace("float[", f"{kind}[")


def vectors(rng, shape=(8,), dtype="f"):
    return {name: rng.standard_normal(shape).astype(dtype) for name in ("scale", "bias")}


@pytest.mark.parametrize("attributes", ["", "<axis = 2, epsilon = 0.01>"])
def test_skip_layer_norm(rewrite, rng, attributes):
    text = normal(attributes=attributes)
    done = rewrite(FuseSkipLayerNorm(), text, vectors(rng), tolerance=2e-6)
    assert done.ops == ["SkipLayerNormalization"]


def test_without_bias_inside_a_branch(rewrite, rng):
    text = """g (bool on, float[N, 4, 8] x) => (float[N, 4, 8] y) {
        y = If(on) <then_branch = t () => (float[N, 4, 8] k) {
                        s = Add(x, x) k = LayerNormalization(s, scale) },
                    else_branch = e () => (float[N, 4, 8] j) { j = Neg(x) }>
    }"""
    done = rewrite(FuseSkipLayerNorm(), text, vectors(rng), tolerance=2e-6)
    assert "SkipLayerNormalization" in done.ops


def test_skip_layer_norm_stays(rewrite, rng, build_model):
    sizes = "the sizes are not proven to be the same, on three axes"
    cases = {
        normal("float[1, 4, 8] z"): sizes,
        normal("float[8] z"): sizes,
        normal(kind="double"): "ONNX Runtime has no SkipLayerNormalization for double on the CPU",
        normal(extra=", float[N, 4, 8] s"): "an intermediate result is read elsewhere too",
        normal(extra=", float[N, 4, 1] m").replace("y =", "y, m ="): "mean or deviation are read",
    }
    for text, why in cases.items():
        dtype = "d" if "double" in text else "f"
        done = rewrite(FuseSkipLayerNorm(), text, vectors(rng, dtype=dtype), runs="m =" not in text)
        assert done.reasons == [why]
    two = normal(attributes="<axis = 1>")
    done = rewrite(FuseSkipLayerNorm(), two, vectors(rng, (4, 8)), tolerance=2e-6)
    assert done.reasons == ["more than the last axis is normalised"]
    model = build_model(normal(), vectors(rng))
    portable = PassManager([FuseSkipLayerNorm()], verify=None, target="portable").run(model)
    assert not portable.journal[0].changed
