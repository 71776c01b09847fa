"""Graphs in graphs, functions, initializers, and models that change."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir.walk import seal


def parse(inputs, body, *, ir_version=8, version=18, functions="", outputs="y", **weights):
    imports = f'"": {version}, "f": 1'
    proto = onnx.parser.parse_model(
        f"<ir_version: {ir_version}, opset_import: [{imports}]>"
        f"g ({inputs}) => ({outputs}) {{ {body} }} {functions}"
    )
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(proto)
    seal(model)  # as loading does
    return model


def about(model):
    return Facts(model)


def values(model):
    return {v.name: v for n in model.graph.all_nodes() for v in n.outputs}


def text(shape):
    return shape if shape is None else tuple(d if isinstance(d, int) else str(d) for d in shape)


def test_branches():
    body = """y = If (c) <
        then_branch = a () => (p) { h = Relu(x) p = Concat<axis=0>(h, h) },
        else_branch = b () => (q) { q = Concat<axis=0>(x, x, x) }>"""
    model = parse("float[n,s,6] x, bool c", body)
    facts, found = about(model), values(model)

    assert text(facts.shape(found["h"])) == ("n", "s", 6)
    first, *rest = facts.shape(found["y"])
    assert text(rest) == ("s", 6)
    assert str(first).startswith("?")
    assert facts.dtype(found["y"]) == ir.DataType.FLOAT


def test_a_branch_that_is_always_taken():
    body = """y = If (c) <then_branch = a () => (p) { p = Concat<axis=0>(x, x) },
                           else_branch = b () => (q) { q = Shape(x) }>"""
    model = parse("float[n,6] x", body, c=np.array(True))

    assert text(about(model).shape(values(model)["y"])) == ("2*n", 6)


LOOP = """y, z = Loop (m, c, x) <body = b (i, k, s) => (k2, s2, o) {{ k2 = Identity(k) {step} }}>"""


@pytest.mark.parametrize(
    ("step", "state", "stacked"),
    [
        ("s2 = Relu(s) o = Relu(s)", ("n", 6), ("?", "?", 6)),
        ("t = Concat<axis=0>(s, s) s2 = Relu(t) o = Relu(x)", ("?", 6), ("?", "?", 6)),
        ("s2 = Transpose(s) o = Relu(x)", ("?", "?"), ("?", "?", 6)),
        ("s2 = Shape(s) o = Relu(s)", None, None),
        ("s2 = Cast<to=1>(s) o = Relu(s)", ("n", 6), ("?", "?", 6)),
    ],
)
def test_loops_keep_what_each_step_keeps(step, state, stacked):
    model = parse("float[n,6] x, int64 m, bool c", LOOP.format(step=step), outputs="y, z")
    facts, found = about(model), values(model)

    def masked(shape):
        return shape and tuple("?" if str(dim).startswith("?") else dim for dim in text(shape))

    assert masked(facts.shape(found["y"])) == state
    assert masked(facts.shape(found["z"])) == stacked
    inside = masked(facts.shape(found["o"]))
    assert inside is None or len(inside) == 2


def test_the_type_of_a_state_may_change_only_to_nothing():
    step = "s2 = Cast<to=7>(s) o = Relu(x)"
    model = parse("float[n,6] x, int64 m, bool c", LOOP.format(step=step), outputs="y, z")

    assert about(model).dtype(values(model)["y"]) is None


def test_the_body_may_be_asked_first():
    step = "t = Concat<axis=0>(s, s) s2 = Relu(t) o = Relu(x)"
    model = parse("float[n,6] x, int64 m, bool c", LOOP.format(step=step), outputs="y, z")
    shape = about(model).shape(values(model)["t"])

    assert str(shape[0]).startswith("2*?")
    assert shape[1] == 6


def test_scans():
    body = """y, z = Scan (w, x) <num_scan_inputs = 1, scan_input_axes = [1],
        scan_output_axes = [-1], body = b (s, e) => (s2, o) { s2 = Add(s, e) o = Relu(s2) }>"""
    model = parse("float[n,t] x", body, outputs="y, z", w=np.zeros(1, np.float32))
    facts, found = about(model), values(model)

    assert len(facts.shape(found["y"])) == 1
    assert str(facts.shape(found["y"])[0]).startswith("?")  # [1] before the first step
    assert text(facts.shape(found["z"]))[1] == "t"

    kept = parse("float[n,t] x, float[n] w", body, outputs="y, z")
    assert text(about(kept).shape(values(kept)["y"])) == ("n",)


@pytest.mark.parametrize("ir_version", [3, 4, 8])
def test_initializers_that_are_inputs(ir_version):
    """As ONNX Runtime has it: constants until version 3 of the format, then defaults."""
    weight = np.array([2, 3])
    model = parse(
        "float[6] x, int64[2] w", "y = Reshape(x, w)", ir_version=ir_version, version=9, w=weight
    )
    facts = about(model)
    proto = ir.to_proto(model)
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    overridable = [info.name for info in session.get_overridable_initializers()]
    names = [info.name for info in session.get_inputs()]

    assert names == ["x"]
    value = next(v for v in model.graph.inputs if v.name == "w")
    if "w" in overridable:
        assert facts.array(value) is None
        assert facts.contents(value) is None
        assert facts.sizes(value) == (2,)
        assert facts.sizes(values(model)["y"]) is None
    else:
        assert facts.array(value).tolist() == [2, 3]
        assert facts.sizes(values(model)["y"]) == (2, 3)
    assert ("w" in overridable) == (ir_version >= 4)


def test_constants_are_read_only_and_read_once():
    model = parse("float[2] x", "k = Constant<value_floats=[1.0]>() y = Mul(x, w)", w=np.ones(2))
    facts = about(model)
    weight = model.graph.initializers["w"]
    array = facts.array(weight)

    assert facts.array(weight) is array
    assert facts.array(values(model)["k"]).tolist() == [1.0]
    assert facts.array(model.graph.inputs[0]) is None
    assert facts.array(None) is None
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5
    weight.const_value = ir.tensor(np.zeros(2), name="w")
    assert facts.array(weight).tolist() == [0, 0]


FUNCTION = """<domain: "f", opset_import: ["": 11]> Twice <axes> (a) => (b)
    { c = Relu(a) d = Constant<value_int: int = @axes>() e = Constant<value_floats=[1.0,2.0]>()
      h = Unsqueeze<axes=[0]>(e) b = Add(c, c) }"""

OLD_FUNCTION = """<domain: "f", opset_import: ["": 6]> Plus (a) => (b)
    { k = Constant<value=float[2,3]{1,2,3,4,5,6}>() d = Constant<value=float[2]{1,2}>()
      c = Add<broadcast=1, axis=0>(k, d) b = Add(a, c) }"""


def test_functions():
    model = parse("float[n,6] x", "y = f.Twice<axes=1>(x)", functions=FUNCTION)
    facts = about(model)
    (function,) = model.functions.values()
    inside = {v.name: v for n in function for v in n.outputs}

    assert facts.shape(values(model)["y"]) is None
    assert facts.dtype(values(model)["y"]) is None
    assert facts.shape(inside["b"]) is None
    assert facts.dtype(function.inputs[0]) is None
    assert facts.shape(inside["d"]) is None
    assert facts.sizes(inside["h"]) == (1, 2)  # as of the function's opset, not the model's


def test_functions_have_versions_of_their_own():
    model = parse("float[2,3] x", "y = f.Plus(x)", functions=OLD_FUNCTION)
    (function,) = model.functions.values()
    inside = {v.name: v for n in function for v in n.outputs}

    assert about(model).sizes(inside["c"]) == (2, 3)


def test_a_function_hides_an_operator_of_the_same_name():
    function = '<domain: "f", opset_import: ["": 18]> Relu (a) => (b) { b = Shape(a) }'
    model = parse("float[n,6] x", "y = f.Relu(x)", functions=function)

    assert about(model).shape(values(model)["y"]) is None


def test_stated_shapes_are_not_believed():
    model = parse("float[n,6] x", "h = Relu(x) y = Relu(h)")
    values(model)["h"].shape = ir.Shape([5, 5, 5])
    values(model)["y"].shape = ir.Shape([7])
    facts = about(model)

    assert text(facts.shape(values(model)["y"])) == ("n", 6)
    assert facts.rank(values(model)["y"]) == 2
    assert facts.sizes(values(model)["y"]) is None


def test_inputs():
    model = parse("float[n,n,6] a, float[n] b, seq(float[3]) c, float d", "y = Identity(a)")
    model.graph.inputs[3].shape = None
    model.graph.inputs[1].shape = ir.Shape([None])
    facts = about(model)
    a, b, c, d = (facts.shape(value) for value in model.graph.inputs)

    assert a[0] == a[1]
    assert a[0] != b[0]
    assert c is None
    assert d is None
    assert facts.dtype(model.graph.inputs[2]) is None
    assert facts.shape(None) is facts.dtype(None) is facts.contents(None) is None
    assert facts.rank(None) is facts.sizes(None) is None


def test_new_nodes_and_changes():
    model = parse("float[n,6] x", "y = Relu(x)")
    facts = about(model)
    x = model.graph.inputs[0]
    node = ir.node("Transpose", [values(model)["y"]])
    assert text(facts.shape(node.outputs[0])) == (6, "n")

    x.shape = ir.Shape([4, 6])
    assert text(facts.shape(node.outputs[0])) == (6, "n")
    facts.forget()
    assert facts.sizes(node.outputs[0]) == (6, 4)


@pytest.mark.parametrize("step", ["h{j} = Relu(h{i})", "h{j} = If(c)<then_branch=a() => (p{i})"
    " {{ p{i} = Relu(h{i}) }}, else_branch=b() => (q{i}) {{ q{i} = Abs(h{i}) }}>"])  # fmt: skip
def test_long_chains_need_no_deep_stack(step):
    body = " ".join(step.format(i=i, j=i + 1) for i in range(1500))
    model = parse("float[n] h0, bool c", body + " y = Relu(h1500)")

    assert text(about(model).shape(values(model)["y"])) == ("n",)


def test_invalid_nodes_are_unknown():
    body = "a = Transpose<perm=[0,7]>(x) b = Concat<axis=9>(x, x) c = Add(x, w) y = Gather(n, k)"
    model = parse("float[3,4] x", "n = Shape(x) " + body, w=np.ones(5, np.float32), k=[7])
    facts, found = about(model), values(model)

    for name in "abcy":
        assert facts.contents(found[name]) is None
        assert facts.sizes(found[name]) is None


def test_names_that_look_like_formulas_are_names():
    model = parse("float[n,6] x", "y = Relu(x)")
    model.graph.inputs[0].shape = ir.Shape(["2*n", "floor((n)/(2))"])
    shape = about(model).shape(values(model)["y"])

    assert text(shape) == ("'2*n'", "'floor((n)/(2))'")
