"""The tests in C++: built by CMake, each a program of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.native import cpp

SKIPPED = 77
WITHOUT_DEVICE = ("opencl_parsing", "opencl_choice", "region_executable", "region_memory_plan")
ARITHMETIC = ("cpu_conv", "cpu_gemm", "cpu_quant")  # too slow for valgrind
SANITIZE = "ONNXSLIM_RX_SANITIZE"


@pytest.fixture(scope="module")
def programs() -> Path:
    return cpp.built()


@pytest.fixture(scope="module")
def sanitized() -> Path:
    if not os.environ.get(SANITIZE):
        pytest.skip(f"builds all for minutes: set {SANITIZE}=1")
    return cpp.built("address,undefined")


@pytest.mark.parametrize("name", [*WITHOUT_DEVICE, *ARITHMETIC])
def test_program_with_sanitizers(sanitized: Path, name: str) -> None:
    """Of addresses, of leaks and of undefined behaviour; drivers would report their own."""
    run = cpp.run(sanitized / name)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "runtime error" not in run.stderr


@pytest.mark.parametrize("name", cpp.names())
def test_program(programs: Path, name: str) -> None:
    run = cpp.run(programs / name)
    if run.returncode == SKIPPED:
        pytest.skip(run.stderr.strip() or "it says that it needs something")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", WITHOUT_DEVICE)
def test_program_under_valgrind(programs: Path, name: str) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is missing")
    checks = ("-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite")
    run = cpp.run("valgrind", *checks, programs / name)
    assert run.returncode == 0, run.stdout + run.stderr


def test_programs_say_where_there_is_no_device(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp, "opencl_libraries", lambda: "/nowhere/libpocl.so")
    monkeypatch.setenv("ONNXSLIM_RX_DEVICE", "opencl:77:0")
    run = cpp.run(programs / "opencl_run")
    assert run.returncode == SKIPPED
    assert "'opencl:77:0' was asked for" in run.stderr
    assert "tried /nowhere/libpocl.so" in run.stderr
