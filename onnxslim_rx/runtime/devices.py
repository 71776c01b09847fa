"""Which devices models can run on here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from onnxslim_rx.runtime.environment import environment

__all__ = ["Device", "devices"]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of this machine.

    Args:
        name: as the device calls itself.
        kind: "cpu", "gpu" or "accelerator".
        runtime: what runs models on it, with its version.
        units: cores or compute units that this process may use.
        memory: bytes, or None where the system does not tell.
    """

    name: str
    kind: str
    runtime: str
    units: int
    memory: int | None


def devices() -> list[Device]:
    """The processor, through ONNX Runtime; then OpenCL devices, where pyopencl is installed."""
    here = environment()
    processor = Device(
        name=here["cpu"],
        kind="cpu",
        runtime=f"onnxruntime {here['onnxruntime']}",
        units=int(here["cores"]),
        memory=_memory(),
    )
    return [processor, *_opencl()]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def _opencl() -> Iterator[Device]:
    try:
        import pyopencl
    except ImportError:
        return
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.Error:  # no driver is installed
        return
    kinds = {pyopencl.device_type.CPU: "cpu", pyopencl.device_type.GPU: "gpu"}
    for platform in platforms:
        for device in platform.get_devices():
            yield Device(
                name=device.name.strip(),
                kind=kinds.get(device.type, "accelerator"),
                runtime=f"OpenCL: {platform.name.strip()} {device.driver_version.strip()}",
                units=device.max_compute_units,
                memory=device.global_mem_size,
            )
