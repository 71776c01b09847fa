"""Builds the tests in C++ (kernels/tests) beside the library, and runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from onnxslim_rx.runtime.native import opencl_libraries

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "native"


def names() -> list[str]:
    """The tests in C++ that run by themselves."""
    found = {path.stem for path in (ROOT / "kernels" / "tests").glob("*.cpp")}
    return sorted(found - {"opencl_twin"})


def built(sanitizers: str = "") -> Path:
    """The folder of the built tests; skips where CMake, Ninja or a compiler is missing.

    Args:
        sanitizers: of the compiler, "address,undefined"; they get a folder of their own.
    """
    if missing := [name for name in ("cmake", "ninja") if shutil.which(name) is None]:
        pytest.skip(f"{' and '.join(missing)} is missing")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("a C++ compiler is missing")
    folder = BUILD.with_name("sanitized") if sanitizers else BUILD
    kind = "Debug" if sanitizers else "Release"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DRX_TESTS=ON"]
    for command in (
        [*configure, f"-DCMAKE_BUILD_TYPE={kind}", f"-DRX_SANITIZE={sanitizers}"],
        ["cmake", "--build", str(folder), "--target", "rx_tests"],
    ):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    return folder


def run(
    *command: str | Path, stdin: str = "", cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a built test with the OpenCL libraries of the environment.

    Args:
        command: program and arguments.
        stdin: its input.
        cache: where PoCL keeps what it compiles; None: where it does by itself.
    """
    more = {"ONNXSLIM_RX_OPENCL": opencl_libraries()}
    if cache is not None:
        more["POCL_CACHE_DIR"] = str(cache)
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **more},
    )
