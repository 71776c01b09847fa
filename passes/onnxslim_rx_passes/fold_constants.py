"""Compute at once what does not depend on the model's inputs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import bodies, constant, nodes_in
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._graph import has_reference, is_random, label

__all__ = ["FoldConstants"]

Array = npt.NDArray[Any]

_QUANTIZATION = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
_NODE_BYTES = 128  # what a node takes in the file, about: names, operator, attributes
_TIED_BYTES = 1024  # what is made of a larger constant with other readers would be a second copy
_SMALL_ELEMENTS = 16  # a 16-bit tensor up to this size is no stored weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(RewritePass):
    """Replace nodes that depend on constants alone by their result.

    ONNX Runtime computes the results. Chains are folded as a whole. The file may grow by what the
    options allow and no further: else a result takes at most as many bytes as the constants and
    nodes that it makes superfluous did. So tied weights stay tied. Left alone are random and
    custom operators, owners of subgraphs, functions, and what keeps weights small in the file:
    DequantizeLinear, casts from integers of 8 bits and less to floats, casts of 16-bit floats to
    wider ones. So is what makes the integers of MatMulNBits: while a cast makes its scales, they
    must not be constants where those are none (see `_block_nodes`).

    Args:
        max_bytes: no larger tensor is computed; bytes, at least 0.
        growth: bytes that one result may take beyond what it makes superfluous, at least 0.
        total_growth: the same for all results of one call together.
    """

    name: ClassVar[str] = "fold-constants"
    max_bytes: int = 1 << 28
    growth: int = 1 << 16
    total_growth: int = 1 << 20

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = _constant_nodes(model)
        if not found:
            return PassResult(model, modified=False)
        work = _Work(self, model, ctx)
        work.compute(found)
        folded = work.materialise(found)
        return PassResult(model, folded > 0, folded, tuple(work.skipped))


def _constant_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes that depend on constants alone, in order."""
    found: list[ir.Node] = []
    made: set[ir.Value] = set()
    for node in nodes_in(model.graph):
        if node.op_type == "Constant" or any(
            value is not None and value not in made and constant(value) is None
            for value in node.inputs
        ):
            continue
        if _may_fold(node, model):
            found.append(node)
            made.update(node.outputs)
    return found


def _may_fold(node: ir.Node, model: ir.Model) -> bool:
    return (
        node.domain == ""
        and node.op_type != "Constant"
        and node.op_type not in _QUANTIZATION
        and node.op_identifier() not in model.functions
        and not is_random(node)
        and not has_reference(node)
        and not list(bodies(node))
        and not _makes_packed(node)
    )


def _makes_packed(node: ir.Node) -> bool:
    uses = (use for value in node.outputs for use in value.uses())
    return any(use.node.op_type == "MatMulNBits" and use.idx == 1 for use in uses)


