"""onnxruntime's session, for users who run what `optimize` wrote."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnxruntime

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, nodes
from onnxslim_rx.runtime.devices import cards
from onnxslim_rx.runtime.native import DOMAIN, Profiler, check_spec, register, uses_domain

__all__ = ["InferenceSession"]

_NAMED = 6
"""So many operators are named in a message."""


class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # it is not typed
    """A session of onnxruntime, with the same methods.

    Operators of the domain `ai.onnxslim.rx` run on the device, all others on the processor. The
    native library is loaded where the model has such operators, and only then.

    Args:
        path_or_bytes: the model's file, or its content.
        sess_options: `onnxruntime.SessionOptions`; they get the native library and its device.
        providers: execution providers, as onnxruntime takes them; None: the CPU's.
        device: "cpu"; "opencl", any OpenCL device, a GPU first; "opencl:P:D", platform and device
            as `onnxslim_rx.devices` numbers them; "auto", what the variable ONNXSLIM_RX_DEVICE
            says, else the first OpenCL GPU, else the processor. An OpenCL device that is asked for
            and not there, or has nothing to do, is an error.
        kwargs: whatever else onnxruntime's own class takes.

    Raises:
        InputError: no such device, a model without an operator for it, or no native library where
            one is needed. Other errors are onnxruntime's own, as code written for its class
            expects them.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        *,
        device: str = "auto",
        **kwargs: Any,
    ) -> None:
        check_spec(device)
        if uses_domain(path_or_bytes):
            sess_options = onnxruntime.SessionOptions() if sess_options is None else sess_options
            register(sess_options, device)
        elif device.startswith("opencl"):
            raise _idle(path_or_bytes, device)
        super().__init__(
            path_or_bytes, sess_options, providers or ["CPUExecutionProvider"], **kwargs
        )

    def profile(self) -> Profiler:
        """Counts the launches of kernels while it is entered; of the whole process.

        `with session.profile() as profile: session.run(...)`, then `profile.read()` gives a
        `Profile`: time, bytes and operations by kernel. Kernels of OpenCL alone are counted.

        Raises:
            InputError: there is no native library; on entering: another profile is being taken.
        """
        return Profiler(dict(cards()))


def _idle(model: str | os.PathLike[str] | bytes, device: str) -> InputError:
    """The device would have nothing to do: the operators of the model, and where each runs."""
    counts = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in nodes(load(model))
    )
    named = [f"{number} {name}" for name, number in counts.most_common(_NAMED)]
    more = f" and {len(counts) - _NAMED} other kinds" if len(counts) > _NAMED else ""
    return InputError(
        f"nothing of this model would run on {device}: it has no operator of {DOMAIN}; "
        f"{', '.join(named) or 'nothing'}{more} would run on the processor",
        advice="make it with 'onnxslim-rx optimize --target rx', or leave the device out",
    )
