"""What rounding adds to the outputs on average, taken off the bias.

Only where a bias is there to change, and where what some rows of a sample say lowers the error on
the others.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, with the mean of measured errors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant, graphs, marked
from onnxslim_rx.passbase import Layer
from onnxslim_rx.rewriter import Editor, remove

__all__ = ["has_bias", "mean_error", "merge_shifts", "pays"]

Matrix = npt.NDArray[np.float64]

_LESS = 0.99  # of the error, or it was chance


def has_bias(layer: Layer) -> bool:
    """Whether a constant is added to what a product gives: its own, or that of an Add behind it."""
    node = layer.node
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        used = node.attributes.get_float("beta", 1.0) != 0.0
        return used and bias is not None and constant(bias) is not None
    return _row_behind(layer.output) is not None


def mean_error(lost: Matrix) -> Matrix:
    """(N,): the mean of errors (rows, N) of outputs."""
    found: Matrix = lost.mean(axis=0)
    return found


def pays(lost: Matrix) -> bool:
    """Whether the mean of half of the rows makes the errors (rows, N) of the other half less."""
    if len(lost) < 4:
        return False
    before = float(np.linalg.norm(lost[1::2]))
    after = float(np.linalg.norm(lost[1::2] - mean_error(lost[::2])))
    return after < _LESS * before


def merge_shifts(model: ir.Model, by: str) -> None:
    """Let the bias behind a product hold the row that `by` adds to it, in place."""
    editor = Editor(model)
    for graph in graphs(model):
        for node in list(graph):
            if node.op_type != "Add" or marked(node) != by:
                continue
            row = None if node.inputs[1] is None else constant(node.inputs[1])
            behind = _row_behind(node.outputs[0])
            if row is None or behind is None:
                continue
            add, index, bias = behind
            both = row.numpy().astype(np.float64) + bias.numpy()
            old, value = add.inputs[index], node.inputs[0]
            assert value is not None  # an Add has two inputs
            name = "bias" if old is None else str(old.name)
            new = editor.constant(graph, ir.tensor(both.astype(np.float32)), f"{name}.shift")
            add.replace_input_with(index, new)
            add.replace_input_with(1 - index, value)
            shift = node.inputs[1]
            remove(node)
            editor.remove_unused([old, shift])


def _row_behind(value: ir.Value) -> tuple[ir.Node, int, ir.TensorProtocol] | None:
    """The Add of a constant row that alone reads `value`, which input the row is, and the row."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, index = uses[0].node, 1 - uses[0].idx
    if node.op_type != "Add" or node.domain != "" or node.graph is not value.graph:
        return None
    other = node.inputs[index]
    tensor = None if other is None else constant(other)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) > 1:
        return None
    return node, index, tensor
