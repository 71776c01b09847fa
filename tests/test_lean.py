"""Large files are read without their weights, to the same model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import SpooledTensor, digest, load, save, serialize, size_bytes, spool
from onnxslim_rx.ir.lean import without_data
from onnxslim_rx.runtime import Runner


def proto(*arrays: np.ndarray, explicit: bool = False) -> onnx.ModelProto:
    """A model that returns its constants; `explicit`: saying that they lie inside."""
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[1] x) => (float[1] y) { y = Neg(x) }'
    model = onnx.parser.parse_model(text)
    model.doc_string = "kept"
    for number, array in enumerate(arrays):
        tensor = ir.to_proto(ir.tensor(array, name=f"w{number}", doc_string="d"))
        if explicit:  # as `onnx.load` leaves it
            tensor.data_location = onnx.TensorProto.DEFAULT
        model.graph.initializer.append(tensor)
        node = model.graph.node.add(op_type="Identity", input=[f"w{number}"], output=[f"o{number}"])
        node.name = f"{number} long name" * 30  # whose length takes two bytes
        info = model.graph.output.add(name=f"o{number}")
        info.type.tensor_type.elem_type = tensor.data_type
    typed = onnx.TensorProto(name="typed", dims=[1], data_type=1, float_data=[1])
    model.graph.initializer.append(typed)
    return model


@given(
    sizes=st.lists(st.integers(0, 300), max_size=4),
    least=st.integers(1, 400),
    explicit=st.booleans(),
)
def test_all_but_the_data_is_there(sizes, least, explicit) -> None:
    model = proto(*(np.full(size, 7, np.uint8) for size in sizes), explicit=explicit)
    content = model.SerializeToString()
    lean = without_data(memoryview(content), least, "m.onnx")
    assert lean is not None
    found = onnx.ModelProto.FromString(lean)
    for tensor in found.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert len(tensor.raw_data) < least
            continue
        about = {entry.key: entry.value for entry in tensor.external_data}
        assert about["location"] == "m.onnx"
        start, length = int(about["offset"]), int(about["length"])
        assert length >= least
        tensor.raw_data = content[start : start + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        if explicit:
            tensor.data_location = onnx.TensorProto.DEFAULT
    assert found == model


@given(content=st.binary(max_size=200))
def test_noise_is_left_to_the_parser(content) -> None:
    lean = without_data(memoryview(content), 1, "m.onnx")
    try:
        wanted = onnx.ModelProto.FromString(content)
    except DecodeError:
        return
    assert lean is None or onnx.ModelProto.FromString(lean) == wanted


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_truncated_files_are_not_read(cut) -> None:
    content = proto(np.ones(100, np.uint8)).SerializeToString()
    assert without_data(memoryview(content)[:-cut], 1, "m.onnx") is None


@pytest.mark.parametrize("group", [b"\x0b\x0c", b"\x80" * 11 + b"\x01"])
def test_what_onnx_does_not_use_is_left_to_the_parser(group) -> None:
    assert without_data(memoryview(group), 1, "m.onnx") is None


ARRAYS = (
    np.arange(30, dtype=np.float32).reshape(5, 6),
    np.arange(7, dtype=np.float16),
    np.arange(9).astype(ml_dtypes.bfloat16),
    np.arange(-8, 8).astype(ml_dtypes.int4),
    np.arange(5) % 2 == 0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with weights inside."""
    (tmp_path / "m.onnx").write_bytes(proto(*ARRAYS).SerializeToString())
    return tmp_path / "m.onnx"


def make_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "LARGE_BYTES", 1)
    monkeypatch.setattr(spool, "SPOOLED_BYTES", 5)  # one number less


def test_a_large_file_is_the_same_model(path, tmp_path, monkeypatch) -> None:
    small = load(path)
    wanted = digest(small), size_bytes(small), serialize(small)
    make_large(tmp_path, monkeypatch)
    large = load(path)
    for number, array in enumerate(ARRAYS):
        tensor = large.graph.initializers[f"w{number}"].const_value
        assert tensor is not None
        assert isinstance(tensor, SpooledTensor)
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert serialize(large) == wanted[2]
    assert (digest(large), size_bytes(large)) == wanted[:2]
    save(large, tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == wanted[2]
    assert not (tmp_path / "o.onnx.data").exists()
    with pytest.raises(InputError, match="would replace the input"):
        save(large, path)


def test_without_disk_it_is_in_memory(path, tmp_path, monkeypatch) -> None:
    make_large(tmp_path, monkeypatch)
    monkeypatch.setattr(spool.Spool, "put", lambda self, like, parts: None)
    large = load(path)
    for number, array in enumerate(ARRAYS):
        tensor = large.graph.initializers[f"w{number}"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_it_runs(tmp_path, monkeypatch) -> None:
    (tmp_path / "m.onnx").write_bytes(proto(*ARRAYS[:2]).SerializeToString())
    make_large(tmp_path, monkeypatch)
    found = Runner(tmp_path / "m.onnx", outputs=["o0", "o1"])({"x": np.ones(1, np.float32)})
    np.testing.assert_array_equal(found["o0"], ARRAYS[0])
    np.testing.assert_array_equal(found["o1"], ARRAYS[1])


def test_data_that_does_not_fit_its_shape_is_refused(tmp_path, monkeypatch) -> None:
    model = proto(ARRAYS[0])
    model.graph.initializer[0].dims[0] = 4
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    make_large(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"'w0' of shape 4x6 has 120 bytes.*expected 96 bytes"):
        load(tmp_path / "m.onnx")
