"""What is said about models that are not valid."""

from __future__ import annotations

from onnxslim_rx.errors import InputError

__all__ = ["DAMAGED", "EXPORT_ANEW", "invalid"]

EXPORT_ANEW = "the model is not valid ONNX: export it anew, or report it to the tool that wrote it"

DAMAGED = "the file is damaged or was written by a broken tool: get it again or export it anew"


def invalid(found: str, *, expected: str = "", advice: str = EXPORT_ANEW) -> InputError:
    """The error for a model that breaks a rule of ONNX."""
    return InputError(found, expected=expected, advice=advice)
