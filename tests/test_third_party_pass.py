"""The tutorial of CONTRIBUTING.md works as written: its pass, its test, its package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# a build backend that is here anyway, so that nothing is fetched; users take any they like
BACKEND = """
[build-system]
requires = ["scikit-build-core"]
build-backend = "scikit_build_core.build"
[tool.scikit-build]
wheel.cmake = false
wheel.packages = ["my_passes"]
"""
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
twice (float[N] x) => (float[N] y, float[N] z) {
    a = Neg(x)  b = Neg(a)  y = Exp(b)  c = Neg(y)  z = Neg(c)
}
"""
USE = f"""
import onnx_ir as ir
import onnxslim_rx as rx
from onnxslim_rx import registry
from my_passes.cancel_negations import CancelNegations

assert registry.find("cancel-negations") is CancelNegations
assert rx.passes.CancelNegations is CancelNegations
assert "factorize-gemm" in registry.all_passes()
model = ir.from_onnx_text({MODEL!r})
(entry,) = rx.PassManager(["cancel-negations"]).run(model).journal
print(entry.name, entry.rewritten, [(one.where, one.why) for one in entry.skipped])
"""


@pytest.fixture(scope="module")
def blocks(root):
    """Code blocks of the tutorial, in order, by language."""
    found: dict[str, list[str]] = {}
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.setdefault(language, []).append(code)
    return found


@pytest.fixture(scope="module")
def site(blocks, tmp_path_factory):
    """A folder that the scratch package was installed into."""
    place = tmp_path_factory.mktemp("third_party")
    source, target = place / "source", place / "site"
    (source / "my_passes").mkdir(parents=True)
    (source / "my_passes" / "__init__.py").touch()
    (source / "my_passes" / "cancel_negations.py").write_text(blocks["python"][0], "utf-8")
    (source / "pyproject.toml").write_text(blocks["toml"][1] + BACKEND, "utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index"]
    pip += ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(site: Path, root: Path, *command: str) -> str:
    """Standard output of Python, to which the package in `site` is installed."""
    paths = map(str, (site, root, root / "passes"))
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_registry_and_manager_take_a_pass_from_another_distribution(site, root):
    expected = "cancel-negations 1 [('z', 'the graph returns it under a name of its own')]"
    assert run(site, root, "-c", USE).strip() == expected


def test_command_line_lists_it_with_its_distribution(site, root):
    lines = run(site, root, "-m", "onnxslim_rx", "passes").splitlines()
    (line,) = (line for line in lines if "cancel-negations" in line)
    assert "my-passes" in line


def test_tutorial_s_own_test_passes(site, root, blocks, tmp_path):
    code = blocks["python"][1].replace("onnxslim_rx_passes.", "my_passes.")
    file = tmp_path / "test_cancel_negations.py"
    file.write_text(code, encoding="utf-8")
    flags = ["-q", "-p", "no:randomly", "-W", "error", "--rootdir", str(tmp_path)]
    out = run(site, root, "-m", "pytest", *flags, "-c", os.devnull, str(file))
    assert "1 passed" in out


def test_entry_points_of_the_tutorial_name_its_class(blocks):
    name = re.search(r'name: ClassVar\[str\] = "(.*)"', blocks["python"][0])
    assert name is not None
    for toml in blocks["toml"]:
        assert re.search(rf'^{name[1]} = "\w+\.cancel_negations:CancelNegations"$', toml, re.M)


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (0, "passes/onnxslim_rx_passes/cancel_negations.py"),
        (1, "tests/passes/test_cancel_negations.py"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_tutorial_passes_the_gates_of_style(root, blocks, block, name, command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", name, "-"],
        input=blocks["python"][block],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
