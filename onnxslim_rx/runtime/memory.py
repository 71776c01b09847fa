"""How much memory a model takes, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import save

__all__ = ["session_memory"]

_SECONDS = 600
_CHILD = """\
import json, resource, sys
import numpy, onnxruntime
def peak():
    # ru_maxrss of a process on Linux starts with that of the process that made it
    try:
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
