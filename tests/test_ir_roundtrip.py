"""Nothing is lost between a file, the model in memory and the next file."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as hypothesis_numpy
import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from onnxslim_rx import ir
from onnxslim_rx.errors import InputError

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILES = sorted(file for file in DATA.rglob("*.onnx") if file.stat().st_size < 60_000)
# subgraphs, functions, strings, sequences, optionals, narrow types, omitted inputs and outputs
OPERATORS = (
    "Cast", "Constant", "Dropout", "If", "LabelEncoder", "Loop", "LSTM", "OptionalHasElement",
    "Resize", "Scan", "SequenceMap", "SplitToSequence", "StringConcat",
)  # fmt: skip


def comparable(proto: onnx.ModelProto) -> list[str]:
    """The whole content as text, without fields that are set to nothing, and with hints sorted.

    Hints (`value_info`) for initializers are left out: the tensors say the same.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for body in (copy.graph, *copy.functions):
        known = {tensor.name for tensor in getattr(body, "initializer", ())}
        hints = sorted((info.name, info.SerializeToString()) for info in body.value_info)
        del body.value_info[:]
        body.value_info.extend(
            onnx.ValueInfoProto.FromString(info) for name, info in hints if name not in known
        )
    lines = (line.strip() for line in str(copy).splitlines())
    return [line for line in lines if not line.endswith(': ""') and line != "model_version: 0"]


def assert_kept(proto: onnx.ModelProto) -> None:
    once = onnx.ModelProto.FromString(ir.serialize(ir.load(proto)))
    assert comparable(once) == comparable(proto)
    twice = ir.serialize(ir.load(once))
    assert twice == once.SerializeToString(deterministic=True)
    model = ir.load(proto)
    assert ir.digest(ir.clone(model)) == ir.digest(ir.load(once)) == ir.digest(model)
    assert ir.serialize(ir.clone(model)) == twice


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name + "/" + file.stem)
def test_models_of_the_onnx_test_suite(file):
    assert_kept(onnx.load(file))


def test_nodes_of_the_onnx_test_suite(onnx_node_cases):
    count = 0
    for case in onnx_node_cases:
        if any(node.op_type in OPERATORS for node in case.model.graph.node):
            assert_kept(case.model)
            count += 1
    assert count > 100


def test_what_models_carry_besides_nodes(tmp_path):
    proto = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3, "custom.domain": 4, "local": 1],
         producer_name: "me", producer_version: "1.2", domain: "here", model_version: 7,
         doc_string: "doc", metadata_props: ["a": "1", "b": "2"]>
        main (float[batch, sequence, 4] x, float[4] overridable = {1, 2, 3, 4}, bool flag)
            => (float[batch, sequence, rest] z, float[batch, sequence, 4] x_again)
        <float[4] tied = {1, 2, 3, 4}>
        {
            a = Add(x, tied)
            b = local.twice <scale: float = 3.0> (a, tied)
            c, , d = custom.domain.Op <text = "x", numbers = [1, 2]> (b, , overridable)
            x_again = Identity(x)
            z = If (flag) <
                then_branch = yes () => (float[p, q, r] t) <float[4] tied2 = {1, 1, 1, 1}>
                    { t = Mul(a, tied2) },
                else_branch = no () => (float[p, q, r] e) { e = Sub(c, d) }
            >
        }
        <domain: "local", opset_import: ["": 21], doc_string: "f">
        twice <scale: float = 2.0, other> (u, v) => (w)
        { k = Constant <value_float: float = @scale>()  m = Mul(u, k)  w = Add(m, v) }
        """
    )
    narrow = proto.graph.initializer.add(name="narrow", dims=[3], raw_data=b"\xe1\x03")
    narrow.data_type = onnx.TensorProto.INT4
    proto.functions[0].metadata_props.add(key="f", value="g")
    proto.graph.metadata_props.add(key="graph", value="kept")
    proto.graph.doc_string = "graph doc"
    proto.graph.node[0].metadata_props.add(key="node", value="kept")
    proto.graph.node[0].doc_string = "node doc"
    proto.graph.input[0].metadata_props.add(key="input", value="kept")
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    proto.graph.initializer[0].metadata_props.add(key="tensor", value="kept")
    proto.graph.initializer[0].doc_string = "tensor doc"
    hint = proto.graph.value_info.add(name="a", doc_string="hint")
    hint.type.CopyFrom(proto.graph.input[0].type)
    annotation = proto.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="tied")
    proto.configuration.add(name="devices", num_devices=2, device=["a", "b"])
    proto.ir_version = 11
    assert_kept(proto)

    # weights in a second file are all that differs
    model = ir.load(proto)
    ir.save(model, tmp_path / "m.onnx", external=True)
    assert ir.digest(ir.load(tmp_path / "m.onnx")) == ir.digest(model)


def test_types_that_onnx_ir_lacks():
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
        g (float[N, 2] x, bool c) => (float[N] z)
        { labels, scores = ai.onnx.ml.LinearClassifier <coefficients = [1.0, 2.0]> (x)
          z = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (scores) }"""
    )
    maps = proto.graph.output[0].type.sequence_type.elem_type.map_type
    maps.key_type = onnx.TensorProto.INT64
    maps.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    assert_kept(proto)

    # inner values: dropped, as ONNX Runtime infers them
    hint = proto.graph.value_info.add(name="scores")
    hint.type.tensor_type.shape.dim.add(dim_value=3)
    proto.graph.value_info.add(name="z2").type.CopyFrom(proto.graph.output[0].type)
    kept = onnx.ModelProto.FromString(ir.serialize(ir.load(proto)))
    assert kept.graph.output == proto.graph.output
    assert not kept.graph.value_info


