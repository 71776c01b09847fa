"""Models that cannot be used: each gives one clear line, and nothing else happens."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import parser

from onnxslim_rx import ir
from onnxslim_rx.errors import InputError

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
GOOD = HEAD + "g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"


def refused(model, message: str) -> str:
    """Load `model`, which must be refused with one line that has `message` in it."""
    with pytest.raises(InputError, match=message) as caught:
        ir.load(model)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert caught.value.expected or caught.value.advice, text
    return text


def good() -> onnx.ModelProto:
    proto = parser.parse_model(GOOD)
    proto.graph.initializer[0].ClearField("float_data")
    proto.graph.initializer[0].raw_data = np.arange(4, dtype="f4").tobytes()
    return proto


def zipped() -> bytes:
    return b"PK\x03\x04" + bytes(100)


FILES = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is no model\n" * 20, "cannot be parsed"),
    "zeros": (bytes(1000), "cannot be parsed"),
    "random": (np.random.default_rng(0).bytes(1000), "cannot be parsed"),
    "zip": (zipped(), "zip archive"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gunzip"),
    "pickle": (b"\x80\x02}q\x00." + bytes(100), "pickle"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
    "ort": (struct.pack("<I", 24) + b"ORTM" + bytes(100), "ORT format"),
    "other protobuf": (
        onnx.TensorProto(dims=[3], data_type=1, name="t").SerializeToString(),
        "parsed|graph",
    ),
    "nothing but a version": (onnx.ModelProto(ir_version=8).SerializeToString(), "has no graph"),
}


@pytest.mark.parametrize("content", FILES)
def test_files_that_are_no_models(content, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(FILES[content][0])
    assert "m.onnx" in refused(path, FILES[content][1]) or "graph" in FILES[content][1]
    assert path.read_bytes() == FILES[content][0]


def test_paths_that_are_no_files(tmp_path):
    refused(tmp_path / "missing.onnx", r"there is no file .*missing\.onnx")
    refused(tmp_path, "is not a file")
    refused("/dev/null", "is not a file")
    refused("nul\0.onnx", "there is no file")
    refused("x" * 300, "File name too long|there is no file")


def test_a_file_too_large_for_protobuf(tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(1 << 31)
    refused(tmp_path / "m.onnx", r"has 2\.1 GB; expected at most 2 GB.*external data")


def test_truncated_files(tmp_path):
    content = good().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        try:
            ir.load(path)
        except InputError:
            pass
        else:  # cut between two fields of the model, with the whole graph before
            assert onnx.ModelProto.FromString(content[:length]).graph == good().graph


GRAPHS = {
    "cycle": ("{ a = Add(x, b) b = Relu(a) y = Relu(b) }", "form a cycle"),
    "cycle of one": ("{ y = Add(x, y) }", "form a cycle"),
    "cycle through a subgraph": (
        """{ y = If (c) <then_branch = t () => (float[N] z) { z = Relu(b) },
                         else_branch = e () => (float[N] z) { z = Relu(x) }>
             b = Relu(y) c = Cast <to = 9> (x) }""",
        "form a cycle",
    ),
    "cycle in a subgraph": (
        """{ c = Cast <to = 9> (x)
             y = If (c) <then_branch = t () => (float[N] z) { z = Relu(v) v = Relu(z) },
                         else_branch = e () => (float[N] z) { z = Relu(x) }> }""",
        "form a cycle",
    ),
    "dangling": ("{ y = Add(x, nowhere) }", "the Add that makes 'y' uses the value 'nowhere'"),
    "dangling in a subgraph": (
        """{ c = Cast <to = 9> (x)
             y = If (c) <then_branch = t () => (float[N] z) { z = Relu(v) },
                         else_branch = e () => (float[N] z) { v = Relu(x) z = Relu(v) }> }""",
        "the Relu that makes 'z' uses the value 'v'",
    ),
    "output not made": ("{ a = Relu(x) }", "has the output 'y', which nothing in it makes"),
    "output of a subgraph not made in it": (
        """{ c = Cast <to = 9> (x)
             y = If (c) <then_branch = t () => (float[N] x) { },
                         else_branch = e () => (float[N] z) { z = Relu(x) }> }""",
        "'t' has the output 'x', which nothing in it makes",
    ),
    "made twice": ("{ a = Relu(x) a = Abs(x) y = Neg(a) }", "the value 'a' twice"),
    "input made again": ("{ x = Relu(x) y = Relu(x) }", "the value 'x' twice"),
    "unknown operator": ("{ y = NoSuchOp(x) }", "'y': the operator is unknown in opset 17"),
    "operator of a later opset": ("{ y = Gelu(x) }", "the operator is unknown in opset 17"),
    "withdrawn operator": ("{ y = Upsample(x, x) }", "was withdrawn in opset 17"),
    "operator of a domain not imported": (
        "{ y = ai.onnx.ml.Normalizer(x) }",
        "belongs to ai.onnx.ml, whose version the model does not state",
    ),
    "too many inputs": ("{ y = Relu(x, x) }", "has 2 inputs; expected 1"),
    "too few inputs": ("{ y = Add(x) }", "has 1 inputs; expected 2"),
    "input left out": ("{ y = Add(, x) }", "lacks its input 'A'"),
    "too many outputs": ("{ y, z = Relu(x) }", "has 2 outputs; expected 1"),
    "attribute missing": ("{ y = Cast(x) }", "lacks the attribute 'to'"),
    "attribute unknown": ("{ y = Relu <alpha = 1.0> (x) }", "has an attribute 'alpha'"),
    "attribute of a wrong type": ("{ y = Cast <to = 1.0> (x) }", "of type FLOAT; expected INT"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_are_not_valid(case):
    body, message = GRAPHS[case]
    refused(parser.parse_model(f"{HEAD} g (float[N] x) => (float[N] y) {body}"), message)


def set_dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[0].dims[:] = dims

    return change


def field(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        part: object = proto
        *path, last = name.split(".")
        for step in path:
            part = part[int(step)] if step.isdigit() else getattr(part, step)  # type: ignore[index]
        if isinstance(value, list):
            del getattr(part, last)[:]
            getattr(part, last).extend(value)
        else:
            setattr(part, last, value)

    return change


FIELDS = {
    "absurd dimension": (set_dims(1 << 40), "shape 1099511627776 holds 16 bytes; expected 43980"),
    "absurd product": (set_dims(1 << 40, 1 << 40, 1 << 40), "holds 16 bytes; expected"),
    "more data than elements": (set_dims(3), "holds 16 bytes; expected 12 bytes"),
    "negative dimension": (set_dims(-4), "has the shape -4; expected no negative"),
    "no element type": (field("graph.initializer.0.data_type", 0), "has the element type 0"),
    "unknown element type": (field("graph.initializer.0.data_type", 99), "has the element type 99"),
    "other element type": (field("graph.initializer.0.data_type", 11), "expected 32 bytes"),
    "no data": (field("graph.initializer.0.raw_data", b""), "holds 0 bytes; expected 16 bytes"),
    "unnamed initializer": (field("graph.initializer.0.name", ""), "initializer without a name"),
    "unnamed input": (field("graph.input.0.name", ""), "input without a name"),
    "unknown type of an input": (field("graph.input.0.type.tensor_type.elem_type", 77), "77"),
    "IR version too new": (field("ir_version", 10_000), "IR version 10000; expected 1 to"),
    "no IR version": (field("ir_version", 0), "IR version 0"),
    "opset too new": (field("opset_import.0.version", 999), "opset 999 of ai.onnx; expected 1 to"),
    "opset not positive": (field("opset_import.0.version", -1), "opset -1 of ai.onnx"),
    "opset missing": (field("opset_import", []), "does not state its opset"),
    "another opset only": (
        field("opset_import", [onnx.OperatorSetIdProto(domain="custom", version=1)]),
        "belongs to ai.onnx, whose version the model does not state",
    ),
    "two opsets": (
        field("opset_import", [onnx.OperatorSetIdProto(domain=d, version=v)
                               for d, v in (("", 17), ("ai.onnx", 18))]),
        "opsets 17 and 18 of ai.onnx",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_are_not_valid(case):
    change, message = FIELDS[case]
    proto = good()
    change(proto)
    refused(proto, message)


@pytest.mark.parametrize("what", ["input", "initializer", "opset_import", "node"])
def test_definitions_that_come_twice(what):
    proto = good()
    entries = proto.opset_import if what == "opset_import" else getattr(proto.graph, what)
    entries.add().CopyFrom(entries[0])
    if what == "opset_import":
        ir.load(proto)  # which says the same twice
    else:
        refused(proto, "twice")


@pytest.mark.parametrize("text", ["x", "w", "Add", "g", "comment", "key", "N", "tensor comment"])
def test_text_that_is_not_utf8(text, tmp_path):
    proto = good()
    proto.graph.node[0].doc_string = "comment"
    proto.graph.initializer[0].doc_string = "tensor comment"
    proto.metadata_props.add(key="key", value="value")
    content = proto.SerializeToString()
    field = bytes([len(text)]) + text.encode()
    assert field in content
    (tmp_path / "m.onnx").write_bytes(content.replace(field, field[:-1] + b"\xf0"))
    refused(tmp_path / "m.onnx", "expected text in UTF-8")


def test_functions_that_call_themselves():
    text = HEAD.replace("17", '17, "f": 1') + "g (float[N] x) => (float[N] y) { y = f.a(x) }"
    domain = '<domain: "f", opset_import: ["": 17, "f": 1]>'
    direct = f"{domain} a (u) => (v) {{ v = f.a(u) }}"
    refused(parser.parse_model(text + direct), "call themselves: a")
    mutual = f"{domain} a (u) => (v) {{ v = f.b(u) }} {domain} b (u) => (v) {{ v = f.a(u) }}"
    refused(parser.parse_model(text + mutual), "call themselves: a, b")
    within = f"""{domain} a (u) => (v) {{ c = Cast <to = 9> (u)
        v = If (c) <then_branch = t () => (float z) {{ z = f.a(u) }},
                    else_branch = e () => (float z) {{ z = Relu(u) }}> }}"""
    refused(parser.parse_model(text + within), "call themselves: a")
    dangling = f"{domain} a (u) => (v) {{ v = Add(u, x) }}"
    refused(parser.parse_model(text + dangling), "uses the value 'x', which nothing makes")


def nested(depth: int) -> onnx.ModelProto:
    proto = parser.parse_model(
        f"""{HEAD} g (float[N] x, bool c) => (float[N] y)
        {{ y = If (c) <then_branch = t () => (float[N] z) {{ z = Relu(x) }},
                       else_branch = e () => (float[N] z) {{ z = Abs(x) }}> }}"""
    )
    branch = onnx.NodeProto()
    branch.CopyFrom(proto.graph.node[0])
    body = proto.graph.node[0].attribute[0].g
    for _ in range(depth):
        body.node[0].CopyFrom(branch)
        body.node[0].output[0] = "z"
        body = body.node[0].attribute[0].g
    return proto


def test_nesting_that_is_too_deep(tmp_path):
    (tmp_path / "m.onnx").write_bytes(nested(60).SerializeToString())
    refused(tmp_path / "m.onnx", "cannot be parsed")
    ir.load(nested(10))


def test_nesting_in_memory_that_is_too_deep():
    condition = onnx_ir.Value(name="c", type=onnx_ir.TensorType(onnx_ir.DataType.BOOL))
    body = onnx_ir.Graph([], [], nodes=[], name="innermost")
    for _ in range(2000):
        output = onnx_ir.Value(name="y")
        branch = onnx_ir.AttrGraph("then_branch", body)
        node = onnx_ir.Node("", "If", [condition], [branch], outputs=[output])
        body = onnx_ir.Graph([], [output], nodes=[node], name="g")
    graph = onnx_ir.Graph([condition], [], nodes=[], opset_imports={"": 17}, name="main")
    graph.append(onnx_ir.Node("", "If", [condition], [onnx_ir.AttrGraph("then_branch", body)]))
    refused(onnx_ir.Model(graph, ir_version=8), "RecursionError")


def test_what_is_unusual_but_valid_is_taken():
    for text in (
        HEAD.replace("17", '17, "own": 3')
        + "g (float[N] x) => (float[N] y) { y = own.NoSuchOp <anything = 1> (x, x) }",
        HEAD.replace('""', '"ai.onnx"') + "g (float[N] x) => (float[N] y) { y = Relu(x) }",
        HEAD + "g (float[N] x) => (float[N] y) { y = SimplifiedLayerNormalization(x, x) }",
        HEAD + "g (float[N] x) => (float[N] x) { }",
        HEAD + "g () => (float[2] w) <float[2] w = {1, 2}> { }",
        HEAD + "g (float[0, 3] x) => (float[0, 3] y) <float[0, 3] e = {}> { y = Add(x, e) }",
    ):
        ir.load(parser.parse_model(text))
