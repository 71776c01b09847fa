"""What the documents tell people to type works; what they link to is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import types
from typing import Any

import numpy as np
import pytest

from onnxslim_rx import cli, registry
from onnxslim_rx.plans import Plan


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(readme):
    """Every command of the README, in words, without its comment."""
    return lines_of(readme)


def lines_of(text: str) -> list[list[str]]:
    """The commands in a document, in words, without comments."""
    lines = "".join(blocks(text, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def tutorial(root):
    return (root / "docs" / "factorization.md").read_text(encoding="utf-8")


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


@pytest.fixture
def demo(folder, root):
    """A folder as the tutorial's first commands leave it, with fewer samples."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    return folder


def test_commands_of_the_tutorial_run_in_order(tutorial, demo, root, capsys):
    told = lines_of(tutorial)
    assert told[0] == ["pip", "install", ".[report]"]  # test_packaging.py installs
    copies = [words for words in told if words[0] == "cp"]
    assert [words[2] for words in copies] == ["model.onnx", "samples.npz"]
    assert all((root / words[1]).exists() for words in copies)
    ours = [words[1:] for words in told if words[0] == "onnxslim-rx"]
    assert len(ours) + len(copies) + 1 == len(told)
    assert [words[0] for words in ours] == [
        "inspect", "plan", "optimize", "compare", "bench", "optimize", "optimize",
    ]  # fmt: skip
    for words in ours:
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    pages = ("spectra.html", "plan.html", "report.html")
    assert all("<svg" in (demo / page).read_text(encoding="utf-8") for page in pages)
    assert (demo / "again.onnx").read_bytes() == (demo / "small.onnx").read_bytes()


def test_options_of_the_tutorial_are_there(tutorial, capsys):
    with pytest.raises(SystemExit):
        cli.main(["optimize", "--help"])
    text = capsys.readouterr().out
    prose = re.sub(r"^```.*?^```$", "", tutorial, flags=re.MULTILINE | re.DOTALL)
    options = set(re.findall(r"`(--[a-z-]+)", prose))
    assert len(options) >= 7
    assert all(option in text for option in options)


def test_passes_of_the_tutorial_are_those_that_factorize(tutorial):
    told = set(re.findall(r"^\| ((?:factorize|tensorize)-[a-z]+) \|", tutorial, re.MULTILINE))
    kinds = ("factorize-", "tensorize-")
    assert told == {name for name in registry.all_passes() if name.startswith(kinds)}


def test_the_plan_of_the_tutorial_can_be_read(tutorial):
    (entry,) = blocks(tutorial, "toml")
    head = Plan("0" * 64, "ort-cpu", {}, ()).to_toml().replace("layer = []\n", "")
    (layer,) = Plan.from_toml(head + entry).layers
    assert [stage.pass_name for stage in layer.stages] == ["factorize-gemm", "quantize-weights"]


def test_the_pass_of_the_tutorial_works(tutorial, demo, capsys):
    own, use = blocks(tutorial, "python")
    scope: dict[str, Any] = {"__name__": "my_pass"}
    sys.modules["my_pass"] = types.ModuleType("my_pass")  # dataclasses look their module up
    try:
        exec(compile(own + use, "factorization.md", "exec"), scope)
    finally:
        del sys.modules["my_pass"]
    assert float(capsys.readouterr().out) > 0.8
    weight = np.random.default_rng(1).standard_normal((30, 5)) @ np.ones((5, 40))
    columns, rest = scope["split"](weight, 1)
    np.testing.assert_allclose(columns @ rest, weight)
    found = scope["rx"].optimize("model.onnx", calibration="samples.npz", progress=False)
    assert found.plan.changes  # the planner is not disturbed by what is not registered


def test_the_page_about_quantization_works(root, folder, capsys):
    text = (root / "docs" / "quantization.md").read_text(encoding="utf-8")
    ours = [words[1:] for words in lines_of(text) if words[0] == "onnxslim-rx"]
    assert {words[0] for words in ours} == {"optimize", "quantize", "dequantize", "compare"}
    for words in ours:
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    (code,) = blocks(text, "python")
    exec(compile(code, "quantization.md", "exec"), {})
    told = set(re.findall(r"^\| (quantize-[a-z]+)", text, re.MULTILINE))
    assert told == {name for name in registry.all_passes() if name.startswith("quantize-")}


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
    documents += (root / "docs").glob("*.md")
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
