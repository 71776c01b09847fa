"""What the documents tell people to type works; what they link to is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil

import numpy as np
import pytest

from onnxslim_rx import cli


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(readme):
    """Every command of the README, in words, without its comment."""
    lines = "".join(blocks(readme, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(root, tmp_path, monkeypatch):
    """A folder with the files that the README's commands name."""
    shutil.copy(root / "models" / "digits.onnx", tmp_path / "model.onnx")
    with np.load(root / "models" / "digits_calibration.npz") as data:
        np.savez(tmp_path / "samples.npz", **{name: data[name][:64] for name in data.files})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_readme_run_in_order(commands, folder, capsys):
    ours = [words[1:] for words in commands if words[0] == "onnxslim-rx"]
    assert {words[0] for words in ours} >= {"optimize", "simplify", "inspect", "bench"}
    for words in ours:
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    written = {words[words.index("-o") + 1] for words in ours if "-o" in words}
    assert written
    for name in written:
        assert (folder / name).stat().st_size > 0


def test_python_of_the_readme_runs(readme, folder, capsys):
    (code,) = blocks(readme, "python")
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "small.onnx").stat().st_size > 0


def test_bootstrap_commands_are_accepted_and_are_what_ci_runs(root, commands, monkeypatch):
    spec = importlib.util.spec_from_file_location("dev", root / "tools" / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    monkeypatch.setattr(dev.Environment, "install", lambda *args, **kwargs: None)
    monkeypatch.setattr(dev.Environment, "call", lambda *args: 0)
    told = [words for words in commands if words[:2] == ["python3", "tools/dev.py"]]
    assert [words[2] for words in told] == ["demo", "test"]
    for words in told:
        assert dev.main(words[2:]) == 0
    ci = (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert all(shlex.join(words) in ci for words in told)


def test_no_other_command_is_told(commands):
    others = [words for words in commands if words[0] not in ("onnxslim-rx", "python3")]
    assert others == [["pip", "install", "."]]  # test_packaging.py installs


def test_links_between_files_lead_somewhere(root):
    documents = [*root.glob("*.md"), *(root / "models").glob("*.md"), root / "kernels/README.md"]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
