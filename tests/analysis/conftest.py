"""Models in ONNX's text syntax, with weights from numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest


def _build(inputs, body, *, functions="", version=17, **weights) -> ir.Model:
    """The model `(inputs) => (y)`, its weights float32 ones of a shape, or arrays."""
    text = f"""<ir_version: 8, opset_import: ["": {version}, "f": 1, "own": 1, "com.microsoft": 1]>
        g ({inputs}) => (y) {{ {body} }} {functions}"""
    proto = onnx.parser.parse_model(text)
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else np.ones(weight, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@pytest.fixture(scope="session")
def build():
    return _build
