"""External data that is missing, does not fit, or lies outside the folder of the model."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import parser

from onnxslim_rx import ir
from onnxslim_rx.errors import InputError

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def refused(model, message: str) -> str:
    """Load `model`, which must be refused with one line that has `message` in it."""
    with pytest.raises(InputError, match=message) as caught:
        ir.load(model)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert caught.value.expected or caught.value.advice, text
    return text


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model in a folder of its own, with 64 bytes of external data from byte 8 of `w.bin`."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(72))
    (tmp_path / "secret").write_bytes(bytes(72))
    proto = parser.parse_model(HEAD + "g (float[16] x) => (float[16] y) { y = Add(x, w) }")
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[16], data_location=1)
    for key, value in (("location", "w.bin"), ("offset", "8"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    onnx.save(proto, folder / "m.onnx")
    ir.load(folder / "m.onnx")
    return folder / "m.onnx"


def set_external(path: Path, **values: str | None) -> None:
    proto = onnx.load(path, load_external_data=False)
    entries = proto.graph.initializer[0].external_data
    known = {entry.key: entry.value for entry in entries} | values
    del entries[:]
    for key, value in known.items():
        if value is not None:
            entries.add(key=key, value=value)
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/passwd", "external data from '/etc/passwd'; expected a file in the folder"),
        ("../secret", "external data from '../secret'"),
        ("sub/../../secret", "external data from"),
        ("..\\secret", "external data from"),
        ("C:\\secret", "external data from"),
        ("C:secret", "external data from"),
        ("\\\\server\\share\\secret", "external data from"),
        ("", "external data from ''"),
        (None, "external data from ''"),
        (".", "is missing"),
        ("gone.bin", "gone.bin is missing; expected it beside the model"),
        ("link", "is a link that leads to .*secret"),
        ("folder_link/secret", "is a link that leads to .*secret"),
        ("*/_ORT_MEM_ADDR_/*", "is missing"),
    ],
)
def test_external_data_outside_the_folder_of_the_model(location, message, external, tmp_path):
    (external.parent / "link").symlink_to(tmp_path / "secret")
    (external.parent / "folder_link").symlink_to(tmp_path)
    (external.parent / "sub").mkdir()
    set_external(external, location=location)
    refused(external, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offset": "9"}, "ends at byte 73 of w.bin, which has 72 bytes"),
        ({"offset": str(1 << 70)}, "ends at byte"),
        ({"length": "63"}, "63 bytes of external data; expected 64"),
        ({"length": "-64"}, "external data length '-64'; expected a whole number"),
        ({"offset": "-8"}, "external data offset '-8'"),
        ({"offset": "8.0"}, "external data offset '8.0'"),
        ({"offset": "²"}, "external data offset '²'"),
        ({"offset": ""}, "external data offset ''"),
    ],
)
def test_external_data_that_does_not_fit(values, message, external):
    set_external(external, **values)
    refused(external, message)


def test_external_data_that_is_truncated_or_gone(external):
    (external.parent / "w.bin").write_bytes(bytes(71))
    refused(external, "which has 71 bytes; expected a complete")
    (external.parent / "w.bin").write_bytes(b"")
    refused(external, "which has 0 bytes")
    (external.parent / "w.bin").unlink()
    refused(external, "is missing")


def test_external_data_of_a_protobuf_has_no_folder(external, monkeypatch):
    monkeypatch.chdir(external.parent)
    proto = onnx.load(external, load_external_data=False)
    refused(proto, "no folder to look for it; give the path")


def test_external_data_in_attributes_is_checked_too(external):
    proto = onnx.load(external, load_external_data=False)
    node = proto.graph.node.add(op_type="Constant", output=["c"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(proto.graph.initializer[0])
    onnx.save(proto, external)
    ir.load(external)
    attribute.t.external_data[0].value = "../secret"
    onnx.save(proto, external)
    refused(external, r"external data from '\.\./secret'")
