"""Tables whose rows are looked up, with everyone who reads them.

Language models read one table twice: rows of it as embeddings, and as the matrix that turns hidden
states into logits. To other passes such a weight is shared, and left alone; here all its readers
are one unit, so that what takes the table's place is shared as the table was.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import WeightUse, constant_root, weight_uses
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant, graphs_in
from onnxslim_rx.passbase import Array, Layer, LayerStatistics, Skipped

__all__ = ["Read", "reads_of", "table_layers", "table_statistics"]

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """One node that reads the table.

    Args:
        node: Gather, MatMul or Gemm.
        index: which input of `node` the table is.
        flipped: the product is with the transposed table; transposes in front of the node and the
            node's own attributes count both.
    """

    node: ir.Node
    index: int
    flipped: bool

    @property
    def activation(self) -> ir.Value:
        """The indices, or the other side of the product."""
        value = self.node.inputs[1 - self.index]
        assert value is not None  # it was looked at when the layer was found
        return value

    @property
    def sums_over_columns(self) -> bool:
        """Whether a product runs over the columns of the table, as a projection to logits does."""
        return self.node.op_type != "Gather" and self.flipped == (self.index == 1)


def table_layers(model: ir.Model, *, min_elements: int) -> Iterator[Layer | Skipped]:
    """Every constant table (V, K) that a Gather looks rows up in, with all its readers.

    A table that one Gather reads directly gives a plain layer, named as `passbase.weight_layers`
    names it; any other a unit whose region holds all readers and the Identity and Transpose nodes
    in front of them, and whose members are the look-ups and the projections.
    """
    groups: dict[ir.Value, list[WeightUse]] = {}
    for use in weight_uses(model, min_elements=min_elements):
        root, _ = constant_root(use.weight)
        assert root is not None  # a use is made of one
        groups.setdefault(root, []).append(use)
    outside_functions = set(graphs_in(model.graph))
    names: Counter[str] = Counter()
    for root, uses in groups.items():
        first = next((use for use in uses if use.kind == "embedding"), None)
        if first is None:
            continue
        base = first.weight.name or first.node.name or "Gather"
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        why = _why_not(root, uses, min_elements)
        if not why and first.graph not in outside_functions:
            why = "lies in a function"
        yield Skipped(name, f"Gather: {why}") if why else _layer(name, root, uses, first)


def reads_of(nodes: Iterable[ir.Node], root: ir.Value) -> list[Read]:
    """The readers of `root` among the nodes of a unit, wrappers left out.

    Args:
        nodes: of a layer that `table_layers` gave.
        root: the constant.
    """
    found = []
    for node in nodes:
        if node.op_type in ("Identity", "Transpose"):
            continue
        for index, value in enumerate(node.inputs[:2]):
            reached, through = constant_root(value)
            if reached is root:
                flips = [bool(_flips(one)) for one in through]
                found.append(Read(node, index, (sum(flips) + _own_flip(node, index)) % 2 == 1))
    return found


def table_statistics(
    name: str, shape: tuple[int, int], stats: LayerStatistics | None
) -> tuple[Array | None, npt.NDArray[np.float64] | None]:
    """Reads of each row by all look-ups, and the sum of the projections' second moments.

    Args:
        name: of the table, for messages.
        shape: of the table.
        stats: of its layer, with those of its members.

    Raises:
        InputError: the statistics are of another table.
    """
    every = (stats.members or (stats,)) if stats is not None else ()
    counts = [one.counts for one in every if one is not None and one.counts is not None]
    grams = [
        np.asarray(one.gram, dtype=np.float64) / max(one.rows, 1)
        for one in every
        if one is not None and one.gram is not None
    ]
    rows, columns = shape
    if any(c.shape != (rows,) for c in counts) or any(len(g) != columns for g in grams):
        raise InputError(f"the statistics of {name} are of another table")
    total = np.sum(counts, axis=0) if counts else None
    return total, np.sum(grams, axis=0) if grams else None


def _why_not(root: ir.Value, uses: Sequence[WeightUse], min_elements: int) -> str:
    tensor = uses[0].tensor
    if len(tensor.shape) != 2 or tensor.dtype not in _FLOATS:
        return f"has rank {len(tensor.shape)} and type {tensor.dtype.name}"
    if tensor.size < min_elements:
        return f"has {tensor.size} elements, below {min_elements}"
    if constant(root) is None:
        return "is also a graph input, so callers may override it"
    for use in uses:
        if why := _why_not_read(use):
            return why
    wrappers = [node for use in uses for node in use.through]
    if root.is_graph_output() or any(n.outputs[0].is_graph_output() for n in wrappers):
        return "is also a graph output"
    if len({use.graph for use in uses} | {node.graph for node in wrappers}) > 1:
        return "is read in several graphs"
    return ""


def _why_not_read(use: WeightUse) -> str:
    node = use.node
    if node.domain != "" or node.op_type not in ("Gather", "MatMul", "Gemm") or use.index > 1:
        return f"is shared with {node.op_type} input {use.index}"
    if any(_flips(wrapper) is None for wrapper in use.through):
        return f"reaches {node.op_type} through {use.through[0].op_type}: simplify first"
    other = node.inputs[1 - use.index]
    if other is None or constant_root(other)[0] is not None:
        return f"{node.op_type} reads constants only: folds away"
    if node.op_type != "Gather":
        return ""
    if use.index != 0:
        return "holds indices"
    flipped = sum(bool(_flips(wrapper)) for wrapper in use.through) % 2
    axis = node.attributes.get_int("axis", 0) % 2
    return "gathers along an axis other than 0" if axis or flipped else ""


def _layer(name: str, root: ir.Value, uses: Sequence[WeightUse], first: WeightUse) -> Layer:
    plain = Layer(name, "Gather", "embedding", first.node, 0, 1)
    if len(uses) == 1 and not first.through:
        return plain
    members = []
    for use, read in zip(uses, reads_of([use.node for use in uses], root), strict=True):
        label = name if use is first else f"{name} in {use.node.name or use.node.outputs[0].name}"
        if use.kind == "embedding":
            members.append(Layer(label, "Gather", "embedding", use.node, 0, 1))
        elif read.sums_over_columns:  # the others' Gram matrix would be V x V
            op, other = use.node.op_type, 1 - use.index
            members.append(Layer(label, op, "linear", use.node, use.index, other))
    wanted = {use.node for use in uses} | {node for use in uses for node in use.through}
    region = tuple(node for node in first.graph if node in wanted)
    return dataclasses.replace(plain, region=region, constants=(root,), members=tuple(members))


def _flips(wrapper: ir.Node) -> bool | None:
    """Whether a node transposes a matrix; None where it does something else to it."""
    if wrapper.domain != "":
        return None
    if wrapper.op_type == "Transpose":
        return list(wrapper.attributes.get_ints("perm", (1, 0))) == [1, 0]
    return False if wrapper.op_type == "Identity" else None


def _own_flip(node: ir.Node, index: int) -> bool:
    if node.op_type != "Gemm":
        return False
    return bool(node.attributes.get_int("transB" if index else "transA", 0))
