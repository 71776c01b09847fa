"""Fingerprints see every change; broken graphs and broken promises are told."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone, load
from onnxslim_rx.manager.invariants import (
    broken_promise,
    count_nodes,
    fingerprint,
    problem,
    signature,
)

TEXT = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}, float[N, 4] a> {
    k = Constant<value_float = 2.0>()
    a = Mul(x, w)
    b = local.f(a)
    y = If (c) <
        then_branch = t () => (float[N, 4] p) { p = Mul(b, k) },
        else_branch = e () => (float[N, 4] q) { q = Elu<alpha = 0.5>(b) }
    >
}
<domain: "local", opset_import: ["": 17]> f (u) => (v) { v = Abs(u) }
"""


@pytest.fixture
def model():
    return load(ir.to_proto(ir.from_onnx_text(TEXT)))


def branch(model, name):
    return model.graph[-1].attributes[name].as_graph()


def set_metadata(model):
    model.graph[1].metadata_props["key"] = "value"


def set_weight(model):
    model.graph.initializers["w"].const_value = ir.tensor(np.array([1, 2, 3, 4], "f"), name="w")


def set_attribute(model):
    node = branch(model, "else_branch")[0]
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.25)


def set_input(model):
    branch(model, "then_branch")[0].replace_input_with(1, model.graph.inputs[0])


def set_function(model):
    (function,) = model.functions.values()
    function[0].op_type = "Neg"


def set_shape(model):
    model.graph[1].outputs[0].shape = ir.Shape([2, 4])


def set_type(model):
    model.graph[1].outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def rename(model):
    model.graph[1].outputs[0].name = "other"


def remove_import(model):
    del model.opset_imports["local"]


def set_producer(model):
    model.producer_name = "someone"


CHANGES = [
    set_metadata, set_weight, set_attribute, set_input, set_function, set_shape, set_type, rename,
    remove_import, set_producer,
]  # fmt: skip


def test_a_copy_has_the_same_fingerprint_and_nodes_are_counted(model):
    assert fingerprint(clone(model)) == fingerprint(model)
    assert count_nodes(model) == 7  # four, one in each branch, one in f


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_seen(model, change):
    before = fingerprint(model)

    change(model)

    assert fingerprint(model) != before


def test_a_valid_model_has_no_problem(model):
    assert problem(model) is None


def test_the_order_of_nodes(model):
    first = model.graph[1]
    model.graph.remove(first)
    model.graph.append(first)

    assert "reads 'a', which nothing made before" in str(problem(model))


def test_values_that_nothing_makes(model):
    model.graph[1].replace_input_with(1, ir.val("ghost", ir.DataType.FLOAT, [4]))
    assert "reads 'ghost'" in str(problem(model))


def test_values_of_a_branch_seen_from_outside(model):
    inner = branch(model, "then_branch")[0].outputs[0]
    model.graph.append(ir.node("Neg", [inner]))
    assert "reads 'p'" in str(problem(model))


def test_names_domains_and_returns(model):
    copy = clone(model)
    copy.graph[1].outputs[0].name = "k"
    assert problem(copy) == "two values of one graph are called 'k'"

    copy = clone(model)
    copy.graph[1].domain = "foreign"
    assert "no opset is imported" in str(problem(copy))

    copy = clone(model)
    branch(copy, "then_branch").outputs[0] = copy.graph[1].outputs[0]
    assert "returns 'a', which it does not make" in str(problem(copy))

    copy = clone(model)
    (function,) = copy.functions.values()
    function[0].domain = "foreign"
    assert str(problem(copy)).startswith("in function f: no opset")


def change_dimension(model):
    model.graph.inputs[0].shape = ir.Shape([2, 4])


def rename_dimension(model):
    model.graph.outputs[0].shape = ir.Shape(["M", 4])


def drop_input(model):
    del model.graph.inputs[1]


def rename_output(model):
    model.graph.outputs[0].name = "z"


def raise_opset(model):
    model.opset_imports[""] = 18


def raise_version(model):
    model.ir_version = 9


@pytest.mark.parametrize(
    "change",
    [change_dimension, rename_dimension, drop_input, rename_output, raise_opset, raise_version],
    ids=lambda change: change.__name__,
)
def test_promises_to_callers(model, change):
    before = signature(model)

    change(model)

    assert broken_promise(before, signature(model))


@pytest.mark.parametrize("change", [raise_opset, raise_version], ids=lambda c: c.__name__)
def test_versions_may_rise_where_that_was_asked(model, change):
    before = dataclasses.replace(signature(model), may_rise=True)

    change(model)

    assert broken_promise(before, signature(model)) is None
    assert broken_promise(dataclasses.replace(signature(model), may_rise=True), before)  # or fall


def test_metadata_may_be_added_and_not_lost(model):
    model.metadata_props["author"] = "me"
    before = signature(model)
    model.metadata_props["more"] = "text"
    model.opset_imports["com.microsoft"] = 1
    del model.opset_imports["local"]  # `problem` asks whether it is needed
    assert broken_promise(before, signature(model)) is None

    del model.metadata_props["author"]
    assert broken_promise(before, signature(model)) == (
        "the metadata entry 'author' was lost or changed"
    )
