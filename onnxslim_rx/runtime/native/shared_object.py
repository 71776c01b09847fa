"""The shared library that comes with the package, and its C interface."""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

from onnxslim_rx.errors import InputError

__all__ = ["ABI", "NAME", "Library", "library", "library_path"]

ABI = 1
"""Version of the C interface that is spoken here."""

NAME = "libonnxslim_rx.so"

_TEXTS: dict[str, list[Any]] = {
    "rx_devices": [ctypes.c_char_p],
    "rx_selftest": [ctypes.c_char_p, ctypes.c_char_p],
    "rx_profile_read": [],
    "rx_build": [],
}
"""Functions that return JSON, and what they take."""


def library_path() -> Path | None:
    """Where the library lies, beside its kernels; None: this installation has none."""
    found = Path(str(importlib.resources.files("onnxslim_rx") / "_lib" / NAME))
    return found if found.is_file() else None


def library() -> Library:
    """The library, loaded once.

    Raises:
        InputError: this installation has none, or it cannot be loaded here.
    """
    path = library_path()
    if path is None:
        raise InputError(
            "this installation of onnxslim-rx has no native library, which operators of the domain"
            " ai.onnxslim.rx and OpenCL devices need",
            advice="it was built where there was no C++ compiler: install one (such as g++) and"
            " CMake, then run 'pip install --force-reinstall --no-binary onnxslim-rx onnxslim-rx'",
        )
    return _loaded(path)


@functools.lru_cache(maxsize=1)
def _loaded(path: Path) -> Library:
    try:
        handle = ctypes.CDLL(os.fspath(path))
        for name, takes in _TEXTS.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = ctypes.c_char_p, takes
        handle.rx_abi.restype, handle.rx_abi.argtypes = ctypes.c_int, []
        handle.rx_profile.restype, handle.rx_profile.argtypes = None, [ctypes.c_int]
        handle.rx_fault.restype = None
        handle.rx_fault.argtypes = [ctypes.c_char_p, ctypes.c_int]
    except (OSError, AttributeError) as error:
        raise InputError(
            f"the native library {path} cannot be loaded: {error}",
            advice="install onnxslim-rx again; built from source, with the compiler of this system",
        ) from error
    return Library(handle, path)


class Library:
    """The C interface in Python's types.

    Args:
        handle: has the functions of the library; those that give text give bytes.
        path: of the library.

    Raises:
        InputError: the library speaks another version of the interface.
    """

    def __init__(self, handle: Any, path: Path) -> None:
        found = int(handle.rx_abi())
        if found != ABI:
            raise InputError(
                f"the native library {path} has version {found} of its interface",
                expected=str(ABI),
                advice="install onnxslim-rx again: library and Python code come together",
            )
        self._handle = handle
        self.path = path

    def devices(self, libraries: str) -> dict[str, Any]:
        """What OpenCL offers: `devices`, `tried` and `error`.

        Args:
            libraries: OpenCL libraries to try beside the system's, separated by ":".
        """
        return self._read(self._handle.rx_devices(libraries.encode()))

    def selftest(self, device: str, libraries: str) -> dict[str, Any]:
        """What a few small products on the device gave: `ok`, `seconds` and `checks`."""
        return self._read(self._handle.rx_selftest(device.encode(), libraries.encode()))

    def profile(self, on: bool) -> None:
        """Count launches and their time from now on, from zero; or stop."""
        self._handle.rx_profile(int(on))

    def read_profile(self) -> dict[str, Any]:
        """What was counted since: `kernels` and `transfers`."""
        return self._read(self._handle.rx_profile_read())

    def fault(self, point: str, nth: int) -> None:
        """Let the nth call of "allocate", "build", "enqueue", "map", "read" or "write" fail.

        For tests; 0: none fails.
        """
        self._handle.rx_fault(point.encode(), nth)

    def build(self) -> dict[str, Any]:
        """How the library was built: `version`, `compiler` and `cpu`."""
        return self._read(self._handle.rx_build())

    def _read(self, text: bytes | None) -> dict[str, Any]:
        if text is None:
            raise InputError(f"the native library {self.path} gave no answer")
        found: dict[str, Any] = json.loads(text.decode(errors="replace"))
        return found
