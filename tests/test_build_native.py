"""tools/build_native.py: builds what changed, where it can, and says what it lacks."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def native(root):
    place = root / "tools" / "build_native.py"
    spec = importlib.util.spec_from_file_location("build_native", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(native, tmp_path, monkeypatch):
    """A small checkout whose builds are counted."""
    for name in ("CMakeLists.txt", "pyproject.toml", "kernels/src/a.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    builds: list[str] = []

    def build(root):
        builds.append("built")
        for folder in (root / native.PLACE, root / native.BUILD):
            folder.mkdir(parents=True, exist_ok=True)
        (root / native.PLACE / "libonnxslim_rx.so").write_bytes(b"")
        return 0

    monkeypatch.setattr(native, "ROOT", tmp_path)
    monkeypatch.setattr(native, "build", build)
    monkeypatch.setattr(native, "compiler", lambda: "/usr/bin/c++")
    return tmp_path, builds


def test_second_build_happens_where_something_changed(native, checkout):
    place, builds = checkout
    for _ in range(2):
        assert native.main([]) == 0
    assert len(builds) == 1
    (place / "kernels" / "src" / "a.cpp").write_text("changed", encoding="utf-8")
    assert native.main([]) == 0
    assert len(builds) == 2
    shutil.rmtree(place / native.PLACE)  # whatever the stamp says
    assert native.main([]) == 0
    assert len(builds) == 3
    assert native.main(["--force"]) == 0
    assert len(builds) == 4


def test_failed_build_is_not_remembered(native, checkout, monkeypatch):
    monkeypatch.setattr(native, "build", lambda root: 7)
    assert native.main([]) == 7
    assert native.main([]) == 7


def test_without_a_compiler_it_says_so_and_goes_on(native, checkout, monkeypatch, capsys):
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert native.main([]) == 0
    assert "no C++ compiler was found" in capsys.readouterr().out
    assert checkout[1] == []


def test_library_in_use_is_replaced_as_a_folder(native, tmp_path):
    new, place, away = tmp_path / "new", tmp_path / "place", tmp_path / "away"
    for folder, text in ((new, "2"), (place, "1")):
        folder.mkdir()
        (folder / "file").write_text(text, encoding="utf-8")
    with (place / "file").open(encoding="utf-8") as held:
        native.swap(new, place, away)
        assert held.read() == "1"
    assert (place / "file").read_text(encoding="utf-8") == "2"
    assert not away.exists()


def test_configuring_without_a_compiler_succeeds_and_warns(root, tmp_path):
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake or ninja is missing")
    command = ["cmake", "-S", root, "-B", tmp_path / "build", "-G", "Ninja"]
    done = subprocess.run(
        [*command, "-DCMAKE_CXX_COMPILER=NOTFOUND"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "NO C++ COMPILER WAS FOUND" in done.stderr
    stage = tmp_path / "stage"
    subprocess.run(["cmake", "--install", tmp_path / "build", "--prefix", stage], check=True)
    assert [path.name for path in stage.rglob("*") if path.is_file()] == ["README.md"]


def test_script_runs_by_itself(root):
    command = [sys.executable, root / "tools" / "build_native.py", "--help"]
    assert (
        "onnxslim_rx/_lib"
        in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
