"""What is known of a value, and of a node's outputs given its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxslim_rx.analysis.shapes import Shape

__all__ = [
    "UNKNOWN",
    "Known",
    "evaluate",
    "infer",
    "merge",
    "slice_of",
    "stack",
    "tensor_type",
]

_SMALL = 2048
"""Tensors of more elements are not evaluated: no shape arithmetic is that long."""
_RANDOM = {
    "Bernoulli", "Dropout", "Multinomial",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip

Array = npt.NDArray[Any]


class Known(NamedTuple):
    """What is known of a value.

    Args:
        type: its ONNX type; empty where nothing is known.
        data: its elements, where they are few and do not depend on activations.
    """

    type: onnx.TypeProto
    data: Array | None = None

    @property
    def shape(self) -> Shape | None:
        """Its sizes; None where the rank is not known or the value is no tensor."""
        tensor = self.type.tensor_type
        if not tensor.HasField("shape"):
            return None
        dims = tensor.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)

    @property
    def dtype(self) -> ir.DataType | None:
        """The type of its elements."""
        return ir.DataType(self.type.tensor_type.elem_type) or None

    @classmethod
    def tensor(cls, tensor: ir.TensorProtocol) -> Known:
        """What a stored tensor says."""
        small = tensor.size <= _SMALL and tensor.dtype != ir.DataType.STRING
        data = tensor.numpy() if small and tensor.dtype.bitwidth >= 8 else None
        return cls(tensor_type(tensor.dtype, tuple(tensor.shape.numpy())), data)


UNKNOWN = Known(onnx.TypeProto())


def tensor_type(dtype: ir.DataType | None, shape: Shape | None) -> onnx.TypeProto:
    """The ONNX type of a tensor; empty where not even the type of its elements is known."""
    proto = onnx.TypeProto()
    if dtype is None:
        return proto
    proto.tensor_type.elem_type = int(dtype)
    if shape is not None:
        dims = proto.tensor_type.shape.dim  # touching it makes the rank known, also rank 0
        proto.tensor_type.shape.SetInParent()
        for size in shape:
            dim = dims.add()
            if size is not None:
                dim.dim_value = size
    return proto


def merge(a: Known, b: Known) -> Known:
    """What holds for a value that is either `a` or `b`."""
    if a.type == b.type:
        same = a.data is not None and b.data is not None and np.array_equal(a.data, b.data)
        return a if same else Known(a.type)
    left, right = a.shape, b.shape
    if a.dtype != b.dtype or left is None or right is None or len(left) != len(right):
        return Known(tensor_type(a.dtype, None)) if a.dtype == b.dtype else UNKNOWN
    shape = tuple(x if x == y else None for x, y in zip(left, right, strict=True))
    return Known(tensor_type(a.dtype, shape))


def slice_of(known: Known, axis: int) -> Known:
    """What holds for one slice along `axis`."""
    if known.shape is None:
        return known
    axis %= len(known.shape)
    return Known(tensor_type(known.dtype, known.shape[:axis] + known.shape[axis + 1 :]))


def stack(known: Known, times: int | None, axis: int) -> Known:
    """What holds for `times` slices put together along `axis`."""
    if known.shape is None:
        return known
    axis %= len(known.shape) + 1
    return Known(tensor_type(known.dtype, (*known.shape[:axis], times, *known.shape[axis:])))


def infer(proto: onnx.NodeProto, opset: int, inputs: Sequence[Known]) -> list[Known]:
    """Types of the outputs of a standard operator, and their elements where they are few.

    Args:
        proto: the node; its inputs are named "i0", "i1", ..., its outputs "o0", "o1", ...
        opset: version of the operator set of its domain.
        inputs: what is known of its inputs, in order.
    """
    pairs = [(n, k) for n, k in zip(proto.input, inputs, strict=True) if n]
    imports = [onnx.OperatorSetIdProto(domain=proto.domain, version=opset)]
    try:
        data = {n: onnx.numpy_helper.from_array(k.data, n) for n, k in pairs if k.data is not None}
        schema = onnx.defs.get_schema(proto.op_type, opset, proto.domain)
        types = onnx.shape_inference.infer_node_outputs(
            schema, proto, {n: k.type for n, k in pairs}, data, opset_imports=imports
        )
    except Exception:  # noqa: BLE001  (unknown operator, invalid node: C++ raises several types)
        types = {}
    found = [Known(types.get(name, UNKNOWN.type)) for name in proto.output]
    if all(known.data is not None for _, known in pairs) and all(map(_is_small, found)):
        arrays = evaluate(proto, opset, {n: k.data for n, k in pairs if k.data is not None})
        found = [Known(k.type, array) for k, array in zip(found, arrays, strict=True)]
    return found


def _is_small(known: Known) -> bool:
    shape = known.shape
    if shape is None or None in shape:
        return False
    return int(np.prod([size or 0 for size in shape], dtype=np.float64)) <= _SMALL


def evaluate(proto: onnx.NodeProto, opset: int, feeds: dict[str, Array]) -> Sequence[Array | None]:
    """The node's outputs by ONNX's reference implementation; None where it has none."""
    unknown = [None] * len(proto.output)
    if proto.op_type in _RANDOM:
        return unknown
    graph = onnx.GraphProto(name="one", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(graph, opsets={proto.domain: opset}).run(None, feeds)
    except Exception:  # noqa: BLE001  (the reference raises whatever numpy does)
        return unknown
    return [array if isinstance(array, np.ndarray) else None for array in results]
