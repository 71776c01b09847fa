"""Tensors in temporary files: the same bytes, and nothing left behind."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxslim_rx.ir import Spool, SpooledTensor, digest, load, save, serialize, size_bytes, spool
from onnxslim_rx.ir.content import chunks
from onnxslim_rx.ir.walk import SPOOL


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; all tensors are kept there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "SPOOLED_BYTES", 1)
    return tmp_path


@pytest.fixture
def all_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every model counts as large."""
    monkeypatch.setattr(spool, "LARGE_BYTES", 1)
    return folder


def kept(where: Spool, array: np.ndarray) -> SpooledTensor:
    found = where.keep(ir.tensor(array))
    assert isinstance(found, SpooledTensor)
    return found


def matmul(*weights: np.ndarray) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", "k"]))
    nodes, value = [], x
    initializers = []
    for number, weight in enumerate(weights):
        w = ir.Value(name=f"w{number}", const_value=ir.tensor(weight, name=f"w{number}"))
        initializers.append(w)
        nodes.append(ir.node("MatMul", [value, w], name=f"n{number}"))
        value = nodes[-1].outputs[0]
        value.name = f"y{number}"
    value.type, value.shape = x.type, ir.Shape(["n", "m"])
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 17}, name="g"
    )
    return ir.Model(graph, ir_version=8)


ARRAYS = {
    "plain": np.arange(35, dtype=np.float32).reshape(5, 7),
    "transposed": np.arange(35, dtype=np.int16).reshape(5, 7).T,
    "one number": np.float64(3.5).reshape(()),
    "nothing": np.zeros((0, 3), np.float32),
    "bool": np.arange(9) % 2 == 0,
    "complex": np.arange(5) * 1j,
    "bfloat16": np.arange(9).astype(ml_dtypes.bfloat16),
    "float8": np.arange(9).astype(ml_dtypes.float8_e4m3fn),
    "int4": np.arange(-4, 3).astype(ml_dtypes.int4),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("size", [1, 8, 64, 1 << 20])
def test_parts_make_up_the_bytes(name, size, monkeypatch) -> None:
    monkeypatch.setattr("onnxslim_rx.ir.content._CHUNK", size)
    tensor = ir.tensor(ARRAYS[name])
    assert b"".join(map(bytes, chunks(tensor))) == tensor.tobytes()


def test_what_lies_in_one_piece_is_not_copied() -> None:
    array = np.zeros(1 << 24, np.uint8)
    assert all(np.shares_memory(part, array) for part in chunks(ir.tensor(array)))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_kept_tensor_is_the_same(name, folder) -> None:
    tensor = ir.tensor(ARRAYS[name], name="w", doc_string="d")
    found = Spool().keep(tensor)
    assert isinstance(found, SpooledTensor) == (name != "nothing")  # which has no bytes
    assert (found.name, found.doc_string, found.dtype) == ("w", "d", tensor.dtype)
    assert found.shape == tensor.shape
    assert found.tobytes() == tensor.tobytes()
    np.testing.assert_array_equal(found.numpy(), tensor.numpy())
    np.testing.assert_array_equal(np.asarray(found), tensor.numpy())
    assert ir.to_proto(found) == ir.to_proto(tensor)
    with (folder / "alone").open("wb") as file:
        found.tofile(file)  # type: ignore[attr-defined]  # not in the protocol
    assert (folder / "alone").read_bytes() == tensor.tobytes()


def test_small_ones_text_and_files_stay_as_they_are(tmp_path) -> None:
    own = Spool()
    small = ir.tensor(np.zeros(10, np.float32))
    text = ir.StringTensor([b"a" * (1 << 21)], shape=ir.Shape([1]))
    outside = ir.ExternalTensor(
        "f", 0, 1 << 22, ir.DataType.FLOAT, shape=ir.Shape([1 << 20]), name="f", base_dir=tmp_path
    )
    there = kept(own, np.zeros(1 << 20, np.float32))
    for tensor in (small, text, outside, there):
        assert own.keep(tensor) is tensor


def test_files_go_with_their_last_tensor(folder, monkeypatch) -> None:
    monkeypatch.setattr(spool, "_SEGMENT", 100)
    own = Spool()
    tensors = [kept(own, np.full(40, n, np.uint8)) for n in range(3)]
    (place,) = folder.iterdir()
    assert {t.path for t in tensors} == set(place.glob("*.bin"))
    view = tensors[0].numpy()[3:]
    first = tensors[0].path
    del tensors[0]
    gc.collect()
    assert not first.exists()
    np.testing.assert_array_equal(view, np.zeros(37))  # the map outlives the name
    del own, tensors
    gc.collect()
    assert not list(folder.iterdir())


def test_two_tensors_share_a_file_and_a_large_one_gets_its_own(folder, monkeypatch) -> None:
    monkeypatch.setattr(spool, "_SEGMENT", 3 * 4096)
    own = Spool()
    a, b, c = (kept(own, np.full(size, 7, np.uint8)) for size in (40, 40, 5 * 4096))
    assert a.path == b.path != c.path
    assert (a.offset, b.offset, c.offset) == (0, 4096, 0)
    assert (c.numpy() == 7).all()


def test_without_disk_tensors_stay_in_memory(folder, monkeypatch) -> None:
    class Full:
        def __init__(self, file) -> None:
            self._file = file

        def write(self, data) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self._file, name)

    own = Spool()
    good = own.keep(ir.tensor(np.ones(8, np.float32)))
    segment = own._segment
    assert segment is not None
    monkeypatch.setattr(segment, "_file", Full(segment._file))
    tensor = ir.tensor(np.ones(9, np.float32))
    assert own.keep(tensor) is tensor
    np.testing.assert_array_equal(good.numpy(), 1)
    assert isinstance(own.keep(tensor), SpooledTensor)  # there is space again


