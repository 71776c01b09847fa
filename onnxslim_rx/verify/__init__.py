"""Does a rewritten model still compute the same? Inputs to run it on, and the comparison."""

from __future__ import annotations

from onnxslim_rx.verify.compare import Comparison, OutputError, compare_runs
from onnxslim_rx.verify.inputs import Dataset, generate_inputs
from onnxslim_rx.verify.parts import Run, without_extras

__all__ = [
    "Comparison",
    "Dataset",
    "OutputError",
    "Run",
    "compare_runs",
    "generate_inputs",
    "without_extras",
]
