"""The nodes of a weight as a tensor: three products, and what their axes need in between.

Where the number of leading axes is known, `Reshape` copies them (0 stands for "as it was"), so
that they may have any size at run time; else the sizes are taken from the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._linear import (
    contracts_last,
    emit_first,
    emit_second,
    store,
    stored_factors,
    tensor_of,
)
from onnxslim_rx_passes._tensor_forms import Form

__all__ = ["emit", "shapes_are_sliced"]


def shapes_are_sliced(layer: Layer, facts: Facts | None = None) -> bool:
    """Whether sizes of leading axes have to be taken from the tensor.

    Args:
        layer: with a matrix on the right.
        facts: of its model; None: they are found.
    """
    return _leading_axes(layer, facts) is None


def emit(layer: Layer, form: Form, factors: Sequence[Array], tape: ir.tape.Tape) -> ir.Value:
    """What takes the place of the layer's output.

    Args:
        layer: with a matrix on the right.
        form: of its weight.
        factors: three, see `_tensor_forms`.
        tape: takes the nodes.
    """
    p, middle, last = factors
    name, dtype = layer.weight.name, tensor_of(layer.weight).dtype
    names = (f"{name}.p", f"{name}.core", f"{name}.q")
    if form.method == "tucker":
        first, _ = stored_factors(layer, p, last)
        core, _ = stored_factors(layer, middle, last)
        stored = store(tape, [first, core, last], names, dtype)
        rows = emit_first(layer, layer.activation, stored[0], tape)
        return emit_second(layer, emit_first(layer, rows, stored[1], tape), stored[2], tape)
    scale = layer.node.attributes.get_float("alpha", 1.0) if layer.op == "Gemm" else 1.0
    first, _ = stored_factors(layer, p * scale, last)
    stored = store(tape, [first, middle, last], names, dtype)
    rows = emit_first(layer, layer.activation, stored[0], tape)
    if not contracts_last(layer):
        rows = tape.op("Transpose", [rows], {"perm": [1, 0]})
    axes = _Axes(layer, rows, tape)
    if form.method == "cp":
        wide = tape.op("Mul", [axes.reshape(rows, [1, p.shape[1]]), stored[1]])
    else:
        wide = axes.reshape(tape.op("MatMul", [rows, stored[1]]), [form.split, last.shape[0]])
    result = axes.reshape(tape.op("MatMul", [wide, stored[2]]), [form.n])
    return _with_bias(layer, result, tape)


class _Axes:
    """Reshapes that keep all axes of the rows but the last.

    Args:
        layer: the layer.
        rows: (..., R), and
        tape: takes what finds out their leading sizes.
    """

    def __init__(self, layer: Layer, rows: ir.Value, tape: ir.tape.Tape) -> None:
        self._tape = tape
        self._name = f"{layer.weight.name}.shape"
        self._leading = _leading_axes(layer, None)
        self._sizes: ir.Value | None = None
        if self._leading is None:
            start, end = self._constant([0]), self._constant([-1])
            self._sizes = tape.op("Slice", [tape.op("Shape", [rows]), start, end])

    def reshape(self, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
        """`value` with `sizes` in the place of what follows the leading axes of the rows."""
        if self._sizes is not None:
            shape = self._tape.op("Concat", [self._sizes, self._constant(sizes)], {"axis": 0})
        else:
            shape = self._constant([0] * (self._leading or 0) + list(sizes))
        return self._tape.op("Reshape", [value, shape])

    def _constant(self, numbers: Sequence[int]) -> ir.Value:
        return self._tape.initializer(ir.tensor(np.array(numbers, np.int64), name=self._name))


def _leading_axes(layer: Layer, facts: Facts | None) -> int | None:
    """How many axes the rows have in front of their own, or None."""
    if layer.op == "Gemm":
        return 1
    graph = layer.node.graph
    if not isinstance(graph, ir.Graph) or not graph.opset_imports:  # in the body of another node
        return None
    if facts is None:
        facts = Facts(ir.Model(graph, ir_version=10))
    rank = facts.rank(layer.activation)
    return None if rank is None else max(rank - 1, 0)


def _with_bias(layer: Layer, result: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """What Gemm adds."""
    node = layer.node
    bias = node.inputs[2] if layer.op == "Gemm" and len(node.inputs) > 2 else None
    beta = node.attributes.get_float("beta", 1.0)
    if bias is None or beta == 0.0:
        return result
    if beta != 1.0:
        dtype = tensor_of(layer.weight).dtype
        (scale,) = store(tape, [np.array(beta)], [f"{layer.weight.name}.beta"], dtype)
        bias = tape.op("Mul", [bias, scale])
    return tape.op("Add", [result, bias])
