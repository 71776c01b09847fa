"""tools/dev.py on machines that lack this or that, without installing anything from a network."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dev(root):
    return load(root / "tools" / "dev.py")


@pytest.fixture
def ready(dev, tmp_path, monkeypatch):
    """An environment that counts as installed, and the list of commands that are run in it."""
    calls: list[tuple[str, ...]] = []
    codes: dict[str, int] = {}

    def call(self, *command):
        calls.append(command)
        return codes.get(command[0], 0)

    monkeypatch.setattr(dev.Environment, "install", lambda *args, **kwargs: None)
    monkeypatch.setattr(dev.Environment, "call", call)
    monkeypatch.setattr(dev, "PYTHON", (3, 12))
    return calls, codes, ["--venv", str(tmp_path / "venv")]


@pytest.mark.parametrize("name", ["dev.py", "build_native.py"])
def test_script_is_readable_for_python_3_8(root, name):
    # an older Python must get as far as the sentence that says what is wrong
    source = (root / "tools" / name).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert {name.partition(".")[0] for name in names if name} <= set(sys.stdlib_module_names)


def test_old_python_gets_one_sentence_with_a_newer_one(dev, monkeypatch):
    monkeypatch.setattr(dev, "quiet", lambda command: command[0] == "python3.12")
    with pytest.raises(dev.SetupError, match=r"Python 3\.9, .* 3\.10 or newer; python3\.12 is on"):
        dev.check_version((3, 9))


def test_old_python_alone_gets_advice(dev, monkeypatch):
    monkeypatch.setattr(dev, "quiet", lambda command: False)
    with pytest.raises(dev.SetupError, match="install a newer one"):
        dev.check_version((3, 8))


def test_folder_that_is_no_environment_is_refused(dev, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    assert dev.main(["--venv", str(tmp_path), "test"]) == 2
    assert "not a virtual environment" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"


def test_missing_model_is_told_before_anything_is_installed(dev, tmp_path, capsys):
    assert dev.main(["--venv", str(tmp_path / "venv"), "demo", str(tmp_path / "no.onnx")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "venv").exists()


def test_without_ensurepip_the_pip_of_the_system_fills_the_environment(dev, tmp_path, monkeypatch):
    bundled = bundled_pip()
    if bundled is None:
        pytest.skip("this Python brings no wheel of pip")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(bundled))
    real, tried = dev.quiet, []

    def quiet(command):
        tried.append(command)
        return len(tried) > 1 and real(command)  # the first is `python -m venv`, with ensurepip

    monkeypatch.setattr(dev, "quiet", quiet)
    place = tmp_path / "venv"
    python = place / "bin" / "python"
    dev.make_venv(place, python)
    assert "--without-pip" in tried[1]
    found = subprocess.run(
        [python, "-m", "pip", "--version"], capture_output=True, text=True, check=True
    )
    assert str(place) in found.stdout


def bundled_pip() -> Path | None:
    """A folder with a wheel of pip: that of ensurepip, or Debian's."""
    spec = importlib.util.find_spec("ensurepip")
    places = [Path("/usr/share/python-wheels")]
    if spec is not None and spec.origin is not None:
        places.insert(0, Path(spec.origin).parent / "_bundled")
    return next((place for place in places if any(place.glob("pip-*.whl"))), None)


