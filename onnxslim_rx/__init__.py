"""Make ONNX models smaller and faster, and keep a promise about their quality.

Public names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim_rx import calibration as calibration
    from onnxslim_rx import passes as passes
    from onnxslim_rx.api import (
        Result,
        bench,
        compare,
        dequantize,
        inspect,
        optimize,
        plan,
        quantize,
        simplify,
    )
    from onnxslim_rx.errors import BudgetError, InputError, OnnxslimError, VerificationError
    from onnxslim_rx.manager import PassManager
    from onnxslim_rx.plans import Budget, Plan
    from onnxslim_rx.runtime import InferenceSession, devices

__all__ = [
    "Budget",
    "BudgetError",
    "InferenceSession",
    "InputError",
    "OnnxslimError",
    "PassManager",
    "Plan",
    "Result",
    "VerificationError",
    "__version__",
    "bench",
    "calibration",
    "compare",
    "dequantize",
    "devices",
    "inspect",
    "optimize",
    "passes",
    "plan",
    "quantize",
    "simplify",
]

_HOMES = {
    "Budget": "plans",
    "BudgetError": "errors",
    "InferenceSession": "runtime",
    "InputError": "errors",
    "OnnxslimError": "errors",
    "PassManager": "manager",
    "Plan": "plans",
    "Result": "api",
    "VerificationError": "errors",
    "bench": "api",
    "compare": "api",
    "dequantize": "api",
    "devices": "runtime",
    "inspect": "api",
    "optimize": "api",
    "plan": "api",
    "quantize": "api",
    "simplify": "api",
}


def __getattr__(name: str) -> Any:
    if name in ("calibration", "passes"):
        return importlib.import_module(f"onnxslim_rx.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"onnxslim_rx.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("onnxslim-rx")
    raise AttributeError(f"module 'onnxslim_rx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
