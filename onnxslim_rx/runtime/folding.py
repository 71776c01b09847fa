"""What a large model computes from constants alone, computed once and mapped from a file.

onnxruntime would compute it when it loads the model and keep it in memory: all weights of a model
that is stored as INT8, say. Elementwise operators are computed some rows at a time, so that no
large result is ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import Spool, bodies, clone, constant, spool
from onnxslim_rx.ir.walk import FOLDED, SPOOL

__all__ = ["Build", "folded"]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Build = Callable[[ir.Model], Run]
_Constants = dict[ir.Value, ir.TensorProtocol]

_IR_VERSION = 10  # of the small models made here; holds all element types
_PART = 1 << 25  # bytes of a result that are computed at once

# Some rows of the result depend on the same rows of what is read.
_ELEMENTWISE = {"Cast", "Mul", "Add", "Sub", "Div", "Neg", "Identity"}
# onnxruntime does not fold the first three either: its kernels read quantized weights.
_LEFT = {
    "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Constant", "Bernoulli",
    "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip
_PRODUCTS = {"MatMul", "Gemm"}


def folded(model: ir.Model, build: Build) -> ir.Model:
    """A copy of `model` with large results of constants alone as mapped constants.

    What cannot be computed is left as it is.

    Args:
        model: only its `meta` changes: results are kept there for the next session.
        build: makes something that runs of a small model.
    """
    known: dict[str, _Folded] = model.meta.setdefault(FOLDED, {})
    where: Spool = model.meta.get(SPOOL) or Spool()
    copy = clone(model)
    graph = copy.graph
    constants = {value: tensor for value in _sources(graph) if (tensor := constant(value))}
    made = _made(graph, constants)
    for value in [value for value in made if _is_wanted(value, made)]:
        chain, read = _chain(value, made)
        sources = {source: constants[source] for source in read}
        name = str(value.name)
        if name not in known or not known[name].holds(chain, sources):
            tensor = _compute(value, chain, sources, dict(copy.opset_imports), build, where)
            if tensor is None:
                continue
            known[name] = _Folded(tensor, chain, sources)
        _put(graph, value, known[name].tensor)
    _drop_unused(graph, [node for value in made if (node := value.producer())])
    return copy


class _Folded:
    """A result, and what it was computed from."""

    def __init__(
        self, tensor: ir.TensorProtocol, chain: Sequence[ir.Node], sources: _Constants
    ) -> None:
        self.tensor = tensor
        self._about = _describe(chain)
        self._sources = list(sources.values())

    def holds(self, chain: Sequence[ir.Node], sources: _Constants) -> bool:
        """Whether the result is the same still."""
        same = [a is b for a, b in zip(self._sources, sources.values(), strict=False)]
        return all(same) and len(same) == len(sources) and self._about == _describe(chain)


def _describe(chain: Sequence[ir.Node]) -> list[str]:
    return [
        f"{node.op_type} {[value and value.name for value in node.inputs]} "
        f"{[(name, str(attribute.value)) for name, attribute in node.attributes.items()]}"
        for node in chain
    ]


def _sources(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if node.op_type == "Constant":
            yield from node.outputs


def _made(graph: ir.Graph, constants: _Constants) -> dict[ir.Value, None]:
    """Values of the main graph that are computed from constants alone, in its order."""
    made: dict[ir.Value, None] = {}
    for node in graph:
        if node.domain != "" or node.op_type in _LEFT or bodies(node) or not node.inputs:
            continue
        read = [value for value in node.inputs if value is not None]
        if all(v in constants or v in made for v in read) and not _is_read_in_place(node):
            made.update(dict.fromkeys(node.outputs))
    return made


def _is_read_in_place(node: ir.Node) -> bool:
    """Whether onnxruntime lets products read a transposed weight as it lies."""
    readers = [use.node.op_type for use in node.outputs[0].uses()]
    return node.op_type == "Transpose" and all(reader in _PRODUCTS for reader in readers)


def _is_wanted(value: ir.Value, made: Mapping[ir.Value, None]) -> bool:
    """Whether something that is not constant reads `value`, and it is large."""
    if value.is_graph_output() or value.dtype is None or value.dtype == ir.DataType.STRING:
        return False
    if value.shape is None or not value.shape.is_static() or _size(value) < spool.SPOOLED_BYTES:
        return False
    return any(use.node.outputs[0] not in made for use in value.uses())


def _size(value: ir.Value) -> int:
    assert value.shape is not None  # asked for by `_is_wanted`
    assert value.dtype is not None
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)


def _chain(value: ir.Value, made: Mapping[ir.Value, None]) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that compute `value`, in order, and the constants that they read."""
    nodes: dict[ir.Node, None] = {}
    sources: dict[ir.Value, None] = {}
    # a node comes after all that it reads: found last to first
    todo = [value]
    while todo:
        node = todo.pop().producer()
        assert node is not None  # it was made
        nodes.pop(node, None)
        nodes[node] = None
        for read in node.inputs:
            if read in made and read is not None:
                todo.append(read)
            elif read is not None:
                sources[read] = None
    return list(reversed(nodes)), list(sources)


