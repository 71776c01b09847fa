"""Compiled programs kept on disk: read, and where that fails built again; never an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native import nodes
from tests.native.operators import need

DEVICE = "opencl"
NODE = nodes.chain  # two programs
ALONE = """
import sys
import numpy as np
from tests.native import nodes

node = nodes.chain(np.random.default_rng(int(sys.argv[2])))
opened = nodes.session(node, "opencl", cache=sys.argv[1])
sys.stdin.readline()
for _ in range(2):
    node.check(nodes.run(opened, node.given), node.given)
print("right")
"""


@pytest.fixture
def node(rng) -> nodes.Node:
    need(DEVICE)
    return NODE(rng)


class Folder:
    """A folder of programs that each use sees under a new name, as a new process would."""

    def __init__(self, place: Path, node: nodes.Node, said: Callable[[], str]) -> None:
        self.path = place / "programs"
        self._place, self._node, self._said = place, node, said
        self._uses = 0

    def use(self) -> str:
        """Run a session that keeps programs here; what the library said meanwhile."""
        self._uses += 1
        name = self._place / f"use{self._uses}"
        name.symlink_to(self.path)
        self._said()
        opened = nodes.session(self._node, DEVICE, cache=name)
        self._node.check(nodes.run(opened, self._node.given), self._node.given)
        return self._said()

    def entries(self) -> dict[Path, int]:
        """Programs, and the inode of each: one that is written anew has another."""
        return {one: one.stat().st_ino for one in sorted(self.path.iterdir())}


@pytest.fixture
def folder(node, tmp_path, monkeypatch, capfd) -> Folder:
    monkeypatch.setenv("ONNXSLIM_RX_LOG", "1")
    found = Folder(tmp_path, node, lambda: capfd.readouterr().err)
    found.path.mkdir()
    return found


def test_programs_are_kept_and_read(folder):
    assert folder.use() == ""
    kept = folder.entries()
    assert len(kept) == 2
    assert all(one.suffix == ".bin" for one in kept)
    assert folder.use() == ""
    assert folder.entries() == kept  # nothing was written again


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:31],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        flipped,
        lambda data: b"RXPROG99" + data[8:],
        lambda data: data[:8] + b"\xff" * 16 + data[24:],
        lambda data: b"\x00" * len(data),
    ],
    ids=["empty", "magic", "header", "half", "short", "long", "bit", "version", "sizes", "zeros"],
)
def test_damaged_programs_are_built_again(folder, spoil):
    folder.use()
    kept = {path: path.read_bytes() for path in folder.entries()}
    for path, data in kept.items():
        path.write_bytes(spoil(data))
    said = folder.use()
    assert said.count("is damaged or of another version: it is built again") == 2
    assert folder.use() == ""
    # PoCL's binaries differ from one build to the next: that they are read again is what counts
    assert set(folder.entries()) == set(kept)


def test_programs_that_cannot_be_read_are_built_each_time(folder):
    """A folder in the place of each: neither read nor replaced, even by root."""
    folder.use()
    for path in folder.entries():
        path.unlink()
        path.mkdir()
    for _ in range(2):
        assert "compiled programs are not kept in" in folder.use()
    assert all(path.is_dir() for path in folder.entries())  # and no temporary file is left


def test_a_program_of_another_kernel_is_not_taken(folder):
    """Two whole programs with each other's names."""
    folder.use()
    one, other = folder.entries()
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert folder.use().count("is damaged or of another version") == 2
    assert folder.use() == ""


def test_a_folder_that_cannot_be_written_is_no_error(node, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ONNXSLIM_RX_LOG", "1")
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "programs", Path("/proc/no/programs"), Path("x" * 5000)):
        opened = nodes.session(node, DEVICE, cache=path)
        node.check(nodes.run(opened, node.given), node.given)
        assert f"compiled programs are not kept in {path}"[:200] in capfd.readouterr().err


def test_no_folder_keeps_nothing(node, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node.check(nodes.run(nodes.session(node, DEVICE, cache=""), node.given), node.given)
    assert not list(tmp_path.iterdir())


def test_processes_fill_a_folder_at_once(node, tmp_path):
    """Two; both are right, and one entry of each program is left, which the next one reads."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    env = {**os.environ, "PYTHONPATH": path, "ONNXSLIM_RX_LOG": "1"}
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "programs")]
    running = [
        subprocess.Popen([*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, env=env)
        for seed in range(2)
    ]  # fmt: skip
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in running:
        out, err = one.communicate(timeout=60)
        assert one.returncode == 0, err
        assert out == "right\n"
        assert err == ""
    assert [one.suffix for one in (tmp_path / "programs").iterdir()] == [".bin"] * 2
    kept = {one: one.stat().st_ino for one in (tmp_path / "programs").iterdir()}
    opened = nodes.session(node, DEVICE, cache=tmp_path / "programs")
    node.check(nodes.run(opened, node.given), node.given)
    assert {one: one.stat().st_ino for one in (tmp_path / "programs").iterdir()} == kept
