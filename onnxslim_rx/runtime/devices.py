"""Which devices models can run on here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime.environment import environment
from onnxslim_rx.runtime.native import library, opencl_libraries

__all__ = ["Device", "Survey", "cards", "devices", "survey"]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of this machine.

    Args:
        name: as the device calls itself.
        kind: "cpu", "gpu" or "accelerator".
        runtime: what runs models on it, with its version.
        units: cores or compute units that this process may use.
        memory: bytes, or None where the system does not tell.
        spec: what `InferenceSession(device=...)` calls it: "cpu" or "opencl:P:D".
        platform: of OpenCL, or "".
        vendor: of the device, or "".
        driver: its version, or "".
        opencl: version of OpenCL, or "".
        local_memory: bytes that a work-group shares; None: not OpenCL.
        fp16: whether it computes in half precision; None: not told.
        architecture: of a recognised GPU, such as "gfx803", or "".
        card: of a recognised GPU, such as "RX 580", or "".
        tuned: families of kernels that have parameters tuned for it.
    """

    name: str
    kind: str
    runtime: str
    units: int
    memory: int | None
    spec: str = "cpu"
    platform: str = ""
    vendor: str = ""
    driver: str = ""
    opencl: str = ""
    local_memory: int | None = None
    fp16: bool | None = None
    architecture: str = ""
    card: str = ""
    tuned: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was looked for, and found.

    Args:
        devices: the processor first, then those of OpenCL.
        tried: OpenCL libraries that were tried, and whether each has a device.
        why: why there is no OpenCL device, with what to do about it; "" where there is one.
    """

    devices: tuple[Device, ...]
    tried: tuple[tuple[str, bool], ...] = ()
    why: str = ""


def devices() -> list[Device]:
    """The processor, through ONNX Runtime; then OpenCL devices, through the native library."""
    return list(survey().devices)


def survey() -> Survey:
    """The devices of this machine, and why there are no more."""
    processor = _processor()
    try:
        answer = library().devices(opencl_libraries())
    except InputError as error:
        return Survey((processor,), (), str(error))
    found = tuple(map(_device, answer.get("devices", ())))
    tried = tuple((str(one["library"]), bool(one["found"])) for one in answer.get("tried", ()))
    why = ""
    if not found:
        reason = f": {answer['error']}" if answer.get("error") else ""
        why = (
            f"no OpenCL device was found{reason}; install the driver of your card, or for the"
            " processor run 'pip install onnxslim-rx[opencl]'"
        )
    return Survey((processor, *found), tried, why)


def cards() -> Mapping[str, str]:
    """Recognised cards, by the name and by the spec of the device."""
    return dict(_cards())


def _cards() -> Iterator[tuple[str, str]]:
    for device in survey().devices:
        if device.card:
            yield device.name, device.card
            yield device.spec, device.card


def _processor() -> Device:
    here = environment()
    return Device(
        name=here["cpu"],
        kind="cpu",
        runtime=f"onnxruntime {here['onnxruntime']}",
        units=int(here["cores"]),
        memory=_memory(),
    )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def _device(table: Mapping[str, Any]) -> Device:
    platform, driver = str(table["platform"]).strip(), str(table["driver"]).strip()
    return Device(
        name=str(table["name"]).strip(),
        kind=str(table["kind"]),
        runtime=f"OpenCL: {platform} {driver}",
        units=int(table["units"]),
        memory=int(table["memory"]),
        spec=f"opencl:{table['platform_index']}:{table['device_index']}",
        platform=platform,
        vendor=str(table["vendor"]).strip(),
        driver=driver,
        opencl=str(table["opencl"]).strip(),
        local_memory=int(table["local_memory"]),
        fp16=bool(table["fp16"]),
        architecture=str(table["architecture"]),
        card=str(table["card"]),
        tuned=tuple(map(str, table.get("tuned", ()))),
    )
