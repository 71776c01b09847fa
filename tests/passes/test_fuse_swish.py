"""FuseSwish and FuseGroupNorm, which ONNX Runtime has no kernels for: other targets only."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_group_norm import FuseGroupNorm
from onnxslim_rx_passes.fuse_swish import FuseSwish

SWISH = {
    "silu": ("a = Sigmoid(x) y = Mul(x, a)", 1.0),
    "scaled": ("k = Mul(slope, x) a = Sigmoid(k) y = Mul(a, x)", 1.5),
}


@pytest.fixture
def portable(build_model, rng):
    """Run a rule for a target without ONNX Runtime; return operators, reasons and the error."""

    def run(rule, text, weights=None, opset=24):
        before = build_model(text, weights, opset=opset, ir_version=10)
        result = PassManager([rule], verify=None, target="portable").run(before)
        (x,) = before.graph.inputs
        shape = [dim if isinstance(dim, int) else 2 for dim in x.shape]
        feeds = {"x": rng.standard_normal(shape).astype(x.dtype.numpy())}
        right, other = (Runner(model)(feeds)["y"] for model in (before, result.model))
        reasons = [skipped.why for skipped in result.journal[0].skipped]
        error = np.abs(right.astype("d") - other.astype("d")).max()
        return [node.op_type for node in result.model.graph], reasons, error, result.model

    return run


@pytest.mark.parametrize("case", SWISH)
@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_swish(portable, case, kind):
    body, alpha = SWISH[case]
    dtype = {"float": "f", "float16": "e", "double": "d"}[kind]
    weights = {"slope": np.asarray(1.5, dtype)} if "slope" in body else {}
    text = f"g ({kind}[N, 8] x) => ({kind}[N, 8] y) {{ {body} }}"

    ops, _, error, model = portable(FuseSwish(), text, weights)

    assert ops == ["Swish"]
    assert model.graph[0].attributes.get_float("alpha") == alpha
    assert error < (4e-3 if kind == "float16" else 1e-6)


def test_swish_refused(portable, rewrite):
    text = f"g (float[N, 8] x) => (float[N, 8] y) {{ {SWISH['silu'][0]} }}"
    done = rewrite(FuseSwish(), text, opset=24, ir_version=10)
    assert done.reasons == ["ONNX Runtime has no kernel for Swish on the CPU, and would be slower"]
    assert portable(FuseSwish(), text, opset=23)[0] == ["Sigmoid", "Mul"]
    other = text.replace("Sigmoid(x)", "Sigmoid(k)").replace("a =", "k = Add(x, one) a =")
    assert "Swish" not in portable(FuseSwish(), other, {"one": np.float32(1)})[0]
    shared = text.replace(" y)", " y, float[N, 8] a)")
    assert portable(FuseSwish(), shared)[1] == ["an intermediate result is read elsewhere too"]


GROUPS = """g (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) {
    a = Reshape(x, into)  b = InstanceNormalization<epsilon = 0.001>(a, one, zero)
    c = Reshape(b, back)  d = Mul(c, scale)  y = Add(d, shift) }"""


def groups(rng, **changed):
    found = {"into": np.array([0, 4, -1]), "back": np.array([-1, 8, 4, 4])}
    found |= {"one": np.ones(4, "f"), "zero": np.zeros(4, "f")}
    found |= {name: rng.standard_normal((8, 1, 1)).astype("f") for name in ("scale", "shift")}
    return {name: np.asarray(value) for name, value in {**found, **changed}.items()}


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1), ()], ids=str)
def test_group_norm(portable, rng, shape):
    weights = groups(rng, scale=rng.standard_normal(shape).astype("f"))
    ops, _, error, model = portable(FuseGroupNorm(), GROUPS, weights, opset=21)
    assert ops == ["GroupNormalization"]
    assert model.graph[0].attributes.get_int("num_groups") == 4
    assert error < 1e-5


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"one": np.full(4, 2, "f")}, "each group has a scale or shift of its own"),
        ({"zero": np.full(4, 2, "f")}, "each group has a scale or shift of its own"),
        ({"scale": np.ones((8, 4, 4), "f")}, "one element for each channel"),
        ({"shift": np.ones((4,), "f")}, "one element for each channel"),
        ({"into": [0, 16, -1], "one": np.ones(16, "f"), "zero": np.zeros(16, "f")}, "not those"),
        ({"into": [1, 4, -1]}, "not those of"),
    ],
)
def test_group_norm_refused(portable, rng, changed, why):
    text = GROUPS.replace("[N, 8", "[3, 8") if "into" in changed else GROUPS
    ops, reasons, _, _ = portable(FuseGroupNorm(), text, groups(rng, **changed), opset=21)
    assert "GroupNormalization" not in ops
    assert why in reasons[0]


def test_group_norm_where_it_is_slow_or_not_there(rewrite, portable, rng):
    done = rewrite(FuseGroupNorm(), GROUPS, groups(rng), opset=21, ir_version=10)
    assert done.reasons == ["ONNX Runtime has no kernel for GroupNormalization on the CPU"]
    assert len(portable(FuseGroupNorm(), GROUPS, groups(rng), opset=20)[0]) == 5
    shared = GROUPS.replace(" y)", " y, float[N, 8, 4, 4] c)")
    reasons = portable(FuseGroupNorm(), shared, groups(rng), opset=21)[1]
    assert reasons == ["an intermediate result is read elsewhere too"]
