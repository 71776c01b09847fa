"""Stands in for the native library: the same functions, with answers that a test chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxslim_rx.runtime.native import Library
from onnxslim_rx.runtime.native import shared_object as loader

CARD: dict[str, Any] = {
    "platform": "AMD Accelerated Parallel Processing ", "platform_index": 1, "device_index": 0,
    "name": "Ellesmere", "vendor": "Advanced Micro Devices, Inc.", "kind": "gpu",
    "driver": "3240.6", "opencl": "OpenCL 1.2 AMD-APP", "units": 36, "memory": 8 << 30,
    "local_memory": 32768, "fp16": True, "architecture": "gfx803", "card": "RX 580",
    "tuned": ["gemm", "conv"], "unified": False,
}  # fmt: skip
POCL: dict[str, Any] = {
    **CARD, "platform": "Portable Computing Language", "platform_index": 0, "name": "pthread-Xeon",
    "vendor": "GenuineIntel", "kind": "cpu", "driver": "3.0", "units": 2, "fp16": False,
    "architecture": "", "card": "", "tuned": [], "unified": True,
}  # fmt: skip


class FakeHandle:
    """Answers as the C interface does: bytes of JSON; remembers what it was asked."""

    def __init__(self, devices: list[dict[str, Any]] | None = None, abi: int = 1) -> None:
        self.found = [POCL, CARD] if devices is None else devices
        self.abi = abi
        self.asked: list[tuple[str, Any]] = []
        self.kernels: list[dict[str, Any]] = []
        self.broken = False

    def rx_abi(self) -> int:
        return self.abi

    def rx_devices(self, libraries: bytes) -> bytes:
        self.asked.append(("devices", libraries.decode()))
        tried = [{"library": "libOpenCL.so.1", "found": bool(self.found)}]
        error = "" if self.found else "no platform"
        return json.dumps({"devices": self.found, "tried": tried, "error": error}).encode()

    def rx_selftest(self, device: bytes, libraries: bytes) -> bytes:
        self.asked.append(("selftest", device.decode()))
        checks = [
            {"name": "gemm", "ok": not self.broken, "error": "NaN" if self.broken else ""},
            {"name": "conv", "ok": True, "error": ""},
        ]
        return json.dumps({"ok": not self.broken, "seconds": 0.5, "checks": checks}).encode()

    def rx_profile(self, on: int) -> None:
        self.asked.append(("profile", on))

    def rx_profile_read(self) -> bytes:
        transfers = {"up_bytes": 10, "up_seconds": 0.1, "down_bytes": 20, "down_seconds": 0.2}
        return json.dumps({"kernels": self.kernels, "transfers": transfers}).encode()

    def rx_fault(self, point: bytes, nth: int) -> None:
        self.asked.append((point.decode(), nth))

    def rx_build(self) -> bytes:
        return b'{"version": "0", "compiler": "g++", "cpu": "avx2"}'


def install(
    monkeypatch: pytest.MonkeyPatch, handle: FakeHandle, path: Path = Path("/lib/fake.so")
) -> None:
    """Let the package find `handle` where its library would lie."""
    monkeypatch.setattr(loader, "library_path", lambda: path)
    monkeypatch.setattr(loader, "_loaded", lambda path: Library(handle, path))
