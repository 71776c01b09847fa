"""Load a model from whatever the user has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.check import check_structure
from onnxslim_rx.ir.content import chunks
from onnxslim_rx.ir.files import read_proto
from onnxslim_rx.ir.held import keep_types, take_types
from onnxslim_rx.ir.invalid import DAMAGED, invalid
from onnxslim_rx.ir.kinds import ModelLike, graphsurgeon, kind_of
from onnxslim_rx.ir.mapped import Bytes, MappedTensor, map_file
from onnxslim_rx.ir.serial import skeleton
from onnxslim_rx.ir.spool import Spool, is_large
from onnxslim_rx.ir.tensors import check_tensors, find_data
from onnxslim_rx.ir.walk import SOURCES, SPOOL, clone, nodes, replace_tensors, seal, tensors

__all__ = ["load"]


def load(model: ModelLike) -> onnx_ir.Model:
    """A new, checked model; external data stays in its files and is paged in on access.

    Of large models (`spool.LARGE_BYTES`) all that is in memory goes to temporary files as well.

    Args:
        model: a path, an `onnx.ModelProto`, an `onnx_ir.Model` or an onnx-graphsurgeon graph; it
            is not changed, and changes of the result do not reach it.

    Raises:
        InputError: the model cannot be read, is not valid, or wants external data from outside
            its folder.
    """
    kind = kind_of(model)
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        with _one_line(str(path)):
            return _mapped(_from_path(path))
    with _one_line(f"the {type(model).__name__}"):
        if isinstance(model, onnx_ir.Model):
            return _mapped(_from_ir(model))
        if kind == "graphsurgeon":
            return _mapped(_from_proto(graphsurgeon().export_onnx(model), None))
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # tensors of the result are views of the protobuf
        return _mapped(_from_proto(copy, None))


def _mapped(model: onnx_ir.Model) -> onnx_ir.Model:
    """`model`; where it is large, what it holds in memory goes to temporary files."""
    if is_large(model):
        spool = model.meta.setdefault(SPOOL, Spool())
        replace_tensors(model, spool.keep)
    return model


@contextlib.contextmanager
def _one_line(origin: str) -> Iterator[None]:
    """Turn whatever a parser raises into one line that says what is wrong with `origin`."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot read {origin}: {error.strerror or error}",
            expected="a file that you may read",
        ) from error
    except Exception as error:  # parsers of damaged files raise about anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # onnx_ir wraps an error once for each level
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {cause}"[:200]
        raise InputError(f"{origin} is not a valid ONNX model: {reason}", advice=DAMAGED) from error


def _from_path(path: Path) -> onnx_ir.Model:
    model = _from_proto(read_proto(path), path)
    maps: dict[str, tuple[Path, Bytes]] = {}
    spool = Spool()

    def mapped(tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
        if not isinstance(tensor, onnx_ir.ExternalTensor):
            return tensor
        location = os.fspath(tensor.location)
        if location not in maps:
            file = find_data(location, path)
            maps[location] = file, map_file(file)
        found = MappedTensor(tensor, *maps[location])
        return _moved(found, spool) if location == path.name else found

    replace_tensors(model, mapped)
    others = (str(file) for location, (file, _) in maps.items() if location != path.name)
    model.meta[SOURCES] = (str(path.absolute()), *others)
    if path.name in maps:
        model.meta[SPOOL] = spool
    return model


def _moved(tensor: MappedTensor, spool: Spool) -> onnx_ir.TensorProtocol:
    """A tensor that lies inside the file of the model, where no array of its type may lie."""
    about: dict[str, Any] = {
        "shape": onnx_ir.Shape(tensor.shape.numpy()),
        "name": tensor.name,
        "doc_string": tensor.doc_string,
        "metadata_props": dict(tensor.metadata_props),
    }
    if tensor.dtype.bitwidth < 8:
        return onnx_ir.PackedTensor(tensor.content, tensor.dtype, **about)
    found = spool.put(tensor, chunks(tensor))
    return found or onnx_ir.Tensor(tensor.numpy(), tensor.dtype, **about)


def _from_proto(proto: onnx.ModelProto, path: Path | None) -> onnx_ir.Model:
    is_sorted = check_structure(proto)
    check_tensors(proto, path)
    types = take_types(proto)
    model = onnx_ir.serde.deserialize_model(proto)
    keep_types(model, types)
    if not is_sorted:
        _sort(model)
    seal(model)
    return model


def _from_ir(model: onnx_ir.Model) -> onnx_ir.Model:
    seen: set[onnx_ir.Node | None] = {None}
    for node in nodes(model):
        for value in node.inputs:
            if value is not None and value.producer() not in seen:
                raise InputError(
                    f"node {node.name!r} ({node.op_type}) uses {value.name!r}, which no earlier "
                    "node of the model makes",
                    expected="nodes in topological order",
                    advice="call model.graph.sort(), or add the missing node",
                )
        seen.add(node)
    for tensor in tensors(model):
        if isinstance(tensor, onnx_ir.ExternalTensor):
            _check_file(tensor)
    copy = clone(model)
    check_structure(skeleton(copy))
    seal(copy)
    return copy


def _check_file(tensor: onnx_ir.ExternalTensor) -> None:
    end, size = (tensor.offset or 0) + tensor.nbytes, Path(tensor.path).stat().st_size
    if end > size:
        raise InputError(
            f"tensor {tensor.name!r} ends at byte {end} of {tensor.path}, which has {size} bytes",
            expected="a complete external data file",
        )


def _sort(model: onnx_ir.Model) -> None:
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.sort()
    except ValueError as error:
        raise invalid(
            "the nodes of the graph form a cycle",
            expected="every node to depend on earlier ones only",
        ) from error
