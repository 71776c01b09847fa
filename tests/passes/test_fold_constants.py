"""FoldConstants: what is constant is computed, nothing grows, quantized weights stay small."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import size_bytes
from onnxslim_rx.manager import PassManager
from onnxslim_rx.passbase import PassContext
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.fold_constants import FoldConstants

G = "g (float[N, 4] x) => (float[N, 4] y)"


def test_a_chain_becomes_one_constant(rewrite):
    text = f"{G} {{ a = Add(p, q)  b = Mul(a, q)  c = Sqrt(b)  y = Mul(x, c) }}"

    done = rewrite(FoldConstants(), text, {"p": np.ones(4, "f"), "q": np.full(4, 2, "f")})

    assert done.ops == ["Mul"]
    (constant,) = done.after.graph.initializers.values()
    np.testing.assert_allclose(constant.const_value.numpy(), np.full(4, np.sqrt(6)), rtol=1e-6)
    assert constant.name == "c"


def test_a_large_value_on_the_way_is_no_obstacle(rewrite):
    text = f"{G} {{ r = Range(z, n, o)  s = ReduceSum(r)  c = Cast<to=1>(s)  y = Mul(x, c) }}"
    weights = {"z": np.int64(0), "n": np.int64(1000), "o": np.int64(1)}

    done = rewrite(FoldConstants(), text, weights)

    assert done.ops == ["Mul"]


GROWS = {
    "constantofshape": ("c = ConstantOfShape(s)", {"s": np.array([400, 4])}),
    "expand": ("c = Expand(p, s)", {"p": np.ones((1, 4), "f"), "s": np.array([400, 4])}),
    "tile": ("c = Tile(p, s)", {"p": np.ones((1, 4), "f"), "s": np.array([400, 1])}),
    "add": ("c = Add(p, q)", {"p": np.ones((400, 1), "f"), "q": np.ones((1, 4), "f")}),
}


@pytest.mark.parametrize("case", GROWS)
@pytest.mark.parametrize("limit", [0, 4000, 8000])
def test_the_file_grows_up_to_the_limit(rewrite, case, limit):
    body, weights = GROWS[case]
    text = f"g (float[400, 4] x) => (float[400, 4] y) {{ {body}  y = Mul(x, c) }}"

    done = rewrite(FoldConstants(growth=limit), text, weights)

    grown = size_bytes(done.after) - size_bytes(done.before)
    assert done.entry.changed == (limit > 400 * 4 * 4)
    assert done.entry.changed or "the file would grow" in done.reasons[0]
    assert grown <= limit


def test_all_results_together_grow_up_to_a_limit(rewrite):
    text = f"""{G} {{
        a = ConstantOfShape(s)  b = ConstantOfShape<value = float[1] {{2.0}}>(s)
        p = Mul(x, a)  q = ReduceSum<keepdims = 0>(b)  y = Mul(p, q) }}"""

    def folded(total):
        one = FoldConstants(growth=1 << 16, total_growth=total)
        return rewrite(one, text, {"s": np.array([1, 400])}, runs=False).ops

    assert folded(1000) == ["ConstantOfShape", "Mul", "Mul"]  # a scalar takes no space
    assert folded(2000) == ["Mul", "Mul"]


def test_absurd_sizes_are_not_even_computed(rewrite):
    text = f"{G} {{ c = ConstantOfShape(s)  d = ReduceSum<keepdims=0>(c)  y = Mul(x, d) }}"

    done = rewrite(FoldConstants(), text, {"s": np.array([2**20, 2**20])}, runs=False)

    assert not done.entry.changed


def test_tied_weights_stay_tied(rewrite, rng):
    text = """g (int64[N] i) => (float[N, 300] y)
    { e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }"""
    weight = rng.standard_normal((300, 8)).astype("f")

    done = rewrite(FoldConstants(), text, {"w": weight}, runs=False)

    assert not done.entry.changed

    once = "g (float[N, 8] x) => (float[N, 300] y) { t = Transpose(w)  y = MatMul(x, t) }"
    assert rewrite(FoldConstants(), once, {"w": weight}, tolerance=1e-6).ops == ["MatMul"]


STORED = {
    "int8 and scale": ("c = Cast<to=1>(w)  d = Mul(c, s)", np.int8),
    "uint8 and scale": ("c = Cast<to=1>(w)  d = Mul(c, s)", np.uint8),
    "float16": ("d = Cast<to=1>(w)", np.float16),
    "dequantizelinear": ("d = DequantizeLinear(w, o)", np.int8),
}


@pytest.mark.parametrize("case", STORED)
@pytest.mark.parametrize("columns", [2, 40])
def test_narrow_weights_stay_narrow(rewrite, case, columns):
    body, dtype = STORED[case]
    weights = {
        "w": np.arange(20 * columns).reshape(20, columns).astype(dtype),
        "s": np.ones((1, columns), "f") / 3,
        "o": np.float32(0.5),
    }
    text = f"g (float[N, 20] x) => (float[N, {columns}] y) {{ {body}  y = MatMul(x, d) }}"

    done = rewrite(FoldConstants(), text, weights, tolerance=1e-6)

    assert not done.entry.changed


def test_narrow_integers_that_are_no_weights_are_folded(rewrite):
    text = f"{G} {{ a = Cast<to=7>(k)  b = Add(a, a)  c = Cast<to=1>(b)  y = Mul(x, c) }}"

    assert rewrite(FoldConstants(), text, {"k": np.array([3], np.int8)}).ops == ["Mul"]


def test_random_operators_stay(rewrite):
    text = f"""{G} {{ a = RandomNormal<shape=[4]>()  b = RandomUniformLike(p)  c = Bernoulli(p)
    d = Dropout(p, r, t)  e = Add(a, b)  f = Add(c, d)  h = Add(e, f)  y = Mul(x, h) }}"""
    weights = {"p": np.ones(4, "f"), "r": np.float32(0.5), "t": np.True_}

    assert not rewrite(FoldConstants(), text, weights, runs=False).entry.changed


def test_overridable_initializers_are_no_constants(rewrite):
    text = "g (float[N, 4] x, float[4] p) => (float[N, 4] y) { a = Neg(p)  y = Mul(x, a) }"

    assert not rewrite(FoldConstants(), text, {"p": np.ones(4, "f")}).entry.changed


def test_what_the_graph_returns_stays_a_node_and_what_feeds_it_is_folded(rewrite):
    text = """g (float[N, 4] x) => (float[N, 4] y, float[4] b)
    { a = Add(p, p)  b = Neg(a)  y = Mul(x, b) }"""

    done = rewrite(FoldConstants(), text, {"p": np.ones(4, "f")})

    assert done.ops == ["Neg", "Mul"]
    assert "the graph returns it" in done.reasons


def test_branches_are_folded_too(rewrite):
    text = """g (float[N, 4] x, bool c) => (float[N, 4] y) {
    y = If (c) <
        then_branch = t () => (float[N, 4] a) { k = Neg(p)  a = Mul(x, k) },
        else_branch = e () => (float[N, 4] b) { k = Exp(p)  b = Mul(x, k) }
    > }"""

    done = rewrite(FoldConstants(), text, {"p": np.ones(4, "f")}, tolerance=1e-6)

    assert sorted(done.ops) == ["If", "Mul", "Mul"]


def test_several_outputs(rewrite):
    text = f"{G} {{ a, b = Split<axis = 0>(p)  c = Add(a, b)  d = Mul(x, a)  y = Mul(d, c) }}"

    done = rewrite(FoldConstants(), text, {"p": np.arange(8, dtype="f")})

    assert done.ops == ["Mul", "Mul"]


def test_a_node_that_cannot_be_evaluated_stays_and_others_are_folded(build_model):
    text = f"{G} {{ a = Add(p, p)  b = Sqrt(p)  c = Mul(x, a)  y = Mul(c, b) }}"
    model = build_model(text, {"p": np.ones(4, "f")})

    def evaluate(nodes, feeds):
        if any(node.op_type == "Sqrt" for node in nodes):
            raise InputError("no kernel for Sqrt")
        return {"a": feeds["p"] + feeds["p"]}

    ctx = PassContext(evaluate, load_target("ort-cpu"))
    result = FoldConstants()(model, ctx)

    assert [node.op_type for node in model.graph] == ["Sqrt", "Mul", "Mul"]
    assert [skipped.why for skipped in result.skipped] == ["no kernel for Sqrt"]


def test_text_and_custom_operators_are_left_alone(build_model):
    text = """g (string[N] x) => (string[N] y, float[4] z)
    { a = StringConcat(p, q)  y = StringConcat(x, a)  b = custom.Foo(r)  z = Neg(b) }"""
    weights = {"p": np.array(["a"]), "q": np.array(["b"]), "r": np.ones(4, "f")}
    model = build_model(text, weights, opset=20)

    result = PassManager([FoldConstants()], verify=None).run(model)

    assert not result.journal[0].changed
