"""Does a rewritten model still compute the same? Inputs to run it on, and the comparison."""

from __future__ import annotations

from onnxslim_rx.verify.compare import Comparison, OutputError, Run, compare_runs
from onnxslim_rx.verify.inputs import Dataset, generate_inputs

__all__ = ["Comparison", "Dataset", "OutputError", "Run", "compare_runs", "generate_inputs"]
