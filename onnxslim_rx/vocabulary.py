"""Words that several parts share and the command line offers as choices."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "Allocation",
    "CosineStat",
    "FloatType",
    "Level",
    "Minimize",
    "Preset",
    "Rounding",
    "Verify",
    "VerifyMode",
    "WeightForm",
]

Allocation = Literal["program", "lagrangian", "greedy", "uniform"]
Level = Literal["portable", "ort", "rx"]
CosineStat = Literal["mean", "p5", "min"]
FloatType = Literal["float32", "float16"]
Minimize = Literal["latency", "bytes"]
Preset = Literal["safe", "balanced", "small", "fast"]
Rounding = Literal["nearest", "clip", "hqq"]
WeightForm = Literal["nbits", "dequantize-linear"]
VerifyMode = Literal["end", "each", "off"]
Verify = Literal["end", "each"] | None
