"""Bad input at the command line: one line, exit code 2, nothing written, inputs untouched."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxslim_rx.cli import main

VERBS = {
    "optimize": ["optimize", "IN", "-o", "out.onnx", "--report", "r.html", "--json", "r.json"],
    "simplify": ["simplify", "IN", "-o", "out.onnx"],
    "plan": ["plan", "IN"],
    "inspect": ["inspect", "IN"],
    "compare": ["compare", "digits.onnx", "IN"],
    "bench": ["bench", "IN", "digits.onnx"],
}


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the small model `digits.onnx` and samples `data.npz` for it."""
    shutil.copy(root / "models" / "digits.onnx", tmp_path)
    shutil.copy(root / "models" / "digits_calibration.npz", tmp_path / "data.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[str, str]:
    """Hash by path of every file below a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def assert_refused(words: list[str], capsys, folder: Path, message: str) -> None:
    before = snapshot(folder)
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert message in err
    assert snapshot(folder) == before


def digits(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    proto = onnx.load(folder / "digits.onnx")
    change(proto)
    onnx.save(proto, folder / "bad.onnx")


def flipped(folder: Path) -> None:
    content = bytearray((folder / "digits.onnx").read_bytes())
    content[content.index(b"Conv")] ^= 0x20
    (folder / "bad.onnx").write_bytes(content)


def external(location: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        model = onnx.load(folder / "digits.onnx")
        onnx.save(model, folder / "bad.onnx", save_as_external_data=True, location="w.bin")
        bad = onnx.load(folder / "bad.onnx", load_external_data=False)
        (folder.parent / "outside.bin").write_bytes((folder / "w.bin").read_bytes())
        (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
        for tensor in bad.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        onnx.save(bad, folder / "bad.onnx")

    return make


def absurd(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    tensor.dims[0] = 1 << 40


def cyclic(folder: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y)'
    proto = parser.parse_model(text + " { y = Add(x, z) z = Relu(y) }")
    onnx.save(proto, folder / "bad.onnx")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: None, "there is no file"),
    "a folder": (lambda folder: (folder / "bad.onnx").mkdir(), "is not a file"),
    "truncated": (
        lambda folder: (folder / "bad.onnx").write_bytes(
            (folder / "digits.onnx").read_bytes()[:5000]
        ),
        "cannot be parsed",
    ),
    "flipped": (flipped, "the operator is unknown"),
    "text": (lambda folder: (folder / "bad.onnx").write_text("text\n" * 99), "cannot be parsed"),
    "data missing": (external("gone.bin"), "is missing"),
    "data absolute": (external("/etc/hostname"), "a file in the folder of the model"),
    "data outside": (external("../outside.bin"), "a file in the folder of the model"),
    "data linked": (external("link.bin"), "is a link that leads to"),
    "absurd": (lambda folder: digits(folder, absurd), "shape 1099511627776x"),
    "unknown operator": (
        lambda folder: digits(folder, lambda model: setattr(model.graph.node[0], "op_type", "No")),
        "(No): the operator is unknown",
    ),
    "opset too new": (
        lambda folder: digits(folder, lambda model: setattr(model.opset_import[0], "version", 999)),
        "opset 999",
    ),
    "cyclic": (cyclic, "form a cycle"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("verb", ["optimize", "simplify"])
def test_models_that_cannot_be_used(case, verb, folder, capsys):
    make, message = BAD[case]
    make(folder)
    words = [word.replace("IN", "bad.onnx") for word in VERBS[verb]]
    assert_refused(words, capsys, folder, message)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_bad_model_alike(verb, folder, capsys):
    flipped(folder)
    words = [word.replace("IN", "bad.onnx") for word in VERBS[verb]]
    assert_refused(words, capsys, folder, "the operator is unknown")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("digits.onnx", "digits.onnx"),
        ("./digits.onnx", "digits.onnx"),
        ("link.onnx", "link.onnx"),
        ("missing/out.onnx", "missing"),
        (".", "."),
        ("data.npz/out.onnx", "data.npz"),
    ],
)
def test_outputs_that_cannot_be_written(output, message, folder, capsys):
    (folder / "link.onnx").symlink_to("digits.onnx")
    assert_refused(["simplify", "digits.onnx", "-o", output], capsys, folder, message)


@pytest.mark.parametrize("case", ["name", "shape", "type", "NaN", "no data", "no archive"])
def test_calibration_data_that_cannot_be_used(case, folder, capsys):
    with np.load(folder / "data.npz") as archive:
        image = archive["image"]
    if case == "name":
        np.savez(folder / "bad.npz", picture=image)
    elif case == "shape":
        np.savez(folder / "bad.npz", image=image[..., :-1])
    elif case == "type":
        np.savez(folder / "bad.npz", image=image.astype(str))
    elif case == "NaN":
        np.savez(folder / "bad.npz", image=np.where(image > 8, np.float32("nan"), image))
    elif case == "no archive":
        (folder / "bad.npz").write_text("no archive")
    words = ["optimize", "digits.onnx", "-o", "out.onnx", "--calibration", "bad.npz"]
    assert_refused(words, capsys, folder, "")


def test_a_metric_that_raises(folder, capsys):
    (folder / "metric.py").write_text("def metric(run, data):\n    return 1 / 0\n")
    words = ["optimize", "digits.onnx", "-o", "out.onnx", "--calibration", "data.npz"]
    words += ["--metric", "metric.py:metric", "--max-drop", "0.01"]
    assert_refused(words, capsys, folder, "metric")


def start(folder: Path, root: Path, words: list[str], **options) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(root), str(root / "passes")])
    return subprocess.Popen(
        [sys.executable, "-m", "onnxslim_rx", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_full_disk(folder, root):
    before = snapshot(folder)
    with start(
        folder,
        root,
        ["simplify", "digits.onnx", "-o", "out.onnx"],
        # stands for a full disk: no file of this process can grow above that
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    ) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, ""), err
    assert err.count("\n") == 1
    assert "cannot write out.onnx: File too large" in err
    assert snapshot(folder) == before


@pytest.mark.parametrize("seconds", [0.5, 2.5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interruption_leaves_nothing_behind(number, seconds, folder, root):
    before = snapshot(folder)
    words = ["optimize", "digits.onnx", "-o", "out.onnx", "--calibration", "data.npz"]
    with start(folder, root, words) as process:
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    if process.returncode == 0 or "wrote out.onnx" in out:
        pytest.skip("it was done before it could be interrupted")
    assert out == ""
    if number == signal.SIGINT:
        assert err == "onnxslim-rx: interrupted\n"
        # Python ends itself by the signal where it came while a library evaluated code; shells
        # show 130 for both
        assert process.returncode in (130, -signal.SIGINT)
    else:
        assert (process.returncode, err) == (-signal.SIGKILL, "")
    assert snapshot(folder) == before
