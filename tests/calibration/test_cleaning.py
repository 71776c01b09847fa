"""The cache: what strangers put there, what is too much, and others who use it, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import cache, files, journal
from onnxslim_rx.errors import InputError


@pytest.fixture
def measure(rng, chain, layers_of):
    """Statistics of the network with a number, in a cache."""
    models = [chain(np.random.default_rng(number), 2, 16) for number in range(6)]
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(2)]

    def make(number, folder, **options):
        model = models[number]
        return calibration.collect(model, layers_of(model), data, cache=folder, **options)

    return make


def entries(folder):
    return {path.name for path in folder.iterdir()}


def put(folder, index):
    files.write_checked(folder / "index", index)


HARM = {
    "text": lambda folder, index: (folder / "index").write_text("no number"),
    "bytes": lambda folder, index: (folder / "index").write_bytes(b"\xff\xfe 1"),
    "long number": lambda folder, index: (folder / "index").write_text("9" * 10_000 + " {}"),
    "deep": lambda folder, index: (folder / "index").write_text(
        f"{zlib.crc32(b'[' * 200_000)} {'[' * 200_000}"
    ),
    "list": lambda folder, index: put(folder, []),
    "no layers": lambda folder, index: put(folder, {"reasons": {}, "readings": {}}),
    "unknown reading": lambda folder, index: put(folder, index | {"layers": {"w0:m0": "7"}}),
    "other folder": lambda folder, index: put(
        folder,
        index | {"layers": {"w0:m0": "../0"}, "readings": {"../0": index["readings"]["0"]}},
    ),
    "other array": lambda folder, index: put(
        folder,
        index
        | {"readings": {key: one | {"checksums": {"x": 1}} for key, one in readings_of(index)}},
    ),
    "odd rows": lambda folder, index: put(
        folder,
        index | {"readings": {key: one | {"rows": "many"} for key, one in readings_of(index)}},
    ),
    "other matrix": lambda folder, index: np.save(folder / "0.gram.npy", np.ones((16, 16))),
    "pickle": lambda folder, index: replaced(
        folder, index, lambda path: np.save(path, np.array([{}]), allow_pickle=True)
    ),
    "vector": lambda folder, index: replaced(
        folder, index, lambda path: np.save(path, np.ones(16))
    ),
    "not an array": lambda folder, index: replaced(
        folder, index, lambda path: path.write_bytes(b"")
    ),
}


def readings_of(index):
    return index["readings"].items()


def replaced(folder, index, write):
    """Another Gram matrix whose checksum is right."""
    path = folder / "0.gram.npy"
    path.unlink()
    write(path)
    index["readings"]["0"]["checksums"]["gram"] = files.checksum_of(path)
    put(folder, index)


@pytest.mark.parametrize("harm", HARM)
def test_hostile_entries_are_measured_again(tmp_path, measure, harm):
    expected = measure(0, None)
    measure(0, tmp_path)
    (folder,) = tmp_path.iterdir()
    index = json.loads((folder / "index").read_text().partition(" ")[2])
    HARM[harm](folder, index)
    found = measure(0, tmp_path)
    for name in expected:
        np.testing.assert_array_equal(found[name].gram, expected[name].gram)
    assert entries(tmp_path) == {folder.name}


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_something_else_of_the_same_name_is_replaced(tmp_path, measure, kind):
    folder = tmp_path / "cache"
    measure(0, folder)
    (entry,) = folder.iterdir()
    files.remove(entry)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    if kind == "file":
        entry.write_text("a file")
    else:
        entry.symlink_to(precious if kind == "link" else tmp_path / "nowhere")
    assert len(measure(0, folder)) == 2
    assert entry.is_dir()
    assert not entry.is_symlink()
    assert (precious / "file").read_text() == "mine"


def test_what_was_used_longest_ago_is_deleted(tmp_path, measure):
    names: list[str] = []
    for number in range(4):
        measure(number, tmp_path)
        (new,) = entries(tmp_path) - set(names)
        names.append(new)
        for path in (tmp_path / new).iterdir():
            os.utime(path, (1000 + number, 1000 + number))
    (tmp_path / "costs.json").write_text("of somebody else")
    size = sum(path.stat().st_size for path in (tmp_path / names[0]).iterdir())
    measure(0, tmp_path)  # is used again, and so the youngest
    measure(4, tmp_path, cache_bytes=3 * size + 500)
    (new,) = entries(tmp_path) - {*names, "costs.json"}
    assert entries(tmp_path) == {names[0], names[3], new, "costs.json"}


def test_the_newest_stays_whatever_its_size(tmp_path, measure):
    measure(0, tmp_path)
    assert measure(1, tmp_path, cache_bytes=1)["w0:m0"].gram is not None
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_what_is_in_use_stays(tmp_path, measure):
    used = measure(0, tmp_path)
    (name,) = entries(tmp_path)
    measure(1, tmp_path, cache_bytes=1)
    assert name in entries(tmp_path)
    assert used["w0:m0"].gram.shape == (16, 16)
    del used
    measure(2, tmp_path, cache_bytes=1)
    assert name not in entries(tmp_path)


def test_what_a_killed_process_left_counts_and_goes(tmp_path, measure):
    left = tmp_path / "statistics-0123.partial"
    left.mkdir()
    (left / "0.frontier").write_bytes(bytes(100_000))
    os.utime(left / "0.frontier", (1000, 1000))
    measure(0, tmp_path, cache_bytes=50_000)
    assert left.name not in entries(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_one_waits_for_the_other(tmp_path, measure, monkeypatch):
    """Both want the same; it is measured once."""
    measured = []
    inside = threading.Event()
    go_on = threading.Event()
    finish = journal.Journal.finish

    def slowly(self, *args):
        measured.append(1)
        inside.set()
        assert go_on.wait(20)
        finish(self, *args)

    monkeypatch.setattr(journal.Journal, "finish", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(measure(0, tmp_path))) for _ in "ab"]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    # meanwhile a third cleans up: what is being measured stays
    cache.clean(tmp_path, 0)
    assert any(name.endswith(".partial") for name in entries(tmp_path))
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert len(measured) == 1
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_lock_ends_with_its_process(tmp_path):
    script = (
        "import sys; from pathlib import Path; from onnxslim_rx.calibration.files import alone\n"
        "with alone(Path(sys.argv[1])): print('inside', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert files.is_held(path)
        process.kill()
        process.wait()
    assert path.exists()
    with files.alone(path):
        assert files.is_held(path)
    assert not path.exists()
    assert not files.is_held(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_who_waited_holds_a_lock_that_others_see(tmp_path):
    """The first deletes the file that the second waits for; a third would make a new one."""
    path = tmp_path / "lock"
    inside, go_on, leave = (threading.Event() for _ in range(3))

    def wait():
        go_on.set()
        with files.alone(path):
            inside.set()
            assert leave.wait(20)

    thread = threading.Thread(target=wait)
    with files.alone(path):
        thread.start()
        assert go_on.wait(20)
        assert not inside.wait(0.05)
    assert inside.wait(20)
    try:
        assert files.is_held(path)
    finally:
        leave.set()
        thread.join(20)
    assert not path.exists()


def test_a_cache_that_cannot_be_written_says_so(tmp_path, measure):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep calibration statistics in"):
        measure(0, tmp_path / "file")
