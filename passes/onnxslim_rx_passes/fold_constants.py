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

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, bodies, remove
from onnxslim_rx_passes._graph import Proofs, has_reference, is_random, label

__all__ = ["FoldConstants"]

Array = npt.NDArray[Any]

_QUANTIZATION = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
_NODE_BYTES = 128  # what a node takes in the file, about: names, operator, attributes
_SMALL_BYTES = 1 << 16  # a result up to this size is computed even if its inputs are smaller
_SMALL_ELEMENTS = 16  # a 16-bit tensor up to this size is no stored weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(RewritePass):
    """Replace nodes that depend on constants alone by their result.

    ONNX Runtime computes the results. Chains are folded as a whole, and only where the file does
    not grow: a result may take as many bytes as the constants and nodes that it makes superfluous
    did. So tied weights stay tied. Left alone are random and custom operators, owners of
    subgraphs, functions, and what keeps weights small in the file: DequantizeLinear, casts from
    integers of 8 bits and less to floats, casts of 16-bit floats to wider ones.

    Args:
        max_bytes: no larger tensor is computed; bytes, at least 0.
    """

    name: ClassVar[str] = "fold-constants"
    max_bytes: int = 1 << 28

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        levels = _levels(model)
        if not levels:
            return PassResult(model, modified=False)
        work = _Work(self, model, ctx)
        for level in levels:
            work.compute(level)
        folded = work.materialise(list(itertools.chain(*levels)))
        return PassResult(model, folded > 0, folded, tuple(work.skipped))


def _levels(model: ir.Model) -> list[list[ir.Node]]:
    """Nodes that depend on constants alone; those of one level on earlier levels."""
    depth: dict[ir.Value, int] = {}
    levels: list[list[ir.Node]] = []
    for node in model.graph.all_nodes():
        if not _may_fold(node, model):
            continue
        inputs = [value for value in node.inputs if value is not None]
        if not all(value in depth or constant(value) is not None for value in inputs):
            continue
        level = max((depth.get(value, 0) for value in inputs), default=0)
        depth.update(dict.fromkeys(node.outputs, level + 1))
        levels.extend([] for _ in range(level + 1 - len(levels)))
        levels[level].append(node)
    return levels


def _may_fold(node: ir.Node, model: ir.Model) -> bool:
    return (
        node.domain == ""
        and node.op_type != "Constant"
        and node.op_type not in _QUANTIZATION
        and node.op_identifier() not in model.functions
        and not is_random(node)
        and not has_reference(node)
        and not list(bodies(node))
    )


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
        self.proofs = Proofs(model)
        self.editor = Editor(model)
        self.known: dict[ir.Value, Array] = {}
        self.skipped: list[Skipped] = []

    # -- computing -----------------------------------------------------------------------------

    def compute(self, level: Iterable[ir.Node]) -> None:
        """Compute the nodes of one level whose inputs are known and whose results are not huge."""
        ready: dict[ir.Graph | None, list[ir.Node]] = {}
        for node in level:
            arrays = [None if value is None else self.array(value) for value in node.inputs]
            if any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
                continue
            if why_not := self.why_not(node, arrays):
                self.skipped.append(Skipped(label(node), why_not))
            else:
                ready.setdefault(node.graph, []).append(node)
        for nodes in ready.values():  # names are unique in a graph, not across branches
            self.run(nodes)

    def array(self, value: ir.Value) -> Array | None:
        """What a value holds, if that is known."""
        if value in self.known:
            return self.known[value]
        tensor = constant(value)
        return None if tensor is None else tensor.numpy()

    def why_not(self, node: ir.Node, arrays: Sequence[Array | None]) -> str | None:
        """Why a node whose inputs are known is not computed."""
        if any(self.proofs.dtype(v) == ir.DataType.STRING for v in (*node.inputs, *node.outputs)):
            return "it works on text"
        if node.op_type in ("Cast", "CastLike") and arrays[0] is not None:
            before, after = self.proofs.dtype(node.inputs[0]), self.proofs.dtype(node.outputs[0])
            if _stores_weight(before, after, arrays[0].size):
                return "the narrow type keeps a weight small"
        inputs = sum(array.nbytes for array in arrays if array is not None)
        for value in node.outputs:
            size = self.size(value, node, arrays)
            if size is None:
                return "the size of the result is not known before"
            if size > self.options.max_bytes:
                return f"the result has {size} bytes"
            if size > max(_SMALL_BYTES, 2 * inputs):
                return f"the file would grow by about {size} bytes"
        return None

    def size(self, value: ir.Value, node: ir.Node, arrays: Sequence[Array | None]) -> int | None:
        """Bytes of a result before it is computed, or None."""
        sizes, dtype = self.proofs.sizes(value), self.proofs.dtype(value)
        itemsize = 8 if dtype is None else math.ceil(dtype.itemsize)
        if sizes is not None:
            return math.prod(sizes) * itemsize
        elements = _asked_for(node.op_type, arrays)
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
                dying, freed = _made_superfluous(node)
                size = sum(self.known[value].nbytes for value in used)
                saved = freed + _NODE_BYTES * len(dying)
                if size > saved:
                    why = f"the file would grow by about {size - saved} bytes"
                    self.skipped.append(Skipped(label(node), why))
                    continue
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
    return total * total if total * total * 8 <= _SMALL_BYTES else None


def _made_superfluous(node: ir.Node) -> tuple[list[ir.Node], int]:
    """What nobody needs once the outputs of `node` are constants.

    Returns:
        The nodes, readers before what they read, and the bytes of the constants that they read
        and nobody else does.
    """
    dying = {node: None}
    constants: dict[ir.Value, int] = {}
    for reader in _growing(dying):
        for value in reader.inputs:
            if value is None:
                continue
            producer, tensor = value.producer(), constant(value)
            made = (value,) if producer is None else producer.outputs
            if any(one.is_graph_output() or not _readers(one) <= dying.keys() for one in made):
                continue
            if tensor is not None:
                constants[value] = tensor.nbytes
            if producer is not None:
                dying.setdefault(producer)
    return list(dying), sum(constants.values())


def _readers(value: ir.Value) -> set[ir.Node]:
    return {use.node for use in value.uses()}


def _growing(nodes: dict[ir.Node, None]) -> Iterator[ir.Node]:
    """The nodes, also those that are added while this runs."""
    done = 0
    while done < len(nodes):
        for node in list(nodes)[done:]:
            done += 1
            yield node
