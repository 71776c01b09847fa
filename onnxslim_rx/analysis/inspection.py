"""The data behind `inspect`: what a model holds, what it costs, what can be compressed."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir

from onnxslim_rx.analysis.macs import Flops, flops
from onnxslim_rx.analysis.packed import packed_elements
from onnxslim_rx.analysis.spectrum import SPECTRUM_LIMIT, Spectrum, energy_ranks
from onnxslim_rx.analysis.weights import WeightUse, weight_uses
from onnxslim_rx.ir import constant, graphs, nodes, size_bytes
from onnxslim_rx.progress import task

__all__ = ["InspectRow", "Inspection", "inspect_model", "parameters", "params"]

_NOT_LEARNED = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}
_WORTH_COMPARING = 1024  # bytes


@dataclasses.dataclass(frozen=True)
class InspectRow:
    """One weight of one node, or a node that multiplies activations, or the rest.

    Args:
        name: the weight's name, or the node's.
        op: operator type; "" for the row of all other constants.
        kind: what the weight is to the node (see `WeightKind`); "activations" for a node that
            multiplies without a constant, "rest" for all other constants together.
        shape: of the weight as stored; () without one.
        params: elements of the weight, also where several share a stored byte. A tied weight
            counts in each of its rows.
        macs: multiply-adds of the node (of several weights of one node each has its part); None
            where not known.
        bytes: of the weight as stored.
        share: of the bytes of all constants, 0 to 1.
        compressible: whether a compression pass may treat the weight.
        why: why not; "" where it is compressible.
        rank90: least rank that keeps 90% of the energy (squared Frobenius norm) of the weight
            as a matrix; None where not computed.
        rank99: the same for 99%.
        rank999: the same for 99.9%.
    """

    name: str
    op: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int | None
    bytes: int
    share: float
    compressible: bool
    why: str
    rank90: int | None = None
    rank99: int | None = None
    rank999: int | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a model holds and costs.

    Args:
        rows: one a weight, in the order of the model; multiplying nodes without weights, and one
            row for all other constants, so that the columns add up to the totals (tied weights
            apart).
        totals: "params", "weight_bytes", "file_bytes", "compressible_bytes", "nodes" (in all
            graphs and functions), "macs", "flops", "macs_unknown" (sentences), "input_shapes"
            and "assumed" (the sizes that macs are for), "ir_version", "producer", "opsets"
            (version by domain), "custom_domains", "functions", "inputs" and "outputs" (name,
            type, shape), "ops" (count by operator), "dtypes" (by type: tensors, elements,
            bytes), "duplicates" (lists of names of equal weights), "duplicate_bytes".
        spectra: of each compressible weight, where they were asked for.
    """

    rows: tuple[InspectRow, ...]
    totals: Mapping[str, Any]
    spectra: tuple[Spectrum, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Rows, totals and spectra as dicts, lists, numbers and strings, ready for JSON."""
        rows = [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.rows]
        spectra = [spectrum.to_dict() for spectrum in self.spectra]
        return {"rows": rows, "totals": dict(self.totals), "spectra": spectra}


def parameters(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Every stored parameter: initializers and Constant nodes of all graphs and functions.

    Tensors of int64, bool and strings hold shapes, axes and indices and are left out. A weight
    that several nodes read comes once.
    """
    for value, tensor in _constants(model):
        if tensor.dtype not in _NOT_LEARNED:
            yield value, tensor


def params(model: ir.Model) -> int:
    """Number of elements of all parameters; tied weights count once.

    Weights in blocks count as many as they stand for, whatever they are packed in.
    """
    packed = packed_elements(model)
    return sum(packed.get(id(tensor), tensor.size) for _, tensor in parameters(model))


def _constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
    for node in nodes(model):
        if node.op_type == "Constant" and node.domain == "":
            tensor = constant(node.outputs[0])
            if tensor is not None:
                yield node.outputs[0], tensor


def inspect_model(
    model: ir.Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    spectra: bool | Literal["all"] = True,
) -> Inspection:
    """Look at every weight and every multiplying node of a model.

    Args:
        model: the model; not changed.
        input_shapes: for the multiply-adds, see `flops`.
        spectra: whether to compute the ranks of compressible weights; True leaves out matrices
            whose smaller side is above `SPECTRUM_LIMIT`, "all" does not.

    Raises:
        InputError: `input_shapes` contradicts the model.
    """
    cost = flops(model, input_shapes)
    weights = dict(parameters(model))
    total_bytes = sum(tensor.nbytes for tensor in weights.values())
    uses = [use for use in weight_uses(model) if use.kind != "other"]
    limit = None if spectra == "all" else SPECTRUM_LIMIT
    packed = packed_elements(model)
    sizes: collections.Counter[ir.Node] = collections.Counter()
    for use in uses:
        sizes[use.node] += use.tensor.size
    rows = []
    with task("inspect", len(uses)) as advance:
        for use in uses:
            ranks = energy_ranks(use, limit) if spectra and use.compressible else None
            macs = cost.nodes[use.node].macs if use.node in cost.nodes else None
            if macs is not None:
                macs = macs * use.tensor.size // max(sizes[use.node], 1)
            elements = packed.get(id(use.tensor), use.tensor.size)
            rows.append(_weight_row(use, elements, macs, total_bytes, ranks))
            advance(1)
    in_rows = {id(use.tensor) for use in uses}
    rest = [tensor for tensor in weights.values() if id(tensor) not in in_rows]
    rows += _activation_rows(model, cost, {use.node for use in uses})
    rows.append(_rest_row(rest, total_bytes))
    return Inspection(tuple(rows), _totals(model, cost, weights, uses))


def _weight_row(
    use: WeightUse,
    elements: int,
    macs: int | None,
    total_bytes: int,
    ranks: tuple[int, int, int] | None,
) -> InspectRow:
    return InspectRow(
        name=use.tensor.name or use.weight.name or use.node.name or "",
        op=use.node.op_type,
        kind=use.kind,
        shape=tuple(use.tensor.shape.numpy()),
        params=elements,
        macs=macs,
        bytes=use.tensor.nbytes,
        share=use.tensor.nbytes / max(total_bytes, 1),
        compressible=use.compressible,
        why=use.why_not or "",
        rank90=ranks and ranks[0],
        rank99=ranks and ranks[1],
        rank999=ranks and ranks[2],
    )


def _activation_rows(model: ir.Model, cost: Flops, done: set[ir.Node]) -> Iterator[InspectRow]:
    folds = _foldable(model)
    for node in nodes(model):
        count = cost.nodes.get(node)
        if count is not None and count.macs != 0 and node not in done:
            why = "multiplies activations"
            if any(value in folds for value in node.inputs):
                why = "weights are computed from constants: simplify first"
            yield InspectRow(
                name=node.name or node.outputs[0].name or "",
                op=node.op_type,
                kind="activations",
                shape=(),
                params=0,
                macs=count.macs,
                bytes=0,
                share=0.0,
                compressible=False,
                why=count.why or why,
            )


def _foldable(model: ir.Model) -> set[ir.Value | None]:
    """Values that nodes compute from constants alone."""
    folds: set[ir.Value | None] = set()
    for node in nodes(model):
        if node.inputs and all(v in folds or constant(v) is not None for v in node.inputs if v):
            folds.update(node.outputs)
    return folds


def _rest_row(rest: Sequence[ir.TensorProtocol], total_bytes: int) -> InspectRow:
    size = sum(tensor.nbytes for tensor in rest)
    return InspectRow(
        name="other constants",
        op="",
        kind="rest",
        shape=(),
        params=sum(tensor.size for tensor in rest),
        macs=0,
        bytes=size,
        share=size / max(total_bytes, 1),
        compressible=False,
        why="biases, norms and scales",
    )


def _totals(
    model: ir.Model,
    cost: Flops,
    weights: Mapping[ir.Value, ir.TensorProtocol],
    uses: Iterable[WeightUse],
) -> dict[str, Any]:
    dtypes: dict[str, dict[str, int]] = {}
    for _, tensor in _constants(model):
        row = dtypes.setdefault(tensor.dtype.name, {"tensors": 0, "elements": 0, "bytes": 0})
        row["tensors"] += 1
        row["elements"] += tensor.size
        row["bytes"] += tensor.nbytes if tensor.dtype != ir.DataType.STRING else 0
    duplicates = _duplicates(weights)
    compressible = {id(use.tensor): use.tensor.nbytes for use in uses if use.compressible}
    ops = collections.Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes(model)
    )
    opsets = dict(model.graph.opset_imports)
    return {
        "params": params(model),
        "weight_bytes": sum(tensor.nbytes for tensor in weights.values()),
        "file_bytes": size_bytes(model),
        "compressible_bytes": sum(compressible.values()),
        "nodes": sum(ops.values()),
        "macs": cost.macs,
        "flops": cost.flops,
        "macs_unknown": list(cost.unknown),
        "input_shapes": {name: list(shape) for name, shape in cost.input_shapes.items()},
        "assumed": dict(cost.assumed),
        "ir_version": model.ir_version,
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "opsets": opsets,
        "custom_domains": sorted({node.domain for node in nodes(model)} - {"", "ai.onnx.ml"}),
        "functions": len(model.functions),
        "inputs": [_port(v) for v in model.graph.inputs if not v.is_initializer()],
        "outputs": [_port(v) for v in model.graph.outputs],
        "ops": dict(ops.most_common()),
        "dtypes": dtypes,
        "duplicates": [[value.name or "" for value, _ in group] for group in duplicates],
        "duplicate_bytes": sum(t.nbytes for group in duplicates for _, t in group[1:]),
    }