def test_without_any_way_one_sentence_says_what_to_install(dev, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(dev, "quiet", lambda command: tried.append(command[:3]))
    with pytest.raises(dev.SetupError, match="apt install python3-venv"):
        dev.make_venv(tmp_path / "venv", tmp_path / "venv" / "bin" / "python")
    assert any("virtualenv" in command for command in tried)
    assert not (tmp_path / "venv").exists()


def test_second_call_installs_only_what_changed(dev, tmp_path, monkeypatch, capsys):
    installs: list[str] = []

    def call(command):
        installs.append(command[-1])
        return 0

    monkeypatch.setattr(dev.Environment, "_works", lambda self: True)
    monkeypatch.setattr(dev.subprocess, "call", call)
    monkeypatch.setattr(dev, "fingerprint", lambda constraints: "first")
    environment = dev.Environment(tmp_path)
    for extras in (["report"], ["report"], ["dev", "report"], ["report"]):
        environment.install(*extras)
    assert [name.rpartition("[")[2] for name in installs] == ["report]", "dev,report]"]
    monkeypatch.setattr(dev, "fingerprint", lambda constraints: "second")
    environment.install("report")
    assert len(installs) == 3


def test_failed_installation_is_not_remembered(dev, tmp_path, monkeypatch):
    monkeypatch.setattr(dev.Environment, "_works", lambda self: True)
    monkeypatch.setattr(dev.subprocess, "call", lambda command: 1)
    environment = dev.Environment(tmp_path)
    for _ in range(2):
        with pytest.raises(dev.SetupError, match="the installation failed"):
            environment.install("report")


def test_fingerprint_follows_pyproject(dev, tmp_path, monkeypatch):
    for name in ("pyproject.toml", "CMakeLists.txt", "kernels/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    before = dev.fingerprint(None)
    assert dev.fingerprint(None) == before
    (tmp_path / "pyproject.toml").write_text("changed", encoding="utf-8")
    assert dev.fingerprint(None) != before


def test_all_gates_run_and_pytest_gets_the_rest(dev, ready, capsys):
    calls, _, flags = ready
    assert dev.main([*flags, "test", "-k", "svd"]) == 0
    assert [call[0] for call in calls] == [
        "ruff",
        "ruff",
        "mypy",
        "lint-imports",
        "python",
        "python",
    ]
    assert Path(calls[-2][1]).name == "build_native.py"
    assert calls[-1][1:] == ("-m", "pytest", "-k", "svd")
    assert capsys.readouterr().out.strip().endswith("all gates passed")


def test_one_failed_gate_fails_the_run_and_is_named(dev, ready, capsys):
    calls, codes, flags = ready
    codes["mypy"] = 1
    assert dev.main([*flags, "test"]) == 1
    assert calls[-1][:3] == ("python", "-m", "pytest")  # the other gates still run
    assert capsys.readouterr().out.strip().endswith("failed: mypy")


def test_gates_alone_leave_the_tests_out(dev, ready):
    calls, _, flags = ready
    assert dev.main([*flags, "test", "--gates"]) == 0
    assert len(calls) == 4


def test_commands_run_in_the_environment(dev, root, tmp_path, capfd):
    environment = dev.Environment(tmp_path / "venv")
    environment.bin.mkdir(parents=True)
    probe = environment.bin / "probe"
    probe.write_text("#!/bin/sh\npwd -P\necho $PATH\nexit 5\n", encoding="utf-8")
    probe.chmod(0o755)
    assert environment.call("probe") == 5
    place, path = capfd.readouterr().out.splitlines()
    assert Path(place) == root.resolve()
    assert path.split(os.pathsep)[0] == str(environment.bin)


def test_oldest_dependencies_are_those_of_the_oldest_python(dev, ready, monkeypatch, capsys):
    calls, _, flags = ready
    assert dev.main([*flags, "test", "--lowest"]) == 2
    assert "run it with Python 3.10" in capsys.readouterr().err
    monkeypatch.setattr(dev, "PYTHON", (3, 10))
    assert dev.main([*flags, "test", "--lowest"]) == 0
    assert calls[-1][1:3] == ("-m", "pytest")
    assert [call[0] for call in calls] == ["python", "python"]  # the library is built before


def test_demo_makes_the_model_small_and_keeps_its_accuracy(root, tmp_path):
    command = [sys.executable, root / "tools" / "demo.py", "--output", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.search(r"accuracy .*: (\d+\.\d+)% -> (\d+\.\d+)%", done.stdout)
    assert shown is not None
    before, after = map(float, shown.groups())
    # the budget holds on 75 confirming images; on 600 others, one standard error is 0.44 points
    assert after >= max(97.0, before - 0.5 - 3 * 0.44)
    assert (tmp_path / "digits.html").stat().st_size > 0
    sizes = [p.stat().st_size for p in (root / "models/digits.onnx", tmp_path / "digits.slim.onnx")]
    assert sizes[1] < sizes[0] / 3  # INT8 alone gives almost 4
