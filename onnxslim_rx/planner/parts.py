"""Parts of a model as models of their own, whose weights are those of the whole, not copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration.dependence import closure, reads
from onnxslim_rx.errors import InputError

__all__ = ["Entering", "extract", "open_weights"]

_LEAST_IR_VERSION = 4  # the first whose initializers need not be inputs


@dataclasses.dataclass(frozen=True)
class Entering:
    """What a tensor that enters a part is like.

    Args:
        dtype: type of its elements.
        shape: its sizes; None where they differ from run to run.
    """

    dtype: ir.DataType
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, arrays: Sequence[npt.NDArray[np.generic]]) -> Entering:
        """What is common to arrays of one rank and type, at least one."""
        sizes = zip(*(array.shape for array in arrays), strict=True)
        shape = (one[0] if len(set(one)) == 1 else None for one in sizes)
        return cls(ir.DataType.from_numpy(arrays[0].dtype), tuple(shape))


def extract(
    model: ir.Model,
    graph: ir.Graph,
    entering: Mapping[ir.Value, Entering | None],
    outputs: Sequence[ir.Value],
) -> ir.Model:
    """What makes `outputs` from `entering`, as a model; names stay.

    Args:
        model: lends versions and functions.
        graph: the graph of the part: the main one, or a body.
        entering: values that become inputs where they are read, and what they are like; None: as
            the value says itself.
        outputs: what it gives, each made by a node of `graph`.

    Raises:
        InputError: something else would have to be given, too.
    """
    read_by = {node: tuple(reads(node, graph)) for node in graph}
    needed = closure(outputs, read_by, lambda value: value in entering or value.graph is not graph)
    nodes = [node for node in graph if node in needed]
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in read_by[node])
    outside = [value for value in read if value not in made]
    inputs = [value for value in outside if value in entering]
    weights = [value for value in outside if value not in entering and value.is_initializer()]
    missing = [v.name for v in outside if v not in entering and not v.is_initializer()]
    if missing:
        raise InputError(f"nothing is given for {missing[0]!r}, which a part of the model reads")
    view = ir.GraphView(
        inputs,
        outputs,
        nodes=nodes,
        initializers=weights,
        opset_imports=dict(model.opset_imports),
        name="part",
    )
    copy = view.clone()
    for original, value in zip(inputs, copy.inputs, strict=True):
        known = entering[original]
        if known is not None:
            value.type, value.shape = ir.TensorType(known.dtype), ir.Shape(known.shape)
    part = ir.Model(
        copy,
        ir_version=max(model.ir_version, _LEAST_IR_VERSION),
        functions=tuple(model.functions.values()),
    )
    part.meta.update(model.meta)
    return part


def open_weights(model: ir.Model, names: Iterable[str]) -> None:
    """Make initializers of the main graph inputs that have defaults, in place."""
    for name in names:
        value = model.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None  # initializers of a loaded model have data
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        if not value.is_graph_input():
            model.graph.inputs.append(value)
