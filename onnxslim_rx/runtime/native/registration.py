"""How a session gets the native library, and is told its device."""

from __future__ import annotations

import os
import re
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime.environment import version
from onnxslim_rx.runtime.native.opencl import opencl_libraries
from onnxslim_rx.runtime.native.shared_object import Library, library
from onnxslim_rx.runtime.native.uses import DOMAIN

__all__ = [
    "DEVICES",
    "DOMAIN",
    "check_device",
    "check_spec",
    "config_entries",
    "register",
    "wants_opencl",
]

DEVICES = "auto, cpu, opencl or opencl:P:D (platform and device, see 'onnxslim-rx devices')"
"""What can be asked for."""

_SPEC = re.compile(r"auto|cpu|opencl(:\d{1,3}:\d{1,3})?")
_VARIABLE = "ONNXSLIM_RX_DEVICE"
_OLDEST = (1, 17)
_DEVICE, _OPENCL = f"{DOMAIN}.device", f"{DOMAIN}.opencl"
_REGISTERED = f"{DOMAIN}.registered"


def check_spec(device: str) -> None:
    """Check how a device is named.

    Raises:
        InputError: it is none of `DEVICES`.
    """
    if not _SPEC.fullmatch(device):
        raise InputError(f"models cannot run on the device {device!r}", expected=DEVICES)


def check_device(device: str) -> None:
    """Check that there is such a device.

    Raises:
        InputError: it is none of `DEVICES`; or it is one of OpenCL, and there is none such.
    """
    check_spec(device)
    if wants_opencl(device):
        _check_opencl(library(), _effective(device))


def wants_opencl(device: str | None) -> bool:
    """Whether OpenCL is asked for: by `device`, or where it leaves it open by the environment."""
    return _effective(device).startswith("opencl")


def _effective(device: str | None) -> str:
    return os.environ.get(_VARIABLE, "auto") if device in (None, "auto") else str(device)


def config_entries(device: str | None) -> dict[str, str]:
    """Entries of the configuration of a session that choose the device.

    Args:
        device: see `DEVICES`; None and "auto": as the variable ONNXSLIM_RX_DEVICE says, else the
            first GPU of OpenCL, else the processor.
    """
    entries = {} if device in (None, "auto") else {_DEVICE: str(device)}
    # "auto" takes no OpenCL of processors: loading one would cost half a second for nothing
    if wants_opencl(device) and (libraries := opencl_libraries()):
        entries[_OPENCL] = libraries
    return entries


def register(options: Any, device: str | None = None) -> None:
    """Let sessions with these options run operators of our domain.

    Options that have the library keep it.

    Args:
        options: `onnxruntime.SessionOptions`; changed in place.
        device: see `config_entries`.

    Raises:
        InputError: no library, onnxruntime is too old, no such device, or the options already have
            the library with another device. Whatever else onnxruntime raises when it loads the
            library is its own.
    """
    if device is not None:
        check_spec(device)
    own, wanted = library(), _effective(device)
    if version() < _OLDEST:
        raise InputError(
            "custom operators need onnxruntime "
            + ".".join(map(str, _OLDEST))
            + f"; {'.'.join(map(str, version()))} is installed",
            advice="pip install --upgrade onnxruntime",
        )
    before = _entry(options, _REGISTERED)
    if before == wanted:
        return
    if before:
        raise InputError(
            f"these session options belong to the device {before!r}, not to {wanted!r}",
            advice="make new ones for another device",
        )
    if wants_opencl(device):
        _check_opencl(own, wanted)
    for key, value in config_entries(device).items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(os.fspath(own.path))
    options.add_session_config_entry(_REGISTERED, wanted)


def _entry(options: Any, key: str) -> str:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:  # how onnxruntime says that there is none
        return ""


def _check_opencl(own: Library, device: str) -> None:
    """OpenCL that was asked for must be there: nothing else takes its place."""
    answer = own.devices(opencl_libraries())
    found = answer.get("devices", [])
    if not found:
        tried = "; ".join(
            f"{one['library']} ({'no device' if one['found'] else 'not found'})"
            for one in answer.get("tried", [])
        )
        why = f" ({answer['error']})" if answer.get("error") else ""
        raise InputError(
            f"there is no OpenCL device{why}: tried {tried or 'nothing'}",
            advice="install the driver of your card, or for the processor run"
            " 'pip install onnxslim-rx[opencl]'",
        )
    known = [f"opencl:{one['platform_index']}:{one['device_index']}" for one in found]
    if device != "opencl" and device not in known:
        raise InputError(
            f"there is no device {device}",
            expected="one of "
            + ", ".join(f"{spec} ({one['name']})" for spec, one in zip(known, found, strict=True)),
        )
