"""The editor: names stay unique, graph outputs keep theirs, constants go where they may lie."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import bodies, load, marked, nodes
from onnxslim_rx.rewriter import Editor, remove


def model(body, *, ir_version=8, functions=""):
    """A model in ONNX's text form."""
    head = f'<ir_version: {ir_version}, opset_import: ["": 17, "local": 1]>'
    return load(ir.to_proto(ir.from_onnx_text(f"{head}\n{body}\n{functions}")))


CHAIN = "g (float[N] x) => (float[N] y) { a = Neg(x)  b = Exp(a)  y = Abs(b) }"


def test_replace_keeps_name_type_shape_and_metadata_of_a_graph_output():
    found = model(CHAIN)
    last = found.graph[-1]
    last.metadata_props["source"] = "net.py:3"
    found.graph[1].metadata_props["from"] = "elsewhere"
    tape = ir.tape.Tape()
    first = tape.op("Sin", [found.graph[0].outputs[0]])
    result = tape.op("Cos", [first, tape.initializer(ir.tensor(np.ones(1, "f"), name="a"))])

    Editor(found).replace([found.graph[1], last], tape, {last.outputs[0]: result}, by="test")

    assert [node.op_type for node in found.graph] == ["Neg", "Sin", "Cos"]
    (output,) = found.graph.outputs
    assert output is result
    assert (output.name, str(output.type), str(output.shape)) == ("y", "FLOAT", "[N]")
    assert [marked(node) for node in found.graph] == [None, "test", "test"]
    for node in list(found.graph)[1:]:
        assert node.metadata_props["source"] == "net.py:3"
        assert node.metadata_props["from"] == "elsewhere"
    assert list(found.graph.initializers) == ["a_1"]  # `a` is a value already
    names = [value.name for node in nodes(found) for value in node.outputs]
    assert len(set(names)) == len(names)


def test_forward_to_what_the_graph_cannot_return_is_refused():
    found = model("g (float[N] x) => (float[N] y, float[N] z) { y = Abs(x)  z = Identity(x) }")
    editor, (y, z), (x,) = Editor(found), found.graph.outputs, found.graph.inputs

    assert not editor.can_forward(z, x)  # an input
    assert not editor.can_forward(z, y)  # has a name of its own
    with pytest.raises(ValueError, match="cannot be returned"):
        editor.forward(z, x)


def test_forward_into_a_graph_output_takes_over_its_name():
    found = model("g (float[N] x) => (float[N] y) { a = Abs(x)  y = Identity(a)  b = Neg(a) }")
    editor, (y,) = Editor(found), found.graph.outputs
    a = found.graph[0].outputs[0]

    editor.forward(y, a)

    assert found.graph.outputs[0] is a
    assert (a.name, str(a.shape)) == ("y", "[N]")
    assert found.graph[2].inputs[0] is a


def test_constants_are_initializers_where_there_are_any():
    found = model(CHAIN)
    Editor(found).constant(found.graph, ir.tensor(np.ones(2, "f")), "c")
    assert list(found.graph.initializers) == ["c"]

    old = model(CHAIN.replace("float[N]", "float[2]"), ir_version=3)
    value = Editor(old).constant(old.graph, ir.tensor(np.ones(2, "f")), "c")
    assert not old.graph.initializers
    assert old.graph[0].outputs[0] is value
    assert old.graph[0].op_type == "Constant"


def test_constants_of_functions_are_nodes():
    function = '<domain: "local", opset_import: ["": 17]> f (u) => (w) { w = Neg(u) }'
    found = model("g (float[N] x) => (float[N] y) { y = local.f(x) }", functions=function)
    (body,) = found.functions.values()

    Editor(found).constant(body.graph, ir.tensor(np.ones(2, "f")), "c")

    assert [node.op_type for node in body] == ["Constant", "Neg"]


def test_new_domains_are_imported():
    found = model(CHAIN)
    node = found.graph[1]
    tape = ir.tape.Tape()
    result = tape.op("FusedExp", [node.inputs[0]], domain="com.microsoft", version=1)

    Editor(found).replace([node], tape, {node.outputs[0]: result}, by="test")

    assert found.opset_imports["com.microsoft"] == 1


def test_remove_unused_leaves_what_others_read_override_or_get():
    found = model("""g (float[2] x, float[2] d) => (float[2] y, float[2] r)
        <float[2] d = {1.0, 2.0}, float[2] u = {1.0, 2.0}, float[2] k = {1.0, 2.0},
         float[2] r = {1.0, 2.0}>
        { c = Constant<value_float = 1.0>()  y = Add(x, k) }""")
    weights = found.graph.initializers
    values = [*weights.values(), found.graph[0].outputs[0], found.graph[1].outputs[0], None]

    Editor(found).remove_unused(values)

    assert set(found.graph.initializers) == {"d", "k", "r"}
    assert [node.op_type for node in found.graph] == ["Add"]


def test_remove_takes_subgraphs_along():
    found = model("""g (float[N] x, bool c) => (float[N] y) {
        only = Exp(x)
        d = If (c) <
            then_branch = t () => (float[N] a) { a = Neg(only) },
            else_branch = e () => (float[N] b) { b = Sin(x) }
        >
        y = Abs(x) }""")
    only, choice, _ = found.graph
    assert len(list(bodies(choice))) == 2

    remove(choice)

    assert not only.outputs[0].uses()
