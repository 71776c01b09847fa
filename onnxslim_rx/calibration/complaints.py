"""What is said of a model that computes what cannot be measured."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx.errors import InputError

__all__ = ["not_finite"]


def not_finite(value: ir.Value, where: str) -> InputError:
    """NaN or infinity at `value`; `where` names the sample."""
    return InputError(
        f"the model computes NaN or infinity at {value.name!r} on {where}",
        expected="finite activations on calibration data",
        advice="check how the data was preprocessed, and the original model on it",
    )
