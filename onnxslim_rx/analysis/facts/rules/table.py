"""Which rule belongs to which operator."""

from __future__ import annotations

from collections.abc import Mapping

from onnxslim_rx.analysis.facts.known import Rule
from onnxslim_rx.analysis.facts.rules import (
    contrib,
    elementwise,
    gathering,
    layers,
    movement,
    native,
    products,
    recurrent,
    reductions,
    reshape,
    sizes,
    windows,
)

__all__ = ["CONTRIB", "STANDARD"]

STANDARD: Mapping[str, Rule] = {
    **elementwise.RULES,
    **gathering.RULES,
    **layers.RULES,
    **movement.RULES,
    **products.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **reshape.RULES,
    **sizes.RULES,
    **windows.RULES,
}
"""By operator, those of ONNX itself."""

CONTRIB: Mapping[str, Mapping[str, Rule]] = {
    "com.microsoft": contrib.RULES,
    "ai.onnxslim.rx": native.RULES,
}
"""By domain and operator, those of others."""
