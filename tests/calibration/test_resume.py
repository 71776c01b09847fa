"""A measurement that was killed goes on from its last finished block."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import threading

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import blocks, files
from onnxslim_rx.calibration.journal import Journal
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer

FIELDS = ("gram", "sample", "mean", "mean_abs", "low", "high")
WIDTH, DEPTH = 24, 6
STEPS = 2 * DEPTH - 1  # with so little memory each node is a block of its own


@pytest.fixture
def model(rng, chain):
    return chain(rng, DEPTH, WIDTH)


@pytest.fixture
def data(rng):
    return [{"x": rng.standard_normal((40, WIDTH)).astype(np.float32)} for _ in range(5)]


class KilledError(BaseException):
    """Ends a run as a signal would; nothing catches it."""


@pytest.fixture
def steps(monkeypatch):
    """Notes the steps that run; the run dies in the one with the number `at`."""

    class Steps(list[list[str]]):
        at: int | None = None

    noted = Steps()
    run = blocks.run_step

    def noting(model, step, data, observers, spool, advance):
        if noted.at == len(noted):
            raise KilledError
        noted.append([reading.value.name for reading in step.measures])
        run(model, step, data, observers, spool, advance)

    module = importlib.import_module("onnxslim_rx.calibration.collect")
    monkeypatch.setattr(module, "run_step", noting)
    return noted


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        one, other = found[name], expected[name]
        assert (one.rows, one.shape) == (other.rows, other.shape)
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def measured(model, layers, data, folder, memory_bytes=1):
    return calibration.collect(model, layers, data, memory_bytes=memory_bytes, cache=folder)


@pytest.mark.parametrize("at", [0, 1, 2, 5, 10, 11])
def test_only_what_was_not_finished_runs_again(tmp_path, steps, model, layers_of, data, at):
    layers = layers_of(model)
    expected = calibration.collect(model, layers, data, memory_bytes=1)
    every = list(steps)
    assert len(every) == STEPS
    steps.clear()
    steps.at = at
    if at < len(every):
        with pytest.raises(KilledError):
            measured(model, layers, data, tmp_path)
        (folder,) = tmp_path.iterdir()
        assert folder.name.endswith(".partial")
    steps.at = None
    found = measured(model, layers, data, tmp_path)
    assert steps == every
    assert_same(found, expected)
    (folder,) = tmp_path.iterdir()
    assert not [p for p in folder.iterdir() if p.suffix not in (".npy", "")]
    assert not (folder / "journal").exists()


@pytest.mark.parametrize("harm", ["cut", "flip", "delete", "journal", "link", "folder", "file"])
def test_what_was_damaged_meanwhile_is_measured_again(
    tmp_path, rng, steps, model, layers_of, data, harm
):
    layers = layers_of(model)
    expected = calibration.collect(model, layers, data, memory_bytes=1)
    steps.clear()
    steps.at = 5
    with pytest.raises(KilledError):
        measured(model, layers, data, tmp_path)
    (folder,) = tmp_path.iterdir()
    victim = next(folder.glob("*.frontier")) if rng.random() < 0.5 else folder / "1.gram.npy"
    content = victim.read_bytes()
    secret = tmp_path / "secret"
    secret.write_text("precious")
    if harm == "cut":
        victim.write_bytes(content[:-9])
    elif harm == "flip":
        place = int(rng.integers(len(content)))
        victim.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    elif harm == "delete":
        victim.unlink()
    elif harm == "journal":
        text = json.loads((folder / "journal").read_text().partition(" ")[2])
        text["frontiers"] = {"../secret": "../secret"}
        files.write_checked(folder / "journal", text)
    elif harm == "link":
        (folder / "more").symlink_to(tmp_path)
        victim.unlink()
    elif harm == "folder":
        victim.unlink()
        victim.mkdir()
    else:
        files.remove(folder)
        folder.write_text("a file")
    steps.clear()
    steps.at = None
    found = measured(model, layers, data, tmp_path)
    assert len(steps) == STEPS
    assert secret.read_text() == "precious"
    assert_same(found, expected)


def test_other_data_or_memory_does_not_go_on_with_it(tmp_path, steps, model, layers_of, data):
    layers = layers_of(model)
    steps.at = 5
    with pytest.raises(KilledError):
        measured(model, layers, data, tmp_path)
    steps.clear()
    steps.at = None
    measured(model, layers, data[:4], tmp_path)
    assert len(steps) == STEPS
    steps.clear()
    measured(model, layers, data, tmp_path, memory_bytes=1 << 24)
    assert len(steps) == 1


def test_steps_of_another_plan_do_not_count(tmp_path):
    """Another version of this package may cut the graph elsewhere."""
    first = Journal(tmp_path, durable=True)
    first.begin("one plan")
    first.finished({}, {}, [])
    assert Journal(tmp_path, durable=True).done == 1
    second = Journal(tmp_path, durable=True)
    second.begin("one plan")
    assert second.done == 1
    second.begin("another plan")
    assert second.done == 0
    assert Journal(tmp_path, durable=True).done == 0


def test_what_cannot_succeed_leaves_nothing(tmp_path, model, layers_of, data):
    data[3]["x"][:] = np.nan
    with pytest.raises(InputError, match="NaN"):
        measured(model, layers_of(model), data, tmp_path)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
import onnx_ir as ir
from onnxslim_rx import calibration
from onnxslim_rx.calibration import blocks
from onnxslim_rx.passbase import Layer

model = ir.load(sys.argv[1])
data = [{"x": x} for x in np.load(sys.argv[2])]
nodes = [node for node in model.graph if node.op_type == "MatMul"]
layers = [Layer(node.outputs[0].name, "MatMul", "linear", node, 1, 0) for node in nodes]
run = blocks.run_step

def slowly(model, step, data, observers, spool, advance):
    def slow(count):
        time.sleep(0.004)
    run(model, step, data, observers, spool, slow)
    print("step", flush=True)

sys.modules["onnxslim_rx.calibration.collect"].run_step = slowly
print("ready", flush=True)
calibration.collect(model, layers, data, memory_bytes=1, cache=Path(sys.argv[3]))
print("done", flush=True)
"""


def test_killed_by_the_system_again_and_again(tmp_path, rng, model, data):
    ir.save(model, tmp_path / "model.onnx")
    loaded = ir.load(tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", np.stack([sample["x"] for sample in data]))
    nodes = [node for node in loaded.graph if node.op_type == "MatMul"]
    layers = [Layer(f"{node.outputs[0].name}", "MatMul", "linear", node, 1, 0) for node in nodes]
    expected = calibration.collect(loaded, layers, data, memory_bytes=1)
    folder = tmp_path / "cache"
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        *map(str, (tmp_path / "model.onnx", tmp_path / "data.npy", folder)),
    ]
    steps, kills = 0, 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            wait = threading.Timer(
                float(rng.uniform(0.05, 0.15)), process.send_signal, [signal.SIGKILL]
            )
            if kills < 2:
                wait.start()
            lines = process.stdout.read().split()
            wait.cancel()
        steps += lines.count("step")
        if "done" in lines:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 1
    assert steps <= STEPS + kills  # a step may end just before its note is written
    assert_same(measured(loaded, layers, data, folder), expected)
    assert len(list(folder.iterdir())) == 1
