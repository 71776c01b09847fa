#!/usr/bin/env python3
"""Build the native library from kernels/ into onnxslim_rx/_lib, where an editable install finds it.

    python3 tools/build_native.py [--force]

Nothing is done where nothing has changed. CMake and Ninja are the system's, or come from PyPI into
the environment that runs this file. Without a C++ compiler it says so and succeeds: the rest of
onnxslim_rx works without the library. This file runs on Python 3.8.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path("onnxslim_rx", "_lib")
BUILD = Path("build", "native")
COMPILERS = ("c++", "g++", "clang++")


def main(argv: list[str] | None = None) -> int:
    """Build where needed; 0, or the exit code of the step that failed."""
    parser = argparse.ArgumentParser(description="Build the native library into onnxslim_rx/_lib.")
    parser.add_argument("--force", action="store_true", help="also where nothing has changed")
    args = parser.parse_args(argv)
    found = compiler()
    if found is None:
        print(
            "no C++ compiler was found, so the native library is not built and its tests are "
            f"skipped; install one of {', '.join(COMPILERS)} (Debian: apt install g++)"
        )
        return 0
    wanted = fingerprint(ROOT, found)
    stamp = ROOT / BUILD / "onnxslim_rx.stamp"
    if not args.force and is_current(stamp, wanted):
        return 0
    started = time.monotonic()
    code = build(ROOT)
    if code == 0:
        stamp.write_text(wanted, encoding="utf-8")
        print(f"built the native library in {time.monotonic() - started:.0f} s", flush=True)
    return code


def compiler() -> str | None:
    """The C++ compiler that CMake will use: that of CXX, or one of the usual names."""
    named = os.environ.get("CXX", "").split()
    return next(filter(None, map(shutil.which, [*named[:1], *COMPILERS])), None)


def fingerprint(root: Path, compiler: str) -> str:
    """Changes when the library has to be built anew."""
    files = [root / "CMakeLists.txt", root / "pyproject.toml", Path(__file__)]
    files += sorted(path for path in (root / "kernels").rglob("*") if path.is_file())
    sums = hashlib.sha256(f"{root}\0{compiler}".encode())
    for file in files:
        sums.update(str(file).encode() + b"\0" + file.read_bytes())
    return sums.hexdigest()


def is_current(stamp: Path, wanted: str) -> bool:
    """Whether what is installed was built from `wanted`."""
    try:
        built = stamp.read_text(encoding="utf-8")
    except OSError:
        return False
    return built == wanted and any((ROOT / PLACE).glob("*onnxslim_rx.*"))


def build(root: Path) -> int:
    """Configure, compile and install; the first exit code that is not 0."""
    missing = [name for name in ("cmake", "ninja") if program(name) is None]
    if missing:
        print(f"installing {' and '.join(missing)} from PyPI", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", *missing]
        if subprocess.call([*pip, "--disable-pip-version-check"]) != 0:
            print(f"{' and '.join(missing)} could not be installed; do so by hand and try again")
            return 1
    cmake, place, stage = str(program("cmake")), root / BUILD, root / BUILD / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    make = f"-DCMAKE_MAKE_PROGRAM={program('ninja')}"
    for command in (
        ["-S", str(root), "-B", str(place), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", make],
        ["--build", str(place)],
        ["--install", str(place), "--prefix", str(stage), "--strip"],
    ):
        run = subprocess.run(
            [cmake, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if run.returncode != 0:
            print(run.stdout.decode(errors="replace"), flush=True)
            print(f"the native library could not be built: cmake {' '.join(command)} failed")
            return run.returncode
    swap(stage / PLACE.name, root / PLACE, place / "replaced")
    return 0


def program(name: str) -> str | None:
    """A program of the environment that runs this file, or of the system."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def swap(new: Path, place: Path, away: Path) -> None:
    """Put `new` in the place of a folder whose files other processes may have mapped."""
    shutil.rmtree(away, ignore_errors=True)
    if place.exists():
        place.rename(away)
    new.rename(place)
    shutil.rmtree(away, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
