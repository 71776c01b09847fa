"""Nodes of attention whose heads became narrower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Factors, Skip
from onnxslim_rx_passes._heads import Heads, tensor_of

__all__ = ["emit"]


def emit(
    unit: Heads, arrays: Factors, width: int, tape: ir.tape.Tape
) -> Mapping[ir.Value, ir.Value] | Skip:
    """The unit's nodes again, with the constants of narrower heads and sizes that fit.

    Args:
        unit: what is replaced.
        arrays: one for each constant, in float64.
        width: of the new heads.
        tape: takes the nodes, of which there are no more than before.

    Returns:
        As `CompressionPass.apply`.
    """
    made: dict[ir.Value, ir.Value] = {}
    gone = {dropped.constant for dropped in unit.dropped}
    for index, (value, array) in enumerate(zip(unit.weights, arrays, strict=True)):
        dtype = tensor_of(value).dtype
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array).astype(dtype.numpy())
        if not np.isfinite(stored).all():
            return Skip(f"{value.name} would not be finite in {dtype.name.lower()}")
        if index not in gone:
            tensor = ir.tensor(stored, dtype=dtype)
            made[value] = tape.initializer(tensor, name=f"{value.name}.narrow")
    replaced = dict(made)
    vectors: dict[tuple[int, ...], ir.Value] = {}
    passed = {dropped.node: dropped.activation for dropped in unit.dropped}
    for position, node in enumerate(unit.nodes):
        inputs = [value if value is None else made.get(value, value) for value in node.inputs]
        if position in passed:
            forwarded = inputs[passed[position]]
            assert forwarded is not None  # an Add has two inputs
            made[node.outputs[0]] = forwarded
            continue
        attributes: dict[str, Any] = dict(node.attributes)
        sizes = unit.splits.get(position)
        if position in unit.reshapes:
            last = unit.reshapes[position].at(width)
            inputs[1] = _vector((*tensor_of(node.inputs[1]).numpy()[:-1], last), vectors, tape)
        elif sizes is not None:
            attributes.pop("num_outputs", None)
            if unit.by_attribute:
                attributes["split"] = [size.at(width) for size in sizes]
            else:
                inputs = [inputs[0], _vector([size.at(width) for size in sizes], vectors, tape)]
        outputs = tape.op_multi_out(
            node.op_type,
            inputs,
            attributes,
            num_outputs=len(node.outputs),
            domain=node.domain,
            version=node.version,
            name=node.name,
        )
        made.update(zip(node.outputs, outputs, strict=True))
    inside = set(unit.nodes)
    for value in (value for node in unit.nodes for value in node.outputs):
        if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
            replaced[value] = made[value]
    return replaced


def _vector(
    numbers: Sequence[Any], known: dict[tuple[int, ...], ir.Value], tape: ir.tape.Tape
) -> ir.Value:
    """A constant of these integers; the old one may have other readers, so it stays as it is."""
    key = tuple(map(int, numbers))
    if key not in known:
        tensor = ir.tensor(np.array(key, np.int64))
        known[key] = tape.initializer(tensor, name="heads.sizes")
    return known[key]
