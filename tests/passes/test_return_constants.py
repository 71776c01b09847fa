"""ReturnConstants: results of subgraphs need no Identity."""

from __future__ import annotations

import numpy as np

from onnxslim_rx.ir import nodes
from onnxslim_rx_passes.return_constants import ReturnConstants

LOOP = """g (float[2] x, int64 n) => (float[2] y) {
    y = Loop (n, yes, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w)
        { d = Identity(yes)  w = Exp(v) }> }"""


def test_the_condition_of_a_loop_is_returned_directly(rewrite):
    done = rewrite(ReturnConstants(), LOOP, {"yes": np.bool_(True)}, runs=True)

    assert done.ops == ["Loop", "Exp"]
    body = next(nodes(done.after)).attributes["body"].as_graph()
    assert body.outputs[0].is_initializer()


def test_a_branch_returns_a_constant_of_half_precision(rewrite):
    text = """g (float16[2] x, bool c) => (float16[2] y) {
        y = If (c) <then_branch = t () => (float16[2] p) { p = Identity(k) },
                    else_branch = e () => (float16[2] q) { q = Neg(x) }> }"""

    done = rewrite(ReturnConstants(), text, {"k": np.array([1, 2], np.float16)})

    assert done.ops == ["If", "Neg"]


def test_large_constants_and_those_of_the_model_stay(rewrite):
    text = """g (float[300] x, bool c) => (float[300] y, float[300] z) {
        z = Identity(k)
        y = If (c) <then_branch = t () => (float[300] p) { p = Identity(k) },
                    else_branch = e () => (float[300] q) { q = Neg(x) }> }"""

    done = rewrite(ReturnConstants(), text, {"k": np.ones(300, "f")})

    assert not done.entry.changed
    assert done.reasons == ["the constant is large"]


def test_what_is_computed_stays(rewrite):
    text = LOOP.replace("Identity(yes)", "Identity(c)")

    assert not rewrite(ReturnConstants(), text, {"yes": np.bool_(True)}).entry.changed


def test_functions_and_old_formats_stay(rewrite):
    function = """<domain: "local", opset_import: ["": 17]>
    f (a) => (b) { k = Constant<value_float = 2.0>()  b = Identity(k) }"""
    text = "g (float x) => (float y) { y = local.f(x) }"

    assert not rewrite(ReturnConstants(), text, functions=function).entry.changed
    old = LOOP.replace("{ d", "{ k = Constant<value = bool {1}>()  d").replace("(yes)", "(k)")
    old = old.replace("y = Loop", "yes = Constant<value = bool {1}>()  y = Loop")
    done = rewrite(ReturnConstants(), old, ir_version=3, opset=11, runs=False)
    assert "this version of the format" in done.reasons[0]
