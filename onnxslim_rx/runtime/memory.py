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
from onnxslim_rx.runtime.native import config_entries, library, uses_domain

__all__ = ["session_memory"]

_SECONDS = 600
_CHILD = """\
import json, resource, sys
import numpy, onnxruntime

def peak():
    # on Linux, ru_maxrss of a new process starts with that of the process that made it
    try:
        with open("/proc/self/status") as status:
            return next(int(s.split()[1]) * 1024 for s in status if s.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
given = json.loads(sys.argv[3])
for key, value in given["entries"].items():
    options.add_session_config_entry(key, value)
feeds = dict(numpy.load(sys.argv[2]))
before = peak()
for library in given["libraries"]:
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, feeds)
print(json.dumps(peak() - before))
"""


def session_memory(
    model: ir.Model, feeds: Mapping[str, Any], device: str | None = None
) -> int | None:
    """Bytes that loading `model` and running it once add to the peak of a fresh process.

    `device`: see `Runner`.

    None where it cannot be measured: systems without `resource`, inputs that are no plain
    arrays, or a model that needs more than the fresh process has.
    """
    if any(not isinstance(v, np.ndarray) or v.dtype.hasobject for v in feeds.values()):
        return None
    with tempfile.TemporaryDirectory(prefix="onnxslim-rx-") as folder:
        path, data = Path(folder) / "model.onnx", Path(folder) / "feeds.npz"
        try:
            given: dict[str, Any] = {"libraries": [], "entries": {}}
            if uses_domain(model):
                given = {"libraries": [str(library().path)], "entries": config_entries(device)}
            save(model, path)
            np.savez(data, **feeds)
            found = subprocess.run(
                [sys.executable, "-c", _CHILD, str(path), str(data), json.dumps(given)],
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
            return int(json.loads(found.stdout))
        except (InputError, OSError, subprocess.SubprocessError, ValueError):
            return None
