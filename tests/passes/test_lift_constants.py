"""LiftConstants: Constant nodes become initializers of the same name and content."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.lift_constants import LiftConstants

FORMS = {
    "value": ("value = float[2] {1.5, 2.5}", np.array([1.5, 2.5], "f")),
    "value_float": ("value_float = 1.5", np.float32(1.5)),
    "value_floats": ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], "f")),
    "value_int": ("value_int = 3", np.int64(3)),
    "value_ints": ("value_ints = [3, 4]", np.array([3, 4])),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_name_type_and_content(rewrite, form):
    attribute, expected = FORMS[form]
    text = f"""g (float[2] x) => (float[2] y)
    {{ c = Constant<{attribute}>()  f = Cast<to=1>(c)  y = Mul(x, f) }}"""

    done = rewrite(LiftConstants(), text)

    assert done.ops == ["Cast", "Mul"]
    lifted = done.after.graph.initializers["c"].const_value.numpy()
    assert lifted.dtype == expected.dtype
    np.testing.assert_array_equal(lifted, expected)


def test_metadata_of_the_node_moves_to_the_initializer(build_model):
    text = "g (float[2] x) => (float[2] y) { c = Constant<value_float = 2.0>()  y = Mul(x, c) }"
    model = build_model(text)
    model.graph[0].metadata_props["source"] = "net.py:3"

    result = PassManager([LiftConstants()]).run(model)

    assert result.model.graph.initializers["c"].metadata_props["source"] == "net.py:3"


def test_branches_keep_their_own(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    y = If (c) <
        then_branch = t () => (float[N] a) { k = Constant<value_float = 2.0>()  a = Mul(x, k) },
        else_branch = e () => (float[N] b) { k = Constant<value_float = 3.0>()  b = Mul(x, k) }
    > }"""

    done = rewrite(LiftConstants(), text)

    assert sorted(done.ops) == ["If", "Mul", "Mul"]
    assert not done.after.graph.initializers
    (branches,) = [node for node in done.after.graph if node.op_type == "If"]
    assert "k" in branches.attributes["then_branch"].as_graph().initializers


def test_returned_constants_functions_and_old_files_stay(rewrite):
    function = """<domain: "local", opset_import: ["": 17]> f (u) => (w)
    { c = Constant<value_float = 2.0>()  w = Mul(u, c) }"""
    text = """g (float[N] x) => (float[N] y, float c)
    { c = Constant<value_float = 2.0>()  y = local.f(x) }"""
    done = rewrite(LiftConstants(), text, functions=function)
    assert not done.entry.changed
    assert done.reasons == ["the graph returns it"]

    old = "g (float[2] x) => (float[2] y) { c = Constant<value = float {2.0}>()  y = Mul(x, c) }"
    done = rewrite(LiftConstants(), old, ir_version=3, opset=8)
    assert not done.entry.changed
    assert "version 3" in done.reasons[0]
