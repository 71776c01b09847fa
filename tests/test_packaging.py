"""The wheel, the sdist and the editable install hold what they should and run where they land."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

PACKAGES = {"onnxslim_rx": "onnxslim_rx", "onnxslim_rx_passes": "passes/onnxslim_rx_passes"}
# `--help` has 0.3 s of processor time: none of these fits in
HEAVY = {
    "jinja2", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "rich",
    "scipy", "sympy", "torch",
}  # fmt: skip
BUILD_TOOLS = ("cmake", "ninja")
COMPILERS = ("c++", "g++", "clang++")
OPTIONAL = ["jinja2", "matplotlib", "pyopencl", "torch"]


def run(*command: object, cwd: Path, **env: str) -> str:
    """Standard output of a command that has to succeed, away from the checkout's `sys.path`."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare_venv(place: Path) -> Path:
    """The Python of a new environment that sees our dependencies, but no install of ours."""
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / "bin" / "python"
    packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place
    )
    # paths added by a .pth file are searched after the environment's own, and .pth files in them,
    # such as that of an editable install, are not read
    shared = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    Path(packages.strip(), "shared.pth").write_text("\n".join(shared), encoding="utf-8")
    return python


def pip_install(python: Path, *what: object, cwd: Path) -> None:
    """Install with this environment's pip into that of `python`, without its dependencies."""
    command = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps")
    run(*command, "--ignore-installed", *what, cwd=cwd)


def isolation() -> list[str]:
    """No isolated build where all that it would bring is here: that saves seconds."""
    ready = importlib.util.find_spec("scikit_build_core") and all(map(shutil.which, BUILD_TOOLS))
    return ["--no-isolation", "--skip-dependency-check"] if ready else []


