"""OpenCL drivers that pip installed: found by what packages list, without importing them."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path

__all__ = ["OPENCL_VARIABLE", "opencl_libraries"]

OPENCL_VARIABLE = "ONNXSLIM_RX_OPENCL"

# Packages whose wheels bring PoCL, OpenCL for processors. Importing pyopencl would load its own ICD
# loader as well, and change the environment of the process.
_PACKAGES = ("pocl-binary-distribution", "pyopencl")


def opencl_libraries() -> str:
    """OpenCL libraries to try where the system has none, separated by ":"; may be empty.

    Those of the variable ONNXSLIM_RX_OPENCL first, then PoCL of the extra `opencl`.
    """
    given = os.environ.get(OPENCL_VARIABLE, "")
    return ":".join(filter(None, (given, *_installed())))


@functools.cache
def _installed() -> tuple[str, ...]:
    found: dict[str, None] = {}
    for package in _PACKAGES:
        try:
            files = importlib.metadata.files(package) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libpocl") and ".so" in file.name:
                path = Path(str(file.locate()))
                if path.is_file():
                    found[os.fspath(path.resolve())] = None
    return tuple(found)
