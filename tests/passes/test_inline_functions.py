"""InlineFunctions: calls become nodes, names stay unique, and what cannot be inlined stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.ir import nodes
from onnxslim_rx.manager import PassManager
from onnxslim_rx.pipeline import clean
from onnxslim_rx_passes.inline_functions import InlineFunctions

F = '<domain: "local", opset_import: ["": 17]> f (a) => (c) { b = Neg(a)  c = Exp(b) }'


def test_a_call_becomes_nodes_and_results_keep_their_names(rewrite):
    text = "g (float[N] x) => (float[N] y) { p = local.f(x)  y = local.f(p) }"

    done = rewrite(InlineFunctions(), text, functions=F)

    assert done.ops == ["Neg", "Exp", "Neg", "Exp"]
    assert done.entry.rewritten == 2
    assert not done.after.functions
    assert [value.name for value in done.after.graph.outputs] == ["y"]


def test_calls_of_calls_and_calls_in_subgraphs(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
        y = If (c) <then_branch = t () => (float[N] p) { p = local.h(x) },
                    else_branch = e () => (float[N] q) { q = local.f(x) }> }"""
    h = '<domain: "local", opset_import: ["": 17, "local": 1]> h (a) => (c) { c = local.f(a) }'

    done = rewrite(InlineFunctions(), text, functions=f"{F}\n{h}")

    assert sorted(done.ops) == ["Exp", "Exp", "If", "Neg", "Neg"]


def test_attributes_and_their_defaults_are_filled_in(rewrite):
    f = """<domain: "local", opset_import: ["": 17]>
    f <k> (a) => (c) { c = Elu<alpha: float = @k>(a) }"""
    text = "g (float[N] x) => (float[N] y) { y = local.f<k = 0.5>(x) }"

    done = rewrite(InlineFunctions(), text, functions=f)

    assert done.ops == ["Elu"]
    assert done.after.graph[0].attributes.get_float("alpha") == 0.5


def test_an_input_that_is_left_out_is_left_out_inside(rewrite):
    f = '<domain: "local", opset_import: ["": 17]> f (a, lo, hi) => (c) { c = Clip(a, lo, hi) }'
    text = "g (float[N] x, float h) => (float[N] y) { y = local.f(x, , h) }"

    done = rewrite(InlineFunctions(), text, functions=f)

    assert done.ops == ["Clip"]


def test_results_that_nobody_reads(rewrite):
    f = '<domain: "local", opset_import: ["": 17]> f (a) => (c, d) { c = Neg(a)  d = Exp(a) }'
    text = "g (float[N] x) => (float[N] y) { y, z = local.f(x) }"

    done = rewrite(InlineFunctions(), text, functions=f)

    assert sorted(done.ops) == ["Exp", "Neg"]


def test_names_of_subgraphs_are_kept_apart_from_new_ones(rewrite):
    """The body of f makes `b`, and so does a branch that reads what f made."""
    text = """g (float[N] x, bool c) => (float[N] y) {
        p = local.f(x)
        y = If (c) <then_branch = t () => (float[N] r) { b = Abs(p)  r = Sqrt(b) },
                    else_branch = e () => (float[N] q) { q = Neg(p) }> }"""

    done = rewrite(InlineFunctions(), text, functions=F)

    names = [value.name for node in nodes(done.after) for value in node.outputs]
    assert len(set(names)) == len(names)


KEPT = {
    "kernels": (F.replace("local", "com.microsoft"), "com.microsoft.f(x)", "kernel"),
    "another opset": (F.replace("17", "16"), "local.f(x)", "version 16"),
    "returns its input": (
        '<domain: "local", opset_import: ["": 17]> f (a) => (a, c) { c = Neg(a) }',
        "local.f(x)",
        "what it was given",
    ),
    "leaves results out": (
        '<domain: "local", opset_import: ["": 17]> f (a) => (c, d) { c = Neg(a)  d = Exp(a) }',
        "local.f(x)",
        "another number of outputs",
    ),
    "returns a value twice": (
        '<domain: "local", opset_import: ["": 17]> f (a) => (c, c) { c = Neg(a) }',
        "local.f(x)",
        "twice",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_inlined_stays(build_model, case):
    function, call, reason = KEPT[case]
    model = build_model(f"g (float[N] x) => (float[N] y) {{ y = {call} }}", functions=function)
    model.opset_imports["com.microsoft"] = 1

    result = PassManager([InlineFunctions()], verify=None).run(model)

    assert not result.journal[0].changed
    assert [reason in skipped.why for skipped in result.journal[0].skipped] == [True]


def test_weights_in_a_function_that_is_called_often_are_one_again_after_the_clean_stage(
    build_model, rng
):
    values = ", ".join(f"{v:.3f}" for v in np.linspace(-1, 1, 2048))
    f = f"""<domain: "local", opset_import: ["": 17]>
    f (a) => (c) {{ w = Constant<value = float[2048] {{{values}}}>()  c = Mul(a, w) }}"""
    text = (
        "g (float[N, 2048] x) => (float[N, 2048] y) { p = local.f(x)  q = Exp(p)  y = local.f(q) }"
    )

    result = clean(build_model(text, functions=f), verify="end").model

    assert len(result.graph.initializers) == 1
    assert [node.op_type for node in result.graph] == ["Mul", "Exp", "Mul"]
