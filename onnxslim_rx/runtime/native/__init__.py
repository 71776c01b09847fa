"""The native library: where it lies, what it finds, and how sessions get it.

Nothing here opens a session, and nothing is loaded before it is asked for.
"""

from __future__ import annotations

from onnxslim_rx.runtime.native.checks import Check, SelfTest, selftest
from onnxslim_rx.runtime.native.opencl import opencl_libraries
from onnxslim_rx.runtime.native.profile import KernelRow, Profile, Profiler, Transfers
from onnxslim_rx.runtime.native.registration import (
    DEVICES,
    DOMAIN,
    check_device,
    check_spec,
    config_entries,
    register,
)
from onnxslim_rx.runtime.native.shared_object import Library, library, library_path
from onnxslim_rx.runtime.native.uses import uses_domain

__all__ = [
    "DEVICES",
    "DOMAIN",
    "Check",
    "KernelRow",
    "Library",
    "Profile",
    "Profiler",
    "SelfTest",
    "Transfers",
    "check_device",
    "check_spec",
    "config_entries",
    "library",
    "library_path",
    "opencl_libraries",
    "register",
    "selftest",
    "uses_domain",
]
