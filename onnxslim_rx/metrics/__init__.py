"""Metrics of a model on the user's data: ready-made ones by name, and the user's own.

A metric is `metric(run, data) -> float`, higher is better: `run` maps a dictionary of inputs to
one of outputs, `data` is a sequence of samples. A sample is one dictionary of arrays: the model's
inputs, and beside them whatever the metric needs, such as `label`; `run` leaves out what is no
input of the model.
"""

from __future__ import annotations

from onnxslim_rx.metrics.base import Drop, Metric, Score, bootstrap
from onnxslim_rx.metrics.load import load_metric, metric_names

__all__ = ["Drop", "Metric", "Score", "bootstrap", "load_metric", "metric_names"]
