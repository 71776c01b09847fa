"""The last aim of a search is tried where those before it found nothing."""

from __future__ import annotations

import math

import onnxslim_rx as rx
from onnxslim_rx.ir import load, size_bytes
from onnxslim_rx.planner import make
from onnxslim_rx.planner.aims import aims


def test_what_folds_is_left_where_nothing_else_is_found(root, monkeypatch):
    def nothing(pick):
        return math.inf if any(pick.choices) else pick.bytes

    monkeypatch.setattr(make, "aims", lambda *given: [nothing, aims(*given)[-1]])
    model = root / "models" / "digits.onnx"
    found = rx.optimize(
        model,
        calibration=root / "models" / "digits_calibration.npz",
        budget=rx.Budget(min_cosine=0.99, minimize="bytes"),
        only=("quantize-weights",),
        progress=False,
    )
    assert found.plan.changes
    assert size_bytes(found.model) < 0.5 * size_bytes(load(model))
