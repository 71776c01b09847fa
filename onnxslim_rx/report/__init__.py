"""What a run measured and did: as data, JSON, HTML page and console tables."""

from __future__ import annotations

from onnxslim_rx.report.curves import SpectrumRow
from onnxslim_rx.report.model import (
    SCHEMA_VERSION,
    BeforeAfter,
    Cosine,
    Environment,
    Latency,
    LayerRow,
    MetricRow,
    PassRow,
    Quality,
    Report,
    Rung,
)

__all__ = [
    "SCHEMA_VERSION",
    "BeforeAfter",
    "Cosine",
    "Environment",
    "Latency",
    "LayerRow",
    "MetricRow",
    "PassRow",
    "Quality",
    "Report",
    "Rung",
    "SpectrumRow",
]
