"""ONNX's own inference for one node, for operators without a rule here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.known import Known, Site

__all__ = ["Fallback"]

_WRONG = {"STFT"}
"""Operators whose inference in ONNX 1.23 contradicts its own reference implementation."""

_DIFFERENT = (48, 16)
_EQUAL = (48, 0)
"""First number and step; many numbers divide them, as some operators ask of sizes."""

_LARGEST = 64
"""Constants with more elements are not shown: none of them determines a shape."""


class Fallback:
    """Answers of ONNX's inference; the same question is asked once."""

    def __init__(self) -> None:
        self._answers: dict[object, list[onnx.TypeProto | None]] = {}

    def __call__(self, site: Site) -> Sequence[Known]:
        """What ONNX says of the outputs; nothing where it raises or knows no such operator."""
        if site.node.op_type in _WRONG:
            return ()
        proto = _proto(site.node)
        if proto is None:
            return ()
        symbols: dict[Dim, str] = {}
        types = [_type(known, symbols) for known in site.inputs]
        data = {}
        for index, name in enumerate(proto.input):
            tensor = _data(site, index) if name else None
            if tensor is not None:
                data[name] = tensor
        key = (
            proto.SerializeToString(deterministic=True),
            site.version,
            tuple(one.SerializeToString(deterministic=True) for one in types),
            tuple((name, one.SerializeToString()) for name, one in data.items()),
        )
        answer = self._answers.get(key)
        if answer is None:
            answer = _ask(proto, site.version, types, data)
            if symbols:
                answer = _confirmed(answer, proto, site.version, types, data)
            self._answers[key] = answer
        sizes = {name: dim for dim, name in symbols.items()}
        return [_known(one, sizes) for one in answer]


def _ask(
    proto: onnx.NodeProto,
    version: int,
    types: Iterable[onnx.TypeProto],
    data: dict[str, onnx.TensorProto],
) -> list[onnx.TypeProto | None]:
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            proto,
            {name: one for name, one in zip(proto.input, types, strict=True) if name},
            data,
            opset_imports=[onnx.OperatorSetIdProto(domain=proto.domain, version=version)],
        )
    except Exception:  # noqa: BLE001  (unknown operator, invalid node: C++ raises several types)
        return []
    return [found.get(name) for name in proto.output]


def _confirmed(
    answer: list[onnx.TypeProto | None],
    proto: onnx.NodeProto,
    version: int,
    types: Sequence[onnx.TypeProto],
    data: dict[str, onnx.TensorProto],
) -> list[onnx.TypeProto | None]:
    """What of an answer about symbols holds for numbers too.

    Inference of several operators takes a symbol for 0. It is asked again with numbers in the
    place of symbols, different ones or else equal ones, and sizes that come out otherwise are
    dropped.
    """
    for steps in (_DIFFERENT, _EQUAL):
        values: dict[str, int] = {}
        tried = [_numbered(one, values, steps) for one in types]
        found = _ask(proto, version, tried, data)
        if found:
            return [
                one if one is None or other is None else _agreed(one, other, values)
                for one, other in zip(answer, found, strict=False)
            ]
    return [None if one is None else _agreed(one, None, {}) for one in answer]


def _numbered(
    proto: onnx.TypeProto, values: dict[str, int], steps: tuple[int, int]
) -> onnx.TypeProto:
    """The type with numbers for symbols, which are noted in `values`."""
    copy = onnx.TypeProto()
    copy.CopyFrom(proto)
    for dim in copy.tensor_type.shape.dim if proto.tensor_type.HasField("shape") else ():
        if dim.dim_param:
            start, step = steps
            dim.dim_value = values.setdefault(dim.dim_param, start + step * len(values))
    return copy


def _agreed(
    proto: onnx.TypeProto, found: onnx.TypeProto | None, values: dict[str, int]
) -> onnx.TypeProto:
    """The type without sizes that are not as in `found`; without all numbers if that is None."""
    tensor = proto.tensor_type
    if found is None or len(found.tensor_type.shape.dim) != len(tensor.shape.dim):
        for dim in tensor.shape.dim:
            if dim.HasField("dim_value"):
                dim.Clear()
        return proto
    for dim, other in zip(tensor.shape.dim, found.tensor_type.shape.dim, strict=True):
        size = dim.dim_value if dim.HasField("dim_value") else values.get(dim.dim_param)
        if other.HasField("dim_value") and size is not None and size != other.dim_value:
            dim.Clear()
    return proto


def _proto(node: ir.Node) -> onnx.NodeProto | None:
    """The node with inputs i0, i1, ... and outputs o0, o1, ...; None for one with a body."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    proto.input.extend("" if v is None else f"i{i}" for i, v in enumerate(node.inputs))
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        proto.attribute.append(ir.to_proto(attribute))
    return proto


def _type(known: Known, symbols: dict[Dim, str]) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if known.dtype is None:
        return proto
    proto.tensor_type.elem_type = int(known.dtype)
    if known.shape is not None:
        proto.tensor_type.shape.SetInParent()  # a rank of 0 is known too
        for size in known.shape:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = symbols.setdefault(size, f"d{len(symbols)}")
    return proto


def _data(site: Site, index: int) -> onnx.TensorProto | None:
    known = site.get(index)
    array = site.array(index)
    if array is None:
        contents = site.numbers(index)
        if contents is None or known.dtype is None or known.shape is None:
            return None
        array = np.array(contents, known.dtype.numpy()).reshape(() if not known.shape else -1)
    if array.size > _LARGEST or known.dtype is None or known.dtype.bitwidth < 8:
        return None
    return onnx.numpy_helper.from_array(np.array(array))


def _known(proto: onnx.TypeProto | None, sizes: dict[str, Dim]) -> Known:
    if proto is None or not proto.HasField("tensor_type"):
        return Known()
    tensor = proto.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Known(dtype)
    shape = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            shape.append(dim.dim_value)
        else:
            shape.append(sizes.get(dim.dim_param) or fresh())
    return Known(dtype, tuple(shape))
