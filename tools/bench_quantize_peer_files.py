"""What other tools quantize, each in a process of its own.

See bench_quantize_peers.py and bench_int8_peers.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from types import ModuleType

import onnx
from onnx import version_converter

from tools import bench_quantize_peers
from tools.bench_run import spend

__all__ = ["OPSET", "Made", "converted", "peer_file"]

OPSET = 21  # with types of 4 bits and blocks


@dataclasses.dataclass(frozen=True)
class Made:
    """What a peer came to: a file, or why there is none; CPU seconds and peak memory, MB."""

    path: Path
    seconds: float
    peak_mb: float
    error: str = ""


def converted(model: Path, work: Path, opset: int = OPSET) -> Path:
    """The model in an opset that all of these tools can work with, made once."""
    found = work / f"opset{opset}.onnx"
    if not found.is_file():
        onnx.save(version_converter.convert_version(onnx.load(model), opset), found)
    return found


@functools.cache
def peer_file(
    name: str,
    python: str,
    model: Path,
    calibrate: Path,
    work: Path,
    script: ModuleType = bench_quantize_peers,
) -> Made:
    """Let a peer of a script, and those it builds upon, quantize in processes of their own.

    What was made by an earlier run is taken from `work`.
    """
    peer, stem = script.PEERS[name], "".join(c if c.isalnum() else "_" for c in name)
    output, told = work / f"peer_{stem}.onnx", work / f"peer_{stem}.json"
    before = Made(model, 0.0, 0.0)
    if peer.after:
        before = peer_file(peer.after, python, model, calibrate, work, script)
        if before.error:
            return before
    if not (told.is_file() and output.is_file()):
        command = [
            python,
            str(script.__file__),
            name,
            *map(str, (model, before.path, calibrate, output)),
        ]
        _, seconds, error = spend(command, output.with_suffix(".log"))
        if error:
            return Made(output, seconds + before.seconds, math.nan, error)
        peak = json.loads(output.with_suffix(".peak").read_text(encoding="utf-8"))
        told.write_text(json.dumps([seconds, peak]), encoding="utf-8")
    seconds, peak = json.loads(told.read_text(encoding="utf-8"))
    return Made(output, seconds + before.seconds, max(peak, before.peak_mb))
