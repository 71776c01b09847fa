"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site

__all__ = ["RULES"]


def _size(shape: Shape | None, axis: int) -> Dim | None:
    return shape[axis] if shape is not None and len(shape) == 3 else None


def _recurrent(states: int) -> Rule:
    """The rule of a layer that returns the whole sequence and so many last states."""

    def rule(site: Site) -> Sequence[Known]:
        x, start, recurrence = site.get(0).shape, site.get(5).shape, site.get(2).shape
        batch_first = bool(site.attribute("layout", 0))
        length = _size(x, 1 if batch_first else 0)
        batch = _size(x, 0 if batch_first else 1)
        if batch is None:
            batch = _size(start, 0 if batch_first else 1)
        hidden = site.attribute("hidden_size")
        if hidden is None:
            hidden = _size(recurrence, 2)
        t, b, h = (fresh() if dim is None else dim for dim in (length, batch, hidden))
        directions = 2 if site.attribute("direction", "forward") == "bidirectional" else 1
        whole: Shape = (b, t, directions, h) if batch_first else (t, directions, b, h)
        last: Shape = (b, directions, h) if batch_first else (directions, b, h)
        dtype = site.get(0).dtype or site.get(1).dtype
        return (Known(dtype, whole), *[Known(dtype, last)] * states)

    return rule


RULES: Mapping[str, Rule] = {
    "GRU": _recurrent(1),
    "LSTM": _recurrent(2),
    "RNN": _recurrent(1),
}
