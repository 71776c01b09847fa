"""Merge matrix products of the same activations into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._products import Product, product
from onnxslim_rx_passes._refold import Line, line
from onnxslim_rx_passes._weights import (
    Wide,
    cast,
    emit,
    fused_name,
    is_far,
    lazily,
    made_by,
    tensor_of,
)

__all__ = ["MergeMatmuls"]

_SIGNED_AXES = 11
_SIZES_AS_INPUT = 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeMatmuls(Rule):
    """Replace `X W1 + b1, X W2 + b2, ...` by one product with `[W1 W2 ...]` and a Split.

    Such are queries, keys and values of attention. W (K, N_i), b (N_i,); MatMul or Gemm with equal
    attributes. The biases of MatMul are Adds of constant rows; where some have none it is zero.
    Every weight and bias is read once; each part of the Split holds the numbers of one product, in
    order. Only where there are fewer nodes.

    Refused: weights that are computed or have other readers, different types or attributes.

    Args:
        at_least: fewer products stay; at least 2.
    """

    name: ClassVar[str] = "merge-matmuls"
    roots: ClassVar[tuple[str, ...]] = ("Gemm", "MatMul")
    phase: ClassVar[int] = 2
    at_least: int = 3

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        x = node.inputs[0]
        if x is None or len(x.uses()) < self.at_least or tensor_of(node.inputs[1], scene) is None:
            return False
        readers = [
            use.node
            for use in x.uses()
            if use.idx == 0 and use.node.op_type == node.op_type and use.node.graph is node.graph
        ]
        if len(readers) < self.at_least:
            return False
        found = [one for reader in readers if (one := _candidate(reader, scene)) is not None]
        like = next((one for one in found if one.target.node is node), None)
        if like is None:
            return Skip("its weight has other readers, or it is no matrix, or its bias is no row")
        found = [one for one in found if _key(one.target) == _key(like.target)]
        if len(found) < self.at_least:
            return Skip("weights have other readers, or types or attributes differ")
        return _merge(x, found, scene)


def _candidate(reader: ir.Node, scene: Scene) -> Line | None:
    """A product whose weight and bias may move, with the Add behind it if that is all its bias."""
    target = product(reader, scene) if reader.domain == "" else None
    if target is None or target.on_left or target.shared(scene) is not None:
        return None
    if target.tensor is None or isinstance(target.bias_row(scene), Skip):
        return None
    uses = reader.outputs[0].uses()
    if reader.op_type == "MatMul" and len(uses) == 1:
        (use,) = uses
        if use.node.op_type == "Add" and use.node.domain == "":
            found = line(use.node.outputs[0], scene)
            if isinstance(found, Line) and found.target.node is reader:
                return found
    return Line(target)


def _key(target: Product) -> tuple[object, ...]:
    """What products have in common that may be merged."""
    attributes = sorted((k, a.value) for k, a in target.node.attributes.items() if k != "beta")
    return target.dtype, target.channels_in, target.bias is None, tuple(attributes)


def _merge(x: ir.Value, found: Sequence[Line], scene: Scene) -> bool | Skip:
    first = found[0].target
    biased = [one for one in found if one.add is not None]
    if len(biased) < 2:  # an Add for all would not be fewer
        found = [Line(one.target) for one in found]
        biased = []
    rank = scene.facts.rank(x)
    if rank is None and scene.opset < _SIGNED_AXES:
        return Skip("the number of axes is not known")
    axis = -1 if rank is None or scene.opset >= _SIGNED_AXES else rank - 1
    tape = ir.tape.Tape()
    inputs = [x, _weights([one.target for one in found], tape)]
    if first.node.op_type == "Gemm" and first.bias is not None:
        row = _row([one.target.bias_row(scene) for one in found], found)
        stored = cast(row, first.dtype)
        if stored is None:
            return Skip("the result would not be finite")
        inputs.append(emit(tape, stored, fused_name(first.bias, "bias")))
    result = tape.op(first.node.op_type, inputs, name=first.node.name)
    kept = {k: a for k, a in first.node.attributes.items() if k != "beta"}
    made_by(result).attributes.update(kept)
    if biased:
        stored = cast(_row([one.row for one in found], found), first.dtype)
        if stored is None:
            return Skip("the result would not be finite")
        bias = emit(tape, stored, fused_name(biased[0].addend, "bias"))
        result = tape.op("Add", [result, bias])
    sizes = [one.target.channels for one in found]
    attributes: dict[str, int | list[int]] = {"axis": axis}
    operands = [result]
    if scene.opset < _SIZES_AS_INPUT:
        attributes["split"] = sizes
    else:
        operands.append(emit(tape, np.asarray(sizes, np.int64), "sizes"))
    parts = tape.op_multi_out("Split", operands, attributes, num_outputs=len(sizes))
    _insert_behind(x, first.node, tape, scene)
    for one, part in zip(found, parts, strict=True):
        nodes = one.nodes
        scene.replace(nodes, ir.tape.Tape(), {nodes[-1].outputs[0]: part})
    return True


def _weights(targets: Sequence[Product], tape: ir.tape.Tape) -> ir.Value:
    """The weights side by side."""
    first = targets[0]
    tensors = [one.tensor for one in targets if one.tensor is not None]
    axis = 0 if first.node.attributes.get_int("transB", 0) else 1
    shape = list(first.shape)
    shape[axis] = sum(one.shape[axis] for one in targets)

    def compute() -> ir.TensorProtocol:
        joined = np.concatenate([tensor.numpy() for tensor in tensors], axis)
        return ir.tensor(joined, dtype=first.dtype)

    name = fused_name(first.weight, "weight")
    far = any(map(is_far, tensors))
    return tape.initializer(lazily(compute, first.dtype, tuple(shape), name, far=far), name=name)


def _row(rows: Sequence[object], found: Sequence[Line]) -> Wide:
    """Biases () or (channels,), None for none, one behind the other."""
    parts = [
        np.broadcast_to(np.asarray(0.0 if row is None else row, np.float64), one.target.channels)
        for row, one in zip(rows, found, strict=True)
    ]
    return np.concatenate(parts)


def _insert_behind(x: ir.Value, reader: ir.Node, tape: ir.tape.Tape, scene: Scene) -> None:
    """Put new nodes where x is made: which of its readers comes first is not known."""
    graph, producer = reader.graph, x.producer()
    assert graph is not None  # rules see nodes of graphs
    if producer is None or producer.graph is not graph:
        scene.insert(tape, graph[0])
        return
    place = ir.Node("", "Identity", [x])
    graph.insert_after(producer, [place])
    scene.insert(tape, place)
    remove(place)
