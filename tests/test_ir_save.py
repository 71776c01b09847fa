"""What `ir.save` leaves on the disk: everything or nothing, and never instead of an input."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from onnxslim_rx import ir
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import atomic, serial


def chain(layers: int = 3, width: int = 40, seed: int = 0) -> onnx_ir.Model:
    """MatMuls with weights (width, width); the last two share theirs."""
    rng = np.random.default_rng(seed)
    value = onnx_ir.Value(
        name="x", type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT), shape=onnx_ir.Shape(["N", width])
    )
    graph = onnx_ir.Graph([value], [], nodes=[], opset_imports={"": 17}, name="chain")
    for index in range(layers):
        if index < layers - 1:
            weight = rng.standard_normal((width, width)).astype(np.float32)
            tensor = onnx_ir.tensor(weight, name=f"w{index}")
            shared = onnx_ir.Value(name=f"w{index}", const_value=tensor)
            graph.register_initializer(shared)
        node = onnx_ir.Node("", "MatMul", [value, shared])
        graph.append(node)
        value = node.outputs[0]
    value.name = "y"
    value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    value.shape = onnx_ir.Shape(["N", width])
    graph.outputs.append(value)
    return onnx_ir.Model(graph, ir_version=10)


def snapshot(folder: Path) -> dict[str, str]:
    """Hash by name of every file in a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("external", [False, True])
def test_a_saved_model_is_the_same_model_with_the_same_bytes_each_time(external, tmp_path):
    model = chain()
    paths = [tmp_path / str(index) / "m.onnx" for index in range(3)]
    for path in paths:
        path.parent.mkdir()
    ir.save(model, paths[0], external=external)
    ir.save(chain(), paths[1], external=external)
    ir.save(ir.load(paths[0]), paths[2], external=external)

    assert snapshot(paths[0].parent) == snapshot(paths[1].parent) == snapshot(paths[2].parent)
    names = {"m.onnx", "m.onnx.data"} if external else {"m.onnx"}
    assert set(snapshot(paths[0].parent)) == names
    assert ir.digest(ir.load(paths[0])) == ir.digest(model)
    onnx.checker.check_model(paths[0], full_check=True)
    size = sum(file.stat().st_size for file in paths[0].parent.iterdir())
    # the name of the data file counts with each tensor that refers to it
    assert abs(ir.size_bytes(ir.load(paths[0])) - size) <= (8 * 2 if external else 0)