def _compute(
    value: ir.Value,
    chain: Sequence[ir.Node],
    sources: _Constants,
    imports: dict[str, int],
    build: Build,
    where: Spool,
) -> ir.TensorProtocol | None:
    assert value.shape is not None  # asked for by `_is_wanted`
    assert value.dtype is not None
    shape = value.shape.numpy()
    like = ir.ExternalTensor(
        "", 0, _size(value), value.dtype, shape=ir.Shape(shape), name=str(value.name)
    )
    rows = shape[0] if shape else 1
    step, split = rows, set[ir.Value]()
    if all(node.op_type in _ELEMENTWISE for node in chain):
        step = max(1, _PART * rows // max(_size(value), 1))
        split = {
            source
            for source, tensor in sources.items()
            if len(tensor.shape) == len(shape) and tensor.shape.numpy()[0] == rows > 1
        }

    def parts() -> Iterator[npt.NDArray[np.uint8]]:
        run = build(_model(value, chain, sources, split, imports))
        for start in range(0, rows, step):
            feeds = {
                str(source.name): tensor.numpy()[start : start + step]
                if source in split
                else tensor.numpy()
                for source, tensor in sources.items()
            }
            found = np.ascontiguousarray(run(feeds)[str(value.name)])
            yield found.reshape(-1).view(np.uint8)

    try:
        return where.put(like, parts())
    except (InputError, ValueError):  # this runtime cannot compute it alone, or to another size
        return None


def _model(
    value: ir.Value,
    chain: Sequence[ir.Node],
    sources: _Constants,
    split: set[ir.Value],
    imports: dict[str, int],
) -> ir.Model:
    """A model of `chain` that gets the sources as inputs."""
    view = ir.GraphView(
        list(sources), [value], nodes=chain, opset_imports=imports, name="constants"
    )
    graph = view.clone()
    for copy, (source, tensor) in zip(graph.inputs, sources.items(), strict=True):
        sizes: list[int | None] = list(tensor.shape.numpy())
        copy.const_value = None
        copy.type = ir.TensorType(tensor.dtype)
        copy.shape = ir.Shape([None, *sizes[1:]] if source in split else sizes)
    for node in graph:
        for output in node.outputs:
            output.shape = None  # that of all rows
    return ir.Model(graph, ir_version=_IR_VERSION)


def _put(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Let all readers of `value` read the constant `tensor`."""
    name = f"{value.name}.folded"
    while name in graph.initializers:
        name += "_"
    new = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
    graph.register_initializer(new)
    value.replace_all_uses_with(new)


def _drop_unused(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Take out those of `nodes` that nobody reads any more, and what only they read."""
    for node in reversed(list(dict.fromkeys(nodes))):
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        read = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in read:
            unused = not (value.uses() or value.is_graph_output() or value.is_graph_input())
            if value.is_initializer() and unused:
                graph.initializers.pop(str(value.name), None)