def _port(value: ir.Value) -> dict[str, Any]:
    """An input or output of the model."""
    shape = None
    if value.shape is not None:
        shape = [d if isinstance(d, int) else d.value for d in value.shape]
    kind = str(value.type) if value.type is not None else "unknown"
    return {"name": value.name, "type": kind, "shape": shape}


def _duplicates(
    weights: Mapping[ir.Value, ir.TensorProtocol],
) -> list[list[tuple[ir.Value, ir.TensorProtocol]]]:
    """Groups of weights above 1 KB with the same type, shape and bytes, stored separately."""
    alike: dict[tuple[Any, ...], list[tuple[ir.Value, ir.TensorProtocol]]] = {}
    for item in weights.items():
        tensor = item[1]
        if tensor.nbytes >= _WORTH_COMPARING:
            alike.setdefault((tensor.dtype, *tensor.shape.numpy()), []).append(item)
    equal: dict[bytes, list[tuple[ir.Value, ir.TensorProtocol]]] = {}
    for group in alike.values():
        for item in group if len(group) > 1 else ():
            key = f"{item[1].dtype}{item[1].shape}".encode()
            equal.setdefault(hashlib.sha256(key + item[1].tobytes()).digest(), []).append(item)
    return [group for group in equal.values() if len(group) > 1]
