"""Memory of a session against what its weights must take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim_rx.runtime.memory import session_memory


def test_a_model_takes_at_least_its_weights_and_not_many_times_as_much():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]>\n'
        "g (float[1, 4096] x) => (float[1, 4096] y) { y = MatMul(x, w) }"
    )
    (value,) = {v for node in model.graph for v in node.inputs if v and v.name == "w"}
    weight = np.ones((4096, 4096), np.float32)  # 64 MiB
    value.const_value = ir.tensor(weight, name="w")
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.shape)
    model.graph.register_initializer(value)
    found = session_memory(model, {"x": np.ones((1, 4096), np.float32)})
    assert found is not None
    # the file, the weight and its packed copy
    assert weight.nbytes <= found <= 4 * weight.nbytes


def test_inputs_that_are_no_arrays_are_not_measured():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]>\ng (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    assert session_memory(model, {"x": [1.0]}) is None
