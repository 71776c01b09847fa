"""Facts about the values of a model that hold for all its inputs: types, shapes, contents."""

from __future__ import annotations

from onnxslim_rx.analysis.facts.dims import Dim, Expr, evaluate
from onnxslim_rx.analysis.facts.engine import Facts

__all__ = ["Dim", "Expr", "Facts", "evaluate"]