class _Work:
    """Computes first, decides then.

    Args:
        options: those of the pass.
        model: changed in place by `materialise`.
        ctx: evaluates nodes.
    """

    def __init__(self, options: FoldConstants, model: ir.Model, ctx: PassContext) -> None:
        self.options = options
        self.ctx = ctx
        self.facts = ctx.facts or Facts(model)
        self.editor = Editor(model)
        self.known: dict[ir.Value, Array] = {}
        self.pending: dict[ir.Graph, list[ir.Node]] = {}
        self.waiting: dict[ir.Value, ir.Graph] = {}
        self.grown = 0
        self.skipped: list[Skipped] = []

    # -- computing -----------------------------------------------------------------------------

    def compute(self, found: Iterable[ir.Node]) -> None:
        """Compute nodes whose results are not huge, as many at once as possible."""
        for node in found:
            inputs = [value for value in node.inputs if value is not None]
            for value in inputs:
                graph = self.waiting.get(value)
                # names are unique in a graph, not across branches
                if graph is not None and (graph is not node.graph or self.is_open(node)):
                    self.flush(graph)
            if not all(v in self.waiting or self.array(v) is not None for v in inputs):
                continue  # what it reads was refused
            if why_not := self.why_not(node):
                self.skipped.append(Skipped(label(node), why_not))
            else:
                assert node.graph is not None  # it was found by walking its graph
                self.pending.setdefault(node.graph, []).append(node)
                self.waiting.update(dict.fromkeys(node.outputs, node.graph))
        for graph in list(self.pending):
            self.flush(graph)

    def is_open(self, node: ir.Node) -> bool:
        """Whether the size of a result is only known once the inputs are computed."""
        return any(self.size(value, node) is None for value in node.outputs)

    def flush(self, graph: ir.Graph) -> None:
        """Run the nodes of a graph that wait."""
        nodes = self.pending.pop(graph)
        self.run(nodes)
        for node in nodes:
            for value in node.outputs:
                del self.waiting[value]

    def array(self, value: ir.Value) -> Array | None:
        """What a value holds, if that is known."""
        return self.known[value] if value in self.known else self.facts.array(value)

    def why_not(self, node: ir.Node) -> str | None:
        """Why a node whose inputs are constants is not computed."""
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if any(self.facts.dtype(value) == ir.DataType.STRING for value in values):
            return "it works on text"
        if node.op_type in ("Cast", "CastLike"):
            before, after = self.facts.dtype(node.inputs[0]), self.facts.dtype(node.outputs[0])
            sizes = self.facts.sizes(node.inputs[0])
            if _stores_weight(
                before, after, _SMALL_ELEMENTS + 1 if sizes is None else math.prod(sizes)
            ):
                return "the narrow type keeps a weight small"
        sizes_in = [self.bytes_of(value) for value in node.inputs if value is not None]
        inputs = sum(size for size in sizes_in if size is not None)
        for value in node.outputs:
            size = self.size(value, node)
            if size is None:
                return "the size of the result is not known before"
            if size > self.options.max_bytes:
                return f"the result has {size} bytes"
            if size > max(self.options.growth, 2 * inputs):
                return f"the file would grow by about {size} bytes"
        return None

    def bytes_of(self, value: ir.Value) -> int | None:
        """Bytes of a tensor, or None where its size is not known."""
        sizes, dtype = self.facts.sizes(value), self.facts.dtype(value)
        if sizes is None:
            array = self.array(value)
            return None if array is None else array.nbytes
        return math.prod(sizes) * (8 if dtype is None else math.ceil(dtype.itemsize))

    def size(self, value: ir.Value, node: ir.Node) -> int | None:
        """Bytes of a result before it is computed, or None."""
        known = self.bytes_of(value)
        if known is not None:
            return known
        arrays = [None if one is None else self.array(one) for one in node.inputs]
        elements = _asked_for(node.op_type, arrays)
        dtype = self.facts.dtype(value)
        itemsize = 8 if dtype is None else math.ceil(dtype.itemsize)
        return None if elements is None else elements * itemsize

    def run(self, nodes: Sequence[ir.Node]) -> None:
        """Evaluate nodes together; where that fails, halves, to find the one that fails."""
        feeds = {
            str(value.name): array
            for node in nodes
            for value in node.inputs
            if value is not None and (array := self.array(value)) is not None
        }
        try:
            results = self.ctx.evaluate(nodes, feeds)
        except InputError as error:
            if len(nodes) == 1:
                self.skipped.append(Skipped(label(nodes[0]), error.found))
                return
            self.run(nodes[: len(nodes) // 2])
            self.run(nodes[len(nodes) // 2 :])
            return
        for node in nodes:
            arrays = [results.get(value.name or "") for value in node.outputs]
            if all(isinstance(array, np.ndarray) and array.dtype.kind != "O" for array in arrays):
                pairs = zip(node.outputs, arrays, strict=True)
                self.known.update({value: array for value, array in pairs if array is not None})

    # -- deciding ------------------------------------------------------------------------------

    def materialise(self, nodes: Sequence[ir.Node]) -> int:
        """Replace nodes by their results where that pays, the last first; how many are gone."""
        gone = 0
        for node in reversed(nodes):
            if node.graph is None or not all(value in self.known for value in node.outputs):
                continue
            used = [value for value in node.outputs if value.uses()]
            if any(value.is_graph_output() for value in node.outputs):
                self.skipped.append(Skipped(label(node), "the graph returns it"))
            elif used:
                dying, freed, kept = _made_superfluous(node)
                size = sum(self.known[value].nbytes for value in used)
                saved = freed + _NODE_BYTES * len(dying)
                growth = size - saved
                limit = min(self.options.growth, self.options.total_growth - self.grown)
                if growth > (limit if kept <= _TIED_BYTES else 0):
                    why = f"the file would grow by about {growth} bytes"
                    self.skipped.append(Skipped(label(node), why))
                    continue
                self.grown += max(0, growth)
                for value in used:
                    self.replace(value)
                self.remove(dying)
                gone += len(dying)
        return gone

    def replace(self, value: ir.Value) -> None:
        """Let readers of `value` read a constant of the same name."""
        assert value.graph is not None  # it is the output of a node in a graph
        array = np.ascontiguousarray(self.known[value]).reshape(self.known[value].shape)
        name, value.name = str(value.name), None
        new = self.editor.constant(value.graph, ir.tensor(array), name)
        new.metadata_props.update(value.metadata_props)
        new.name = name
        value.replace_all_uses_with(new)

    def remove(self, dying: Sequence[ir.Node]) -> None:
        for node in dying:  # readers come before what they read
            inputs = list(node.inputs)
            remove(node)
            self.editor.remove_unused(inputs)


def _stores_weight(before: ir.DataType | None, after: ir.DataType | None, size: int) -> bool:
    """Whether a cast turns the form in which a weight is stored into the one it is used in."""
    if before is None or after is None or not after.is_floating_point():
        return False
    if before in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return after.bitwidth > before.bitwidth and size > _SMALL_ELEMENTS
    return before.bitwidth <= 8 and before != ir.DataType.BOOL


def _asked_for(op_type: str, arrays: Sequence[Array | None]) -> int | None:
    """Elements that the result will have, by the inputs that say so; None if they do not."""
    first, second = (*arrays, None, None)[:2]
    if op_type == "ConstantOfShape" and first is not None:
        return int(np.prod(first, dtype=np.float64))
    if op_type == "Expand" and first is not None and second is not None:
        return int(first.size * np.prod(np.maximum(second, 1), dtype=np.float64))
    if op_type == "Tile" and first is not None and second is not None:
        return int(first.size * np.prod(second, dtype=np.float64))
    if op_type == "Range" and len(arrays) == 3:
        start, limit, delta = (float(a.item()) for a in arrays if a is not None)
        return max(0, math.ceil((limit - start) / delta)) if delta else None
    total = sum(array.size for array in arrays if array is not None)
    return total * total if total * total <= _SMALL_ELEMENTS**3 else None


def _made_superfluous(node: ir.Node) -> tuple[list[ir.Node], int, int]:
    """What nobody needs once the outputs of `node` are constants.

    Returns:
        The nodes, readers before what they read; the bytes of the constants that they read and
        nobody else does; and of the largest constant that they read and others do as well.
    """
    dying = {node: None}
    constants: dict[ir.Value, int] = {}
    shared: dict[ir.Value, int] = {}
    for reader in _growing(dying):
        for value in reader.inputs:
            if value is None:
                continue
            producer, tensor = value.producer(), constant(value)
            made = (value,) if producer is None else producer.outputs
            if any(one.is_graph_output() or not _readers(one) <= dying.keys() for one in made):
                if tensor is not None:
                    shared[value] = tensor.nbytes
                continue
            if tensor is not None:
                shared.pop(value, None)
                constants[value] = tensor.nbytes
            if producer is not None:
                dying.setdefault(producer)
    return list(dying), sum(constants.values()), max(shared.values(), default=0)


def _readers(value: ir.Value) -> set[ir.Node]:
    return {use.node for use in value.uses()}


def _growing(nodes: dict[ir.Node, None]) -> Iterator[ir.Node]:
    """The nodes, also those that are added while this runs."""
    done: list[ir.Node] = []
    while len(done) < len(nodes):
        for node in list(itertools.islice(nodes, len(done), None)):
            done.append(node)
            yield node