def test_what_onnx_ir_cannot_hold_is_refused_not_dropped():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y)'
    proto = parser.parse_model(text + " { y = Add(x, s) }")
    proto.graph.sparse_initializer.add().values.name = "s"
    with pytest.raises(InputError, match="a sparse tensor, 's'; expected dense"):
        ir.load(proto)

    proto = parser.parse_model(text + " { s = Constant() y = Add(x, s) }")
    attribute = proto.graph.node[0].attribute.add(name="sparse_value")
    attribute.type = onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.dims.append(3)
    with pytest.raises(InputError, match="a sparse tensor, 'sparse_value'"):
        ir.load(proto)

    proto = parser.parse_model(text + " { y = Relu(x) }")
    proto.training_info.add()
    with pytest.raises(InputError, match="training information"):
        ir.load(proto)


dtypes = st.sampled_from(
    ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "c8", "c16"]
)
arrays = hypothesis_numpy.arrays(
    dtypes, hypothesis_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
)
# what protobuf takes as text; no NUL, at which some readers stop
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
typed = st.booleans()


@st.composite
def models(draw) -> onnx.ModelProto:
    """Graphs of random weights, in all ways to store them, under random names."""
    names = draw(st.lists(texts.filter(bool), min_size=2, max_size=8, unique=True))
    source, *weights = names
    nodes, initializers = [], []
    for index, name in enumerate(weights):
        array = draw(arrays)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        if draw(typed) and array.dtype.kind != "c":
            flat = array.reshape(-1)
            if dtype == onnx.TensorProto.FLOAT16:
                flat = flat.astype("f4")
            tensor = helper.make_tensor(name, dtype, array.shape, flat.tolist())
        else:
            tensor = numpy_helper.from_array(array, name)
        tensor.doc_string = draw(texts)
        if draw(st.booleans()):
            initializers.append(tensor)
        else:
            nodes.append(helper.make_node("Constant", [], [name], draw(texts), value=tensor))
        nodes.append(helper.make_node("Op", [source, name], [f"{name}\n{index}"], domain="own"))
    graph = helper.make_graph(
        nodes,
        draw(texts),
        [helper.make_tensor_value_info(source, 1, [draw(texts), 3, None])],
        [helper.make_tensor_value_info(nodes[-1].output[0], 1, None)],
        initializers,
        doc_string=draw(texts),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    # onnx_ir sorts them by key
    helper.set_model_props(proto, dict(sorted(draw(st.dictionaries(texts, texts)).items())))
    return proto


# writing 3 files an example is slow on some disks; that is no fault of the generation
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(proto=models())
def test_random_models(proto, tmp_path_factory):
    assert_kept(proto)

    path = tmp_path_factory.mktemp("random") / "m.onnx"
    model = ir.load(proto)
    ir.save(model, path, external=True)
    assert ir.digest(ir.load(path)) == ir.digest(model)
    onnx.load(path)  # with its data


def test_the_digest_sees_weights_and_structure_and_not_how_they_are_stored():
    def build(values=(1.0, 2.0), operator="Relu", raw=True, name="w"):
        tensor = helper.make_tensor(
            name, 1, [2], np.array(values, "f4").tobytes() if raw else values, raw=raw
        )
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", name], ["a"]), helper.make_node(operator, ["a"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [2])],
            [helper.make_tensor_value_info("y", 1, [2])],
            [tensor],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        return ir.digest(ir.load(proto))

    assert build() == build(raw=False)
    others = [build(values=(1.0, 2.5)), build(operator="Abs"), build(name="v")]
    assert len({build(), *others}) == 4


def test_walks_reach_functions_and_subgraphs():
    proto = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "f": 1]>
        main (float[N] x, bool c) => (float[N] y)
        { a = f.g(x)
          y = If (c) <then_branch = t () => (float[N] u) <float w = {1}> { u = Add(a, w) },
                      else_branch = e () => (float[N] v) { v = Neg(a) }> }
        <domain: "f", opset_import: ["": 21]>
        g (p) => (q) { k = Constant <value: tensor = float[1] {2}> ()  q = Mul(p, k) }"""
    )
    model = ir.load(proto)

    assert [node.op_type for node in ir.nodes(model)] == [
        "g", "If", "Add", "Neg", "Constant", "Mul",
    ]  # fmt: skip
    assert [graph.name for graph in ir.graphs(model)][:3] == ["main", "t", "e"]
    assert [float(tensor.numpy().item()) for tensor in ir.tensors(model)] == [1, 2]


def test_constants_are_what_no_caller_can_change():
    proto = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        main (float[N] x, float[1] given = {5}) => (float[N] y) <float[1] fixed = {6}>
        { node = Constant <value: tensor = float[1] {7}> ()
          number = Constant <value_float: float = 8.0> ()
          a = Add(x, given) b = Add(a, fixed) c = Add(b, node) y = Add(c, number) }"""
    )
    model = ir.load(proto)
    found = {}
    for node in ir.nodes(model):
        for value in node.inputs:
            tensor = ir.constant(value)
            if value is not None:
                found[value.name] = None if tensor is None else tensor.numpy().item()
    expected = {"x": None, "given": None, "a": None, "b": None, "c": None}
    assert found == {**expected, "fixed": 6, "node": 7, "number": 8}
    assert ir.constant(None) is None


def test_marks_are_kept_in_the_file():
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    model = ir.load(proto)
    assert ir.marked(model.graph[0]) is None
    ir.mark(model.graph[0], "some-pass")
    again = ir.load(ir.to_kind(model, "proto"))
    assert ir.marked(again.graph[0]) == "some-pass"
    assert isinstance(again, onnx_ir.Model)