@pytest.mark.parametrize("size", [7, 9])
def test_a_wrong_number_of_bytes_is_refused(size, folder) -> None:
    with pytest.raises(ValueError, match="8 bytes of 'w'"):
        Spool().put(ir.tensor(np.zeros(8, np.uint8), name="w"), [np.zeros(size, np.uint8)])


CHILD = """
import sys, time
import numpy as np, onnx_ir as ir
from onnxslim_rx.ir import Spool
own = Spool()
kept = own.keep(ir.tensor(np.ones(1 << 20, np.float32)))
print(kept.path, flush=True)
if sys.argv[1] == "raise":
    raise RuntimeError
if sys.argv[1] == "wait":
    time.sleep(60)
"""


def child(folder: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_nothing_is_left_after_an_exception(tmp_path) -> None:
    with child(tmp_path, "raise") as process:
        assert process.communicate()[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks to tell who is killed")
def test_what_a_killed_process_left_is_deleted_by_the_next(folder) -> None:
    with child(folder, "wait") as living, child(folder, "wait") as process:
        used, left = (Path(first_line(one)).parent for one in (living, process))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left.is_dir()
        Spool().keep(ir.tensor(np.ones(9)))
        assert left.is_dir()  # it might be in the making
        old = time.time() - 1000
        for path in (left, used):
            os.utime(path, (old, old))
        Spool().keep(ir.tensor(np.ones(9)))
        assert not left.exists()
        assert used.is_dir()  # its process lives
        living.kill()


def test_a_large_model_is_mapped_when_it_is_loaded(all_large, tmp_path, rng) -> None:
    weight = rng.standard_normal((20, 30)).astype(np.float32)
    model = matmul(weight)
    (tmp_path / "m.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    for source in (tmp_path / "m.onnx", ir.to_proto(model), model):
        loaded = load(source)
        tensor = loaded.graph.initializers["w0"].const_value
        assert isinstance(tensor, SpooledTensor)
        np.testing.assert_array_equal(tensor.numpy(), weight)
        assert SPOOL in loaded.meta
    assert not isinstance(model.graph.initializers["w0"].const_value, SpooledTensor)


def test_a_small_model_is_not(tmp_path, rng) -> None:
    loaded = load(matmul(np.ones((512, 1024), np.float32)))
    assert SPOOL not in loaded.meta
    assert not isinstance(loaded.graph.initializers["w0"].const_value, SpooledTensor)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=3))
@example(sizes=[1024, 1025])  # what is left inside, and what is not
@example(sizes=[16_384 - 20, 16_384])  # lengths of two bytes and three
def test_size_and_hash_are_those_of_a_small_model(sizes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        weights = [np.ones((size, 1), np.int8) for size in sizes]
        small = load(matmul(*weights))
        content = serialize(small)
        wanted = digest(small)
        patch.setattr(spool, "LARGE_BYTES", 1)
        patch.setattr(spool, "SPOOLED_BYTES", 1)
        large = load(matmul(*weights))
        assert isinstance(large.graph.initializers["w0"].const_value, SpooledTensor)
        assert size_bytes(large) == len(content)
        assert digest(large) == wanted
        assert serialize(large) == content


def test_a_hash_is_made_of_the_bytes(all_large, rng) -> None:
    model = load(matmul(rng.standard_normal((20, 30)).astype(np.float32)))
    before = digest(model)
    other = load(matmul(rng.standard_normal((20, 30)).astype(np.float32)))
    assert digest(other) != before


@pytest.mark.parametrize("external", [False, True])
def test_saving_is_as_of_a_small_model(external, folder, monkeypatch, rng) -> None:
    weights = rng.standard_normal((50, 60)).astype(np.float32), np.ones((60, 20), np.float32)
    save(load(matmul(*weights)), folder / "small.onnx", external=external)
    monkeypatch.setattr(spool, "LARGE_BYTES", 1)
    large = load(matmul(*weights))
    save(large, folder / "large.onnx", external=external)
    names = ["small.onnx", "small.onnx.data"][: 1 + external]
    for name in names:
        found = (folder / name.replace("small", "large")).read_bytes()
        wanted = (folder / name).read_bytes().replace(b"small", b"large")
        assert hashlib.sha256(found).digest() == hashlib.sha256(wanted).digest()


def test_a_model_that_came_with_external_data_leaves_with_it(all_large, rng) -> None:
    weight = rng.standard_normal((50, 60)).astype(np.float32)
    save(matmul(weight), all_large / "m.onnx", external=True)
    model = load(all_large / "m.onnx")
    new = model.meta[SPOOL].keep(ir.tensor(weight, name="w0"))
    model.graph.initializers["w0"].const_value = new  # all that was in the file is replaced
    save(model, all_large / "model.onnx")
    assert (all_large / "model.onnx.data").stat().st_size == weight.nbytes
    assert size_bytes(model) == weight.nbytes + (all_large / "model.onnx").stat().st_size
