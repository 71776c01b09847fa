"""onnxruntime's session, for users who run what `optimize` wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import onnxruntime

from onnxslim_rx.errors import InputError

__all__ = ["InferenceSession"]


class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # it is not typed
    """A session of onnxruntime, with the same methods.

    Args:
        path_or_bytes: the model's file, or its content.
        sess_options: `onnxruntime.SessionOptions`.
        providers: execution providers, as onnxruntime takes them; None: the CPU's.
        device: "auto" or "cpu", see `onnxslim_rx.devices`.
        kwargs: whatever else onnxruntime's own class takes.

    Raises:
        InputError: no such device. Other errors are onnxruntime's own, as code written for its
            class expects them.
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
        if device not in ("auto", "cpu"):
            raise InputError(f"models cannot run on the device {device!r}", expected="auto or cpu")
        super().__init__(
            path_or_bytes, sess_options, providers or ["CPUExecutionProvider"], **kwargs
        )
