"""Other shares of a tensor's values that a range cuts off, by which ranges are tuned end to end."""

from __future__ import annotations

from onnxslim_rx.passbase import Stage
from onnxslim_rx_passes._qdq_grids import range_method

__all__ = ["cuts_beside"]

_PERCENT = 99.95  # where another method begins
# Percent of values outside. Below the least hardly a value is; more than the most was never best.
_LEAST, _MOST = 0.003, 13.0
_STEPS = (3.0, 1.5)


def cuts_beside(stage: Stage, *, entering: bool) -> list[Stage]:
    """`stage` with three times, a third, half as many again and two thirds of the values cut off.

    Args:
        stage: of `quantize-static`.
        entering: whether what enters the layer has a range of its own, too.

    Returns:
        Always in the same order, so that what follows from a step in one direction is found in the
        same place; where there is no further step, `stage` itself.
    """
    method = str(stage.options["method"])
    own = str(stage.options.get("entering", method))
    found = [_with(stage, one, own if entering else None) for one in _beside(method)]
    if entering:
        found += [_with(stage, method, one) for one in _beside(own)]
    return found


def _beside(method: str) -> list[str]:
    name, percent = range_method(method)
    outside = 100 - (percent if name == "percentile" else _PERCENT)
    return [
        f"percentile-{100 - other:.8g}" if _LEAST <= other <= _MOST else method
        for step in _STEPS
        for other in (step * outside, outside / step)
    ]


def _with(stage: Stage, method: str, entering: str | None) -> Stage:
    options = {key: value for key, value in stage.options.items() if key != "entering"}
    options["method"] = method
    if entering not in (None, method):
        options["entering"] = entering
    return Stage(stage.pass_name, options)
