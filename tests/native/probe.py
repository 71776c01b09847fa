"""Runs the operator Probe and a product on whatever onnxruntime is found, and prints what they say.

    python probe.py LIBRARY PROBE_MODEL PRODUCT_MODEL

It needs numpy and onnxruntime alone, so that it runs beside old versions of both.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime


def main() -> None:
    """One line of JSON: version, readings, declared shape, product."""
    library, probe, product = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("ai.onnxslim.rx.probe", "1")
    options.add_session_config_entry("ai.onnxslim.rx.device", "cpu")
    options.register_custom_ops_library(library)
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in (probe, product)
    ]
    readings = sessions[0].run(None, {"x": np.array([1, 2, 4.5], np.float32)})[0]
    a = np.arange(40, dtype=np.float32).reshape(2, 20)
    said = {
        "version": onnxruntime.__version__,
        "readings": readings.tolist(),
        "shape": sessions[0].get_outputs()[0].shape,
        "product": sessions[1].run(None, {"A": a})[0].tolist(),
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
