"""Shapes: as symbols for a whole model, as numbers for given inputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone
from onnxslim_rx.ir.serial import place

__all__ = ["BATCH", "OTHER", "Binding", "Shape", "bind", "infer_shapes"]

_log = logging.getLogger(__name__)

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where a size is not known."""

BATCH = 1
"""Assumed size of a batch dimension: a symbolic first axis, or one that is called batch."""
OTHER = 128
"""Assumed size of any other symbolic dimension: sequence length, height, width."""
_BATCH_NAMES = {"b", "n", "bs", "batch", "batch_size", "batchsize", "batch_dim"}


def infer_shapes(model: ir.Model) -> ir.Model:
    """A copy of the model whose values carry the types and shapes that ONNX infers.

    Weights above 1 KB are kept out of the inference, so that models above 2 GB pass. Where the
    inference fails as a whole, the copy carries what the model itself states.
    """
    annotated = clone(model)
    proto, _ = place(annotated, "weights")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # noqa: BLE001  (C++ raises several types, on invalid models)
        _log.info("shape inference failed: %s", error)
        return annotated
    _annotate(annotated.graph, inferred.graph)
    bodies = {(f.domain, f.name): f for f in inferred.functions}
    for function in annotated.functions.values():
        body = bodies.get((function.domain, function.name))
        if body is not None:
            _annotate(function, body)
    return annotated


def _annotate(graph: Iterable[ir.Node], proto: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Copy what was inferred for the nodes of `proto` to the same nodes of `graph`."""
    infos = [*proto.value_info, *(proto.output if isinstance(proto, onnx.GraphProto) else ())]
    types = {info.name: info.type for info in infos if info.type.HasField("tensor_type")}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if value.name in types:
                _set(value, types[value.name])
        bodies = {a.name: a.g for a in node_proto.attribute if a.HasField("g")}
        for name, body in bodies.items():
            _annotate(node.attributes[name].as_graph(), body)


def _set(value: ir.Value, proto: onnx.TypeProto) -> None:
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    if shape is not None and (value.shape is None or len(value.shape) != len(shape)):
        value.shape = shape
    elif shape is not None:
        value.merge_shapes(shape)


@dataclasses.dataclass(frozen=True)
class Binding:
    """Sizes for the inputs of a model.

    Args:
        shapes: shape of every graph input that is a tensor, by name, without unknowns.
        symbols: sizes of the symbolic dimensions, by name.
        assumed: those of `symbols`, and of unnamed dimensions as "input[axis]", that were not
            given: `BATCH` for batches, `OTHER` for all others.
    """

    shapes: Mapping[str, tuple[int, ...]]
    symbols: Mapping[str, int]
    assumed: Mapping[str, int]


def bind(model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Binding:
    """Give every symbolic dimension of the inputs a size.

    Args:
        model: the model; inputs that are initializers too keep the initializer's shape.
        input_shapes: shape by input name; sizes not given follow from equal symbols, or are
            assumed.

    Raises:
        InputError: a name, rank or size in `input_shapes` that contradicts the model.
    """
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    inputs = {v.name: v for v in model.graph.inputs if v.name and not v.is_initializer()}
    for name in given:
        if name not in inputs:
            raise InputError(f"the model has no input {name!r}", expected=", ".join(inputs))
    symbols: dict[str, int] = {}
    for name, shape in given.items():
        symbols.update(_match(name, inputs[name].shape, shape))
    assumed: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in inputs.items():
        if name in given:
            shapes[name] = given[name]
        elif value.shape is not None:
            shapes[name] = tuple(_sizes(name, value.shape, symbols, assumed))
    return Binding(shapes, symbols, assumed)


def _match(name: str, shape: ir.Shape | None, given: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Symbols of `shape` and their sizes."""
    if shape is None:
        return
    if len(shape) != len(given) or any(
        isinstance(dim, int) and dim != size for dim, size in zip(shape, given, strict=True)
    ):
        raise InputError(f"shape {list(given)} given for input {name!r}", expected=str(shape))
    for dim, size in zip(shape, given, strict=True):
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            yield str(dim.value), size


def _sizes(
    name: str, shape: ir.Shape, symbols: dict[str, int], assumed: dict[str, int]
) -> Iterator[int]:
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            yield dim
            continue
        symbol = str(dim.value) if dim.value is not None else None
        if symbol is not None and symbol in symbols:
            yield symbols[symbol]
            continue
        batch = axis == 0 or (symbol or "").lower() in _BATCH_NAMES
        size = BATCH if batch else OTHER
        assumed[symbol if symbol is not None else f"{name}[{axis}]"] = size
        if symbol is not None:
            symbols[symbol] = size
        yield size
