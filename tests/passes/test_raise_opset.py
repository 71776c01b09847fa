"""RaiseOpset: the same results, nothing lost, no weight copied."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import version_converter

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import nodes, serialize
from onnxslim_rx.passbase import PassContext
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.raise_opset import RaiseOpset

TEXT = """g (bool on, float[N, 40] x) => (float[N, 40] y) {
    a = MatMul(x, w)
    [summed] b = ReduceSum<axes = [1], keepdims = 1>(a)
    k = Add(b, small)
    y = If(on) <then_branch = t () => (float[N, 40] z) {
                    q = ReduceMean<axes = [1], keepdims = 1>(a)  s = Squeeze<axes = [1]>(q)
                    u = Unsqueeze<axes = [1]>(s)  z = Sub(a, u) },
                else_branch = e () => (float[N, 40] j) { j = Add(a, k) }>
}"""


def weights(rng):
    return {"w": rng.standard_normal((40, 40)).astype("f"), "small": np.float32(1.5)}


def raise_opset(model, to):
    def evaluate(*_):
        raise AssertionError("it runs nothing")

    return RaiseOpset(to=to)(model, PassContext(evaluate, load_target("ort-cpu")))


@pytest.mark.parametrize("to", [13, 17, 18, 21, 23])
def test_same_results_and_the_same_tensors(build_model, rng, to):
    model = build_model(TEXT, weights(rng), opset=11, ir_version=7)
    content = serialize(model)

    done = raise_opset(model, to)

    assert done.modified
    assert serialize(model) == content
    assert done.model.opset_imports[""] == to
    assert done.model.opset_imports["ai.onnx.ml"] == 3
    kept = model.graph.initializers["w"].const_value
    assert done.model.graph.initializers["w"].const_value is kept
    onnx.checker.check_model(serialize(done.model), full_check=True)
    for on in (True, False):
        feeds = {"on": np.array(on), "x": rng.standard_normal((3, 40)).astype("f")}
        right, other = (Runner(one)(feeds)["y"] for one in (model, done.model))
        np.testing.assert_allclose(right, other, atol=1e-5)


def test_notes_and_symbols_stay(build_model, rng):
    model = build_model(TEXT, weights(rng), opset=11)
    model.metadata_props["author"] = "me"
    model.producer_name = "tool"
    model.doc_string = "text"
    node = model.graph[1]
    node.metadata_props["source"] = "file.py"
    node.outputs[0].metadata_props["note"] = "sum"

    raised = raise_opset(model, 18).model

    assert (raised.metadata_props["author"], raised.producer_name) == ("me", "tool")
    assert raised.doc_string == "text"
    (summed,) = [node for node in raised.graph if node.op_type == "ReduceSum"]
    assert summed.name == "summed"
    assert summed.metadata_props["source"] == "file.py"
    assert summed.outputs[0].metadata_props["note"] == "sum"
    assert [str(dim) for dim in raised.graph.inputs[1].shape] == ["N", "40"]
    assert len(raised.graph.inputs) == 2


def test_old_formats_and_overridable_weights(build_model, rng):
    text = "g (float[N, 40] x, float[40, 40] w, float small) => (float[N, 40] y) {"
    text += " a = MatMul(x, w) y = Add(a, small) }"
    for version, inputs in ((3, ["x"]), (7, ["x", "w", "small"])):
        model = build_model(text, weights(rng), opset=9, ir_version=version)
        raised = raise_opset(model, 17).model
        assert [value.name for value in raised.graph.inputs] == inputs
        assert sorted(raised.graph.initializers) == ["small", "w"]
        assert raised.ir_version == 8
        feeds = {"x": rng.standard_normal((3, 40)).astype("f")}
        right, other = (Runner(one)(feeds)["y"] for one in (model, raised))
        np.testing.assert_allclose(right, other, atol=1e-5)


def test_weights_of_branches(build_model, rng):
    text = """g (bool on, float[N, 40] x) => (float[N, 40] y) {
        y = If(on) <then_branch = t () => (float[N, 40] z) { z = MatMul(x, v) },
                    else_branch = e () => (float[N, 40] k) { k = MatMul(x, w) }> }"""
    values = {name: rng.standard_normal((40, 40)).astype("f") for name in "vw"}
    model = build_model(text, values, opset=11)
    for name, attribute in zip("vw", model.graph[0].attributes.values(), strict=True):
        value = model.graph.initializers.pop(name)
        value.name = "same"  # each branch has its own
        attribute.as_graph().register_initializer(value)

    done = raise_opset(model, 17)

    assert done.modified
    for on in (True, False):
        feeds = {"on": np.array(on), "x": rng.standard_normal((3, 40)).astype("f")}
        right, other = (Runner(one)(feeds)["y"] for one in (model, done.model))
        np.testing.assert_allclose(right, other, atol=1e-5)


def test_names_that_the_converter_repeats(build_model, rng):
    text = "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { [soft] y = Softmax(x) }"
    model = build_model(text, opset=12)
    raised = raise_opset(model, 13).model
    names = [node.name for node in raised.graph if node.name]
    assert len(names) == len(set(names)) > 1
    feeds = {"x": rng.standard_normal((2, 3, 4)).astype("f")}
    right, other = (Runner(one)(feeds)["y"] for one in (model, raised))
    np.testing.assert_allclose(right, other, atol=1e-6)


def test_refused(build_model, rng, monkeypatch):
    model = build_model(TEXT, weights(rng), opset=11)
    for to in (8, 11):
        assert not raise_opset(model, to).modified
    with pytest.raises(InputError, match="8 to 25"):
        RaiseOpset(to=99)
    function = """<domain: "local", opset_import: ["": 11]> f (a) => (b) { b = Neg(a) }"""
    text = "g (float[2] x) => (float[2] y) { y = local.f(x) }"
    done = raise_opset(build_model(text, opset=11, functions=function), 17)
    assert done.skipped[0].why == "the model has functions of its own"

    def fail(*_):
        raise RuntimeError("No Adapter")

    monkeypatch.setattr(version_converter, "convert_version", fail)
    done = raise_opset(model, 17)
    assert not done.modified
    assert done.skipped[0].why == "the converter fails: No Adapter"


def test_other_domains_stay(build_model):
    text = "g (float[2] x) => (float[2] y) { a = custom.Foo<alpha = 0.5>(x) y = Relu(a) }"
    done = raise_opset(build_model(text, opset=11), 17)
    assert done.modified
    first = done.model.graph[0]
    assert (first.domain, first.op_type) == ("custom", "Foo")
    assert first.attributes.get_float("alpha") == 0.5


def test_constants_that_the_converter_names_alike(build_model):
    text = """g (float[N, 4] x, float[4, 4] w, bool c) => (float[N, 4] y) {
        a = MatMul(x, w)  b = ReduceSum<axes = [1], keepdims = 1>(a)  k = custom.Foo(b)
        y = If(c) <then_branch = t () => (float[N, 4] z) {
                       q = ReduceMean<axes = [1], keepdims = 1>(a)  s = Squeeze<axes = [1]>(q)
                       u = Unsqueeze<axes = [1]>(s)  z = Sub(a, u) },
                   else_branch = e () => (float[N, 4] z2) { z2 = Add(a, k) }>
    }"""
    raised = raise_opset(build_model(text, opset=11), 18).model
    names = [value.name for node in nodes(raised) for value in node.outputs]
    assert len(names) == len(set(names))
