"""Bring a model to a newer version of the standard operators."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import onnx
import onnx_ir as ir
from onnx import version_converter

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, graphs, graphs_in, is_overridable, load, nodes, serialize
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped

__all__ = ["RaiseOpset"]

_LEAST, _MOST = 8, 25
_FIRST_FREE_INITIALIZERS = 4
_FORMATS = ((9, 4), (10, 5), (11, 6), (12, 7), (15, 8), (19, 9), (21, 10), (23, 11), (24, 12))
"""From this opset on, files need at least this version of the format."""

_LARGEST = 1024
"""Elements; larger constants do not go through the converter."""

_TYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


@dataclasses.dataclass(frozen=True)
class RaiseOpset(RewritePass):
    """Convert the standard operators to version `to` with ONNX's own converter.

    Weights stay where they are: the converter sees a model whose larger constants are inputs. What
    it drops (names, metadata and documentation of nodes and values) is put back. Subgraphs are
    converted too; operators of other domains stay as they are.

    Refused: models that the converter does not manage, or with functions of their own, which it
    does not convert (inline them first). Not among the defaults: a newer opset needs a newer
    runtime.

    Args:
        to: the version wanted; models that have it, or a newer one, stay as they are.
    """

    name: ClassVar[str] = "raise-opset"
    raises_opset: ClassVar[bool] = True

    to: int = 23

    def __post_init__(self) -> None:
        if not _LEAST <= self.to <= _MOST:
            raise InputError(f"to = {self.to}", expected=f"{_LEAST} to {_MOST}")

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """See `RewritePass`; the result is a new model."""
        version = model.opset_imports.get("")
        if version is None or version >= self.to:
            return PassResult(model, modified=False)
        where = f"opset {version} to {self.to}"
        if model.functions:
            return _refused(model, where, "the model has functions of its own")
        skeleton = clone(model)
        taken = _set_aside(skeleton)
        try:
            proto = onnx.ModelProto.FromString(serialize(skeleton))
            raised = load(version_converter.convert_version(proto, self.to))
        except Exception as error:  # noqa: BLE001  (the converter raises what it likes)
            text = " ".join(str(error).split())
            return _refused(model, where, f"the converter fails: {text[:200]}")
        if raised.opset_imports.get("") != self.to:
            return _refused(model, where, "the converter left the version as it was")
        why = _restore(raised, skeleton, model, taken)
        if why is not None:
            return _refused(model, where, why)
        return PassResult(raised, modified=True, rewritten=1)


def _refused(model: ir.Model, where: str, why: str) -> PassResult:
    return PassResult(model, modified=False, skipped=(Skipped(where, why),))


@dataclasses.dataclass(frozen=True)
class _Aside:
    """Constants that do not go through the converter.

    Args:
        tensors: by name, which is that of an input of the skeleton.
        hidden: inputs of the skeleton that are not ones of the model.
    """

    tensors: dict[str, ir.TensorProtocol]
    hidden: set[str]


def _set_aside(skeleton: ir.Model) -> _Aside:
    """Make inputs of the main graph of the larger constants, and of those of rare types."""
    main, aside = skeleton.graph, _Aside({}, set())
    names = Counter(value.name for graph in graphs(skeleton) for value in _values(graph))
    for graph in list(graphs(skeleton)):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            assert tensor is not None  # it is an initializer
            size = math.prod(tensor.shape.numpy())
            named = value.is_graph_input()
            if size <= _LARGEST and tensor.dtype in _TYPES and not named:
                continue
            del graph.initializers[str(value.name)]
            value.const_value = None
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            while names[value.name] > 1:  # in two branches
                names[value.name] -= 1
                value.name = f"{value.name}_"
                names[value.name] += 1
            if not named:
                main.inputs.append(value)
                aside.hidden.add(str(value.name))
            aside.tensors[str(value.name)] = tensor
    return aside


def _restore(raised: ir.Model, skeleton: ir.Model, model: ir.Model, aside: _Aside) -> str | None:
    """Put back what did not go through the converter, or was lost there; why not, or None."""
    _rename(raised, {value.name for graph in graphs(skeleton) for value in _values(graph)})
    graph = raised.graph
    version = next((low for opset, low in reversed(_FORMATS) if opset <= raised.opset_imports[""]))
    free = max(model.ir_version, version) >= _FIRST_FREE_INITIALIZERS > model.ir_version
    raised.ir_version = max(model.ir_version, version)
    for value in list(graph.inputs):
        tensor = aside.tensors.get(str(value.name))
        if tensor is None:
            continue
        value.const_value = tensor
        if value.name in aside.hidden or free:
            graph.inputs.remove(value)
        graph.register_initializer(value)
    wanted = [value for value in model.graph.inputs if not free or is_overridable(value)]
    pairs = [*zip(graph.inputs, wanted, strict=False)]
    pairs += zip(graph.outputs, model.graph.outputs, strict=False)
    counts = len(graph.inputs) == len(wanted) and len(graph.outputs) == len(model.graph.outputs)
    if not counts or any(new.name != old.name for new, old in pairs):
        return "the converter changes the inputs or outputs"
    for new, old in pairs:
        new.type, new.shape = old.type, old.shape
    _copy_notes(raised, model)
    return None


def _rename(raised: ir.Model, known: set[str | None]) -> None:
    """Give names of their own to values that the converter made: it repeats itself."""
    taken = set(known)
    for graph in graphs_in(raised.graph):
        for value in _values(graph):
            if value.name and value.name not in known:
                value.name = _fresh(value.name, taken)


def _fresh(wish: str, taken: set[str | None]) -> str:
    name, number = wish, 0
    while name in taken:
        number += 1
        name = f"{wish}_{number}"
    taken.add(name)
    return name


def _copy_notes(raised: ir.Model, model: ir.Model) -> None:
    """Names, metadata and documentation, where outputs tell what stands for what."""
    raised.metadata_props.update(model.metadata_props)
    raised.meta.update(model.meta)
    raised.doc_string, raised.graph.doc_string = model.doc_string, model.graph.doc_string
    raised.producer_name, raised.producer_version = model.producer_name, model.producer_version
    raised.domain, raised.model_version = model.domain, model.model_version
    raised.graph.name = model.graph.name
    raised.graph.metadata_props.update(model.graph.metadata_props)
    for domain, version in model.opset_imports.items():
        raised.opset_imports.setdefault(domain, version)
    originals = {value.name: value for graph in graphs(model) for value in _values(graph)}
    for graph in graphs_in(raised.graph):
        for value in _values(graph):
            old = originals.get(value.name)
            if old is None or not value.name:
                continue
            value.metadata_props.update(old.metadata_props)
            value.meta.update(old.meta)
            value.doc_string = old.doc_string
            node, source = value.producer(), old.producer()
            if node is not None and source is not None:
                node.name = node.name or source.name
                node.doc_string = source.doc_string
                node.metadata_props.update(source.metadata_props)
    names = set[str | None]()
    for node in nodes(raised):
        if node.name:
            node.name = _fresh(node.name, names)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
    for node in graph:
        yield from node.outputs
