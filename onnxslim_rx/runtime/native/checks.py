"""A few small products on a device, compared with what they must be."""

from __future__ import annotations

import dataclasses

from onnxslim_rx.runtime.native.opencl import opencl_libraries
from onnxslim_rx.runtime.native.registration import check_spec
from onnxslim_rx.runtime.native.shared_object import library

__all__ = ["Check", "SelfTest", "selftest"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: what was computed.
        ok: whether it came out as it must.
        error: what went wrong, or "".
    """

    name: str
    ok: bool
    error: str = ""


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What the self-test of a device gave.

    Args:
        ok: whether all checks passed.
        seconds: how long it took.
        checks: one by one.
    """

    ok: bool
    seconds: float
    checks: tuple[Check, ...] = ()

    @property
    def errors(self) -> list[str]:
        """What went wrong, one sentence each."""
        return [f"{one.name}: {one.error or 'wrong result'}" for one in self.checks if not one.ok]


def selftest(device: str) -> SelfTest:
    """Test a device; takes at most about two seconds, once its kernels are compiled.

    Args:
        device: "cpu" or "opencl:P:D".

    Raises:
        InputError: no native library, or no such way to name a device.
    """
    check_spec(device)
    answer = library().selftest(device, opencl_libraries())
    checks = tuple(
        Check(str(one["name"]), bool(one["ok"]), str(one.get("error", "")))
        for one in answer.get("checks", ())
    )
    return SelfTest(bool(answer["ok"]), float(answer["seconds"]), checks)
