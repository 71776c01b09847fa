"""What a measurement was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import onnxruntime

__all__ = ["environment", "version"]

_PACKAGES = ("onnxslim-rx", "onnxruntime", "onnx", "onnx-ir", "numpy", "scipy")


def version() -> tuple[int, ...]:
    """Version of the installed onnxruntime, such as `(1, 31, 1)`."""
    return tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:3])


def environment() -> dict[str, str]:
    """Versions of what was used, processor, cores this process may use, operating system."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = _installed(package)
    # a GPU build of onnxruntime has another package name, but the same module
    found["onnxruntime"] = onnxruntime.__version__
    found["cpu"] = _cpu()
    found["cores"] = str(_cores())
    found["system"] = platform.platform(terse=True)
    return found


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()