@pytest.fixture(scope="session")
def dist(root, tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from the sdist."""
    place = tmp_path_factory.mktemp("dist")
    index = {"PIP_NO_INDEX": "" if not isolation() else "1"}
    run(sys.executable, "-m", "build", *isolation(), "--outdir", place, root, cwd=place, **index)
    return place


@pytest.fixture(scope="session")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The Python of a fresh environment with the wheel in it."""
    place = tmp_path_factory.mktemp("installed")
    python = bare_venv(place / "venv")
    pip_install(python, wheel, cwd=place)
    return python


def source_files(root: Path) -> set[str]:
    """What belongs into the wheel, by its path there."""
    return {
        f"{package}/{file.relative_to(root / folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for file in (root / folder).rglob("*")
        if file.is_file() and not {"__pycache__", "_lib"} & set(file.parts)
    }


def native_files(root: Path) -> set[str]:
    """What CMake adds to the wheel: a README alone where no compiler is found."""
    found = {"onnxslim_rx/_lib/README.md"}
    if not any(map(shutil.which, COMPILERS)):
        return found
    kernels = {
        f"onnxslim_rx/_lib/{file.relative_to(root / 'kernels').as_posix()}"
        for folder in ("cl", "params")
        for file in (root / "kernels" / folder).rglob("*")
        if file.suffix in {".cl", ".clh", ".json"}
    }
    return found | kernels | {"onnxslim_rx/_lib/libonnxslim_rx.so"}


def pass_classes(root: Path) -> dict[str, str]:
    """Entry points that the pass classes in the source ask for: read, not imported."""
    found = {}
    for file in (root / PACKAGES["onnxslim_rx_passes"]).glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or file.stem.startswith("_"):
                continue
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "name":
                    assert item.value is not None
                    name = ast.literal_eval(item.value)
                    found[name] = f"onnxslim_rx_passes.{file.stem}:{node.name}"
    return found


def test_wheel_holds_the_two_packages_and_nothing_else(wheel, root):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    metadata = {name for name in names if ".dist-info/" in name}
    assert {name.split("/")[0] for name in names - metadata} == set(PACKAGES)
    assert names - metadata == source_files(root) | native_files(root)
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_wheel_has_type_markers_targets_and_report_templates(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"onnxslim_rx/py.typed", "onnxslim_rx_passes/py.typed"} <= set(names)
    assert any(name.startswith("onnxslim_rx/target_files/") for name in names)
    assert any(name.endswith(".html") for name in names)


def test_wheel_serves_every_python_3(wheel):
    assert "-py3-none-" in wheel.name


def test_sdist_holds_what_a_build_needs(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "kernels/README.md"}
    assert wanted <= names
    assert "kernels/src/door/custom_ops.cpp" in names
    assert not any("/_lib/" in name for name in names)  # what was built here stays here
    assert not any(name.startswith((".git", ".venv", "build/")) for name in names)


def metadata(wheel: Path) -> Message:
    """The METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_lower_bounds_are_those_that_are_tested(wheel, root):
    text = (root / "tools" / "constraints-lowest.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    needs = metadata(wheel).get_all("Requires-Dist", [])
    needs = [n for n in needs if "extra ==" not in n or "extra == 'report'" in n.replace('"', "'")]
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join(needs), re.MULTILINE))
    assert bounds == tested


def test_core_needs_neither_torch_nor_opencl_nor_drawing(wheel):
    message = metadata(wheel)
    needs = [need for need in message.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert not [need for need in needs if need.split(">")[0].strip() in OPTIONAL]
    assert set(message.get_all("Provides-Extra", [])) == {"torch", "opencl", "report", "dev"}


def imported(root: Path) -> set[str]:
    """Top-level names that the packages import anywhere, without the standard library's."""
    found = set()
    for folder in PACKAGES.values():
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(node.module or "")
    return (
        {name.partition(".")[0] for name in found}
        - sys.stdlib_module_names
        - {"tomllib", *PACKAGES}
    )


def test_whatever_is_imported_is_declared(wheel, root):
    needs = metadata(wheel).get_all("Requires-Dist", [])
    declared = {re.split(r"[^\w-]", need)[0].replace("-", "_") for need in needs}
    comes_along = {"google", "markupsafe"}  # with onnx and jinja2, which decide the versions
    assert imported(root) - declared - comes_along == set()


def test_entry_points_are_the_passes_found_in_the_source(wheel, root):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
    config = configparser.ConfigParser(delimiters="=")
    config.read_file(io.StringIO(archive.read(name).decode()))
    classes = pass_classes(root)
    assert classes
    assert dict(config["onnxslim_rx.passes"]) == classes


def test_installed_metadata_is_current(root):
    # the registry of this very test run reads it: a pass added since needs `pip install -e .`
    entries = importlib.metadata.entry_points(group="onnxslim_rx.passes")
    ours = {e.name: e.value for e in entries if e.value.startswith("onnxslim_rx_passes.")}
    assert ours == pass_classes(root), "reinstall: pip install -e ."


def test_installed_wheel_runs_without_the_optional_packages(installed, root, tmp_path):
    script = f"""
import sys, pathlib
class Absent:
    def find_spec(self, name, *args):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import onnxslim_rx as rx
import onnxslim_rx_passes
for module in (rx, onnxslim_rx_passes):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module.__file__
assert rx.passes.FactorizeGemm.name == "factorize-gemm"
model = rx.simplify({str(root / "models" / "digits.onnx")!r})
print(rx.__version__, len(model.graph))
"""
    version, nodes = run(installed, "-c", script, cwd=tmp_path).split()
    assert version == importlib.metadata.version("onnxslim-rx")
    assert 0 < int(nodes) <= 14


def test_checkout_folders_are_not_importable_from_the_wheel(installed, tmp_path):
    script = """
import importlib.util
print([n for n in ("tools", "tests", "models", "kernels", "passes") if importlib.util.find_spec(n)])
"""
    assert run(installed, "-c", script, cwd=tmp_path).strip() == "[]"


def test_installed_command_shows_help(installed, tmp_path):
    text = run(installed.with_name("onnxslim-rx"), "--help", cwd=tmp_path)
    assert "optimize" in text
    assert run(installed, "-m", "onnxslim_rx", "--help", cwd=tmp_path).strip() == text.strip()


def test_editable_install_runs_the_checkout(root, tmp_path):
    python = bare_venv(tmp_path / "venv")
    flags = ["--no-build-isolation"] if isolation() else []
    pip_install(python, *flags, "--editable", root, cwd=tmp_path)
    script = """
import json, onnxslim_rx, onnxslim_rx_passes
print(json.dumps([onnxslim_rx.__file__, onnxslim_rx_passes.__file__]))
"""
    core, passes = json.loads(run(python, "-c", script, cwd=tmp_path))
    assert Path(core) == root / "onnxslim_rx" / "__init__.py"
    assert Path(passes) == root / "passes" / "onnxslim_rx_passes" / "__init__.py"
    assert "optimize" in run(python.with_name("onnxslim-rx"), "--help", cwd=tmp_path)


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(installed, tmp_path, arguments):
    script = f"""
import sys
from onnxslim_rx.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code, end.code
print("modules:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    modules = run(installed, "-c", script, cwd=tmp_path).rpartition("modules:")[2].split()
    assert "onnxslim_rx" in modules
    assert HEAVY & set(modules) == set()


def test_importing_the_package_imports_nothing_heavy(installed, tmp_path):
    script = "import sys, onnxslim_rx; print(*{name.partition('.')[0] for name in sys.modules})"
    assert HEAVY & set(run(installed, "-c", script, cwd=tmp_path).split()) == set()
