"""MergeMatmuls: against the single products in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.merge_matmuls import MergeMatmuls

TOLERANCE = 2e-6  # the runtime may sum the 8 products in another order

HEAD = "g (float[N, 3, 8] x) => (float[N, 3, 4] a, float[N, 3, 4] b, float[N, 3, 6] c)"
PLAIN = "a = MatMul(x, u)  b = MatMul(x, v)  c = MatMul(x, w)"
BIASED = """p = MatMul(x, u)  a = Add(p, i)  q = MatMul(x, v)  b = Add(j, q)
            r = MatMul(x, w)  c = Add(r, k)"""


def weights_of(rng, kind="f"):
    shapes = {"u": (8, 4), "v": (8, 4), "w": (8, 6), "i": (4,), "j": (1, 4), "k": (6,)}
    return {name: rng.standard_normal(shape).astype(kind) for name, shape in shapes.items()}


@pytest.mark.parametrize("opset", [12, 13, 18])
def test_queries_keys_and_values(rewrite, rng, opset):
    text = f"{HEAD} {{ {PLAIN} }}"
    done = rewrite(MergeMatmuls(), text, weights_of(rng), opset=opset, tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Split"]

    text = f"{HEAD} {{ {BIASED} }}"
    done = rewrite(MergeMatmuls(), text, weights_of(rng), opset=opset, tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Add", "Split"]


def test_a_bias_that_is_missing_is_zero_and_one_alone_stays(rewrite, rng):
    text = f"{HEAD} {{ {BIASED} }}".replace("r = MatMul(x, w)  c = Add(r, k)", "c = MatMul(x, w)")
    done = rewrite(MergeMatmuls(), text, weights_of(rng), tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Add", "Split"]

    text = text.replace("q = MatMul(x, v)  b = Add(j, q)", "b = MatMul(x, v)")
    done = rewrite(MergeMatmuls(), text, weights_of(rng), tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Split", "Add"]


def test_gemm_with_equal_attributes(rewrite, rng):
    weights = weights_of(rng) | {"j": rng.standard_normal(()).astype("f")}
    for name in "uvw":
        weights[name] = weights[name].T.copy()
    call = "Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, {}, {})"
    calls = [
        f"{out} = {call.format(*names)}"
        for out, names in zip("abc", ("ui", "vj", "wk"), strict=True)
    ]
    text = f"{HEAD} {{ {'  '.join(calls)} }}".replace("3, ", "")
    assert rewrite(MergeMatmuls(), text, weights, tolerance=TOLERANCE).ops == ["Gemm", "Split"]

    other = text.replace("alpha = 0.5", "alpha = 1.5", 1)
    done = rewrite(MergeMatmuls(), other, weights, tolerance=TOLERANCE)
    assert not done.entry.changed
    assert done.reasons == ["weights have other readers, or types or attributes differ"] * 3


def test_readers_in_between_and_activations_that_are_made(rewrite, rng):
    text = """g (float[N, 3, 8] z) => (float[N, 3, 4] a, float[N, 3, 4] e) {
    x = Relu(z)  d = MatMul(x, v)  a = Sigmoid(d)
    p = MatMul(x, u)  b = Add(p, d)  q = MatMul(x, t)  e = Add(q, b) }"""
    weights = weights_of(rng)
    weights["t"] = weights.pop("w")[:, :4].copy()
    done = rewrite(MergeMatmuls(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["Relu", "MatMul", "Split", "Sigmoid", "Add", "Add"]


def test_float16_and_bodies(rewrite, rng):
    text = f"""g (bool m, float16[N, 3, 8] x) => (float16[N, 3, C] y) {{ y = If(m)
    <then_branch = t () => (float16[N, 3, 14] s)
       {{ {PLAIN}  s = Concat<axis = 2>(a, b, c) }},
     else_branch = e () => (float16[N, 3, 8] n) {{ n = Neg(x) }}> }}"""
    done = rewrite(MergeMatmuls(), text, weights_of(rng, "e"), tolerance=4e-3)
    assert done.ops == ["If", "MatMul", "Split", "Concat", "Neg"]


KEPT = {
    "tied": PLAIN.replace("v)", "u)"),
    "two": PLAIN.replace("c = MatMul(x, w)", "r = Neg(x)  c = MatMul(r, w)"),
    "types": "a = MatMul(x, u)  b = MatMul(x, v)  d = Neg(x)  c = MatMul(d, w)",
    "computed": PLAIN.replace("(x, v)", "(x, o)").replace("a =", "o = Neg(v)  a ="),
    "left": PLAIN.replace("c = MatMul(x, w)", "l = MatMul(z, x)  c = MatMul(l, w)"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    weights = weights_of(rng) | {"z": rng.standard_normal((3, 3)).astype("f")}
    text = f"{HEAD} {{ {KEPT[case]} }}"
    assert not rewrite(MergeMatmuls(), text, weights, tolerance=TOLERANCE).entry.changed


def test_the_least_number_is_an_option(rewrite, rng):
    text = f"{HEAD} {{ {KEPT['two']} }}"
    done = rewrite(MergeMatmuls(at_least=2), text, weights_of(rng), tolerance=TOLERANCE)
    assert sorted(done.ops) == ["MatMul", "MatMul", "Neg", "Split"]


def test_large_weights_in_files_are_not_read(build_model, rng):
    weights = weights_of(rng)
    model = build_model(f"{HEAD} {{ {PLAIN} }}", weights)
    reads = []

    def far(name):
        def compute():
            reads.append(name)
            return ir.tensor(np.tile(weights[name], (1, 70000)))

        value = model.graph.initializers[name]
        shape = ir.Shape((8, 70000 * weights[name].shape[1]))
        value.const_value = ir.LazyTensor(compute, dtype=ir.DataType.FLOAT, shape=shape, name=name)
        value.shape = shape

    for name in "uvw":
        far(name)
    for value in model.graph.outputs:
        value.shape = None

    after = PassManager([MergeMatmuls()], verify=None).run(model).model

    assert [node.op_type for node in after.graph] == ["MatMul", "Split"]
    assert reads == []
    x = rng.standard_normal((1, 3, 8)).astype("f")
    made = Runner(after)({"x": x})["c"]
    np.testing.assert_allclose(made[..., :6], x @ weights["w"], atol=1e-5)


@pytest.mark.parametrize("made", ["r = Identity(x)", "r = Relu(x)"])
def test_functions(rewrite, made):
    constants = "  ".join(
        f"{name} = Constant<value = float[2, 1] {{{i}.0, {i + 1}.0}}>()"
        for i, name in enumerate("uvw")
    )
    function = f"""<domain: "local", opset_import: ["": 17]> F (x) => (a, b, c)
    {{ {made}  {constants}  a = MatMul(r, u)  b = MatMul(r, v)  c = MatMul(r, w) }}"""
    outputs = ", ".join(f"float[N, 1] {name}" for name in "abc")
    text = f"g (float[N, 2] x) => ({outputs}) {{ a, b, c = local.F(x) }}"

    done = rewrite(MergeMatmuls(), text, functions=function, tolerance=TOLERANCE)

    assert done.ops.count("MatMul") == 1
    assert done.ops.count("Split") == 1
