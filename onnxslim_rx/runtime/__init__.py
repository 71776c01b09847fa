"""Running models: the only place that imports onnxruntime."""

from __future__ import annotations

from onnxslim_rx.runtime.compat import check_onnxruntime, least_onnxruntime
from onnxslim_rx.runtime.devices import Device, Survey, cards, devices, survey
from onnxslim_rx.runtime.environment import environment, version
from onnxslim_rx.runtime.inference import InferenceSession
from onnxslim_rx.runtime.native import (
    Profile,
    Profiler,
    SelfTest,
    check_device,
    library_path,
    selftest,
    uses_domain,
)
from onnxslim_rx.runtime.session import Runner, default_threads, evaluate, set_default_threads
from onnxslim_rx.runtime.specs import TensorSpec
from onnxslim_rx.runtime.state import check_state, guess_state
from onnxslim_rx.runtime.timing import Timing, time_interleaved

__all__ = [
    "Device",
    "InferenceSession",
    "Profile",
    "Profiler",
    "Runner",
    "SelfTest",
    "Survey",
    "TensorSpec",
    "Timing",
    "cards",
    "check_device",
    "check_onnxruntime",
    "check_state",
    "default_threads",
    "devices",
    "environment",
    "evaluate",
    "guess_state",
    "least_onnxruntime",
    "library_path",
    "selftest",
    "set_default_threads",
    "survey",
    "time_interleaved",
    "uses_domain",
    "version",
]
