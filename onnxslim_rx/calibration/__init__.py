"""Calibration: the user's data, and what it says about the inputs of layers."""

from __future__ import annotations

from onnxslim_rx.calibration.collect import collect
from onnxslim_rx.calibration.data import (
    Calibration,
    Dataset,
    Samples,
    Source,
    from_callable,
    from_dir,
    from_npz,
    load_data,
)
from onnxslim_rx.calibration.feeds import conform, fed
from onnxslim_rx.calibration.split import Split, split
from onnxslim_rx.calibration.statistics import Statistics

__all__ = [
    "Calibration",
    "Dataset",
    "Samples",
    "Source",
    "Split",
    "Statistics",
    "collect",
    "conform",
    "fed",
    "from_callable",
    "from_dir",
    "from_npz",
    "load_data",
    "split",
]