def test_shared_weights_are_stored_once(tmp_path):
    model = chain(layers=5)
    twin = model.graph.initializers["w0"]
    model.graph.register_initializer(onnx_ir.Value(name="twin", const_value=twin.const_value))
    ir.save(model, tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 4 * 40 * 40 * 4


def test_external_data_is_chosen_where_one_file_cannot_hold_the_model(tmp_path, monkeypatch):
    small, big = chain(2), chain(12)
    monkeypatch.setattr(serial, "PROTOBUF_LIMIT", 30_000)
    ir.save(small, tmp_path / "small.onnx")
    ir.save(big, tmp_path / "big.onnx")
    with pytest.raises(InputError, match="use a path"):
        ir.save(big, tmp_path / "one.onnx", external=False)

    assert set(snapshot(tmp_path)) == {"small.onnx", "big.onnx", "big.onnx.data"}
    assert ir.digest(ir.load(tmp_path / "big.onnx")) == ir.digest(big)


def test_a_model_that_came_with_external_data_keeps_it(tmp_path):
    ir.save(chain(), tmp_path / "a.onnx", external=True)
    ir.save(ir.load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").is_file()
    ir.save(ir.load(tmp_path / "a.onnx"), tmp_path / "c.onnx", external=False)
    assert not (tmp_path / "c.onnx.data").exists()
    assert ir.digest(ir.load(tmp_path / "c.onnx")) == ir.digest(chain())


def test_an_old_output_is_replaced(tmp_path):
    for external in (True, True, False):
        for seed in (0, 1):
            model = chain(seed=seed)
            ir.save(model, tmp_path / "m.onnx", external=external)
            assert ir.digest(ir.load(tmp_path / "m.onnx")) == ir.digest(model)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("via", ["path", "relative", "symlink", "hard link", "folder link"])
def test_the_input_is_never_written_over(via, external, tmp_path, monkeypatch):
    source = tmp_path / "in" / "m.onnx"
    source.parent.mkdir()
    ir.save(chain(), source, external=external)
    model = ir.load(source)
    target = tmp_path / "out.onnx"
    if via == "path":
        target = source
    elif via == "relative":
        monkeypatch.chdir(tmp_path)
        target = Path("in", "..", "in", "m.onnx")
    elif via == "symlink":
        target.symlink_to(source)
    elif via == "hard link":
        target.hardlink_to(source)
    else:
        (tmp_path / "link").symlink_to(source.parent)
        target = tmp_path / "link" / "m.onnx"
    before = snapshot(source.parent)

    for changed in (model, ir.clone(model), ir.load(model)):
        for name in list(changed.graph.initializers):  # nothing external is left
            changed.graph.initializers[name].const_value = onnx_ir.tensor(np.ones((40, 40)))
        with pytest.raises(InputError, match=r"would replace the input file .*never touched"):
            ir.save(changed, target)

    assert snapshot(source.parent) == before


def test_external_data_of_the_input_is_never_written_over(tmp_path):
    ir.save(chain(), tmp_path / "m.onnx", external=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    onnx.save(proto, tmp_path / "in.onnx")
    (tmp_path / "m.onnx").unlink()
    before = snapshot(tmp_path)

    # m.onnx would bring m.onnx.data, which in.onnx reads
    for model in (ir.load(tmp_path / "in.onnx"), onnx_ir.load(tmp_path / "in.onnx")):
        for target in ("m.onnx", "m.onnx.data"):
            with pytest.raises(InputError, match="would replace the input file"):
                ir.save(model, tmp_path / target)
    assert snapshot(tmp_path) == before


def test_protected_files_are_never_written_over(tmp_path):
    (tmp_path / "plan.toml").write_text("seed = 0")
    with pytest.raises(InputError, match=r"would replace the input file .*plan\.toml"):
        ir.save(chain(), tmp_path / "plan.toml", protect=[tmp_path / "plan.toml"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/m.onnx", "missing is not a folder; create it first"),
        ("file/m.onnx", "file is not a folder"),
        (".", "is not a file; choose another name"),
        ("fifo", "is not a file; choose another name"),
        ("x" * 300, "File name too long"),
        ("nul\0.onnx", "not the name of a file"),
    ],
)
def test_paths_that_cannot_be_written(target, message, tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=message) as caught:
        ir.save(chain(), tmp_path / target)
    assert "\n" not in str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "fifo"}


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(Path, "open", refuse(errno.EACCES))
    folder.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied; choose a folder"):
        ir.save(chain(), folder / "m.onnx")
    assert not list(folder.iterdir())


def refuse(code: int):
    def call(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_what_was_there(external, existing, tmp_path):
    path = tmp_path / "m.onnx"
    if existing:
        ir.save(chain(), path, external=external)
    before = snapshot(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*m\.onnx: File too large"):
            ir.save(chain(seed=1), path, external=external)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("call", range(4))
def test_no_failure_leaves_anything_partial(failure, external, call, tmp_path, monkeypatch):
    """Fail in each call that puts something on the disk, the last ones after it got its name."""
    calls = iter(range(100))
    path = tmp_path / "m.onnx"

    def failing(function):
        def wrapper(*args):
            if next(calls) == call:
                raise failure
            return function(*args)

        return wrapper

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    expected = InputError if isinstance(failure, OSError) else failure
    model = chain()
    try:
        ir.save(model, path, external=external)
    except expected:
        # one file: 1 write, 1 renaming, then the folder; two files: 2 of each
        if call < (4 if external else 2):
            assert not list(tmp_path.iterdir())
            return
    assert ir.digest(ir.load(path)) == ir.digest(model)
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(atomic.PARTIAL)]


@pytest.mark.parametrize("external", [False, True])
def test_whenever_the_process_dies_there_is_a_whole_model_or_none(external, tmp_path, monkeypatch):
    """Look at the disk before and after each renaming, as a process does that comes later."""
    path = tmp_path / "m.onnx"
    old, new = chain(seed=0), chain(seed=1)
    ir.save(old, path, external=external)
    wanted = {ir.digest(old), ir.digest(new)}
    replace = Path.replace
    seen = []

    def look():
        seen.append(ir.digest(ir.load(path)) if path.exists() else None)

    def watched(self, target):
        look()
        replace(self, target)
        look()

    monkeypatch.setattr(Path, "replace", watched)
    ir.save(new, path, external=external)
    assert set(seen) <= wanted | {None}
    assert seen[-1] == ir.digest(new)
    assert external or None not in seen


KILLED = """
import sys
import numpy as np
import onnx_ir
from onnxslim_rx import ir

path, external = sys.argv[1], sys.argv[2] == "True"
models = []
for number in (0.0, 1.0):
    model = ir.load(path)
    for value in model.graph.initializers.values():
        value.const_value = onnx_ir.tensor(np.full((400, 400), number, np.float32))
    model.meta.clear()
    models.append(model)
print("ready", flush=True)
while True:
    for model in models:
        ir.save(model, path, external=external)
"""


@pytest.mark.parametrize("external", [False, True])
def test_a_killed_process_leaves_a_whole_model_or_none(external, root, tmp_path):
    path = tmp_path / "m.onnx"
    ir.save(chain(width=400), path, external=external)
    env = {**os.environ, "PYTHONPATH": str(root)}
    for delay in (0.001, 0.01, 0.02, 0.03):
        command = [sys.executable, "-c", KILLED, str(path), str(external)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        if not path.exists():  # possible with external data, between its name and the model's
            assert external
            ir.save(chain(width=400), path, external=True)
        values = [value.const_value for value in ir.load(path).graph.initializers.values()]
        numbers = [np.unique(tensor.numpy()) for tensor in values if tensor is not None]
        whole = len(np.unique(np.concatenate(numbers))) == 1
        assert whole or all(len(found) > 1000 for found in numbers)  # the model from before
        for file in tmp_path.iterdir():
            if file.name not in ("m.onnx", "m.onnx.data"):
                assert file.name.endswith(atomic.PARTIAL)
                file.unlink()


def test_text_is_written_whole(tmp_path):
    ir.write_text(tmp_path / "a.txt", "größer\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\n".encode()
    with pytest.raises(InputError, match="is not a folder"):
        ir.write_text(tmp_path / "b" / "a.txt", "")
