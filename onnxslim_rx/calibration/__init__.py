"""Calibration: the user's data, and what it says about the inputs of layers."""

from __future__ import annotations

from onnxslim_rx.calibration.channelwise import ChannelMoments
from onnxslim_rx.calibration.collect import MEMORY_BYTES, collect
from onnxslim_rx.calibration.data import (
    Calibration,
    Source,
    from_callable,
    from_dir,
    from_npz,
    load_data,
)
from onnxslim_rx.calibration.feeds import conform, fed
from onnxslim_rx.calibration.patches import Patches
from onnxslim_rx.calibration.samples import Dataset, Samples, Steps
from onnxslim_rx.calibration.split import Split, split
from onnxslim_rx.calibration.stateful import Stateful
from onnxslim_rx.calibration.statistics import Statistics
from onnxslim_rx.calibration.tandem import Moments, Stop, walk

__all__ = [
    "MEMORY_BYTES",
    "Calibration",
    "ChannelMoments",
    "Dataset",
    "Moments",
    "Patches",
    "Samples",
    "Source",
    "Split",
    "Stateful",
    "Statistics",
    "Steps",
    "Stop",
    "collect",
    "conform",
    "fed",
    "from_callable",
    "from_dir",
    "from_npz",
    "load_data",
    "split",
    "walk",
]
