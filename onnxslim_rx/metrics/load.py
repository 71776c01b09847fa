"""Metrics by name, from the user's file, or given as a function."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.metrics.base import Metric
from onnxslim_rx.metrics.ready import READY

__all__ = ["load_metric", "metric_names"]


def metric_names() -> list[str]:
    """Names of the ready-made metrics."""
    return list(READY)


def load_metric(spec: str | Metric | Callable[..., Any]) -> Metric:
    """The metric that `spec` means.

    Args:
        spec: a ready-made metric's name, `FILE.py:FUNC`, a function `(run, data)`, or a metric.

    Raises:
        InputError: there is no such metric, file or function, or the file cannot be run.
    """
    if isinstance(spec, Metric):
        return spec
    if callable(spec):
        return Metric(getattr(spec, "__name__", type(spec).__name__), function=spec)
    if spec in READY:
        return READY[spec]
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(
            f"there is no metric {spec!r}", expected=", ".join(READY) + " or FILE.py:FUNCTION"
        )
    return Metric(name, function=_function(Path(file), name))


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise InputError(f"there is no file {path} with a metric")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:  # not by the import system, which would leave __pycache__ beside the user's file
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise InputError(f"{path} raised {type(error).__name__}: {reason}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{path} has no function {name!r}", expected="metric(run, data) -> float")
    checked: Callable[..., Any] = function
    return checked
