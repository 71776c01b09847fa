"""Transformer-like graphs of any number of nodes, as exporters write them, for timing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

WIDTH, HEADS = 64, 4


class _Writer:
    """Appends nodes and weights to a graph."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, ir.Value] = {}

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        count = len(self.nodes)
        made = ir.node(kind, inputs, attributes or None, name=f"node_{count}")
        made.outputs[0].name = f"value_{count}"
        self.nodes.append(made)
        return made.outputs[0]

    def weight(self, array: Any) -> ir.Value:
        """A new initializer; exporters write small constants anew for each use, and so do we."""
        name = f"weight_{len(self.weights)}"
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=ir.Shape(np.shape(array)), type=kind, const_value=tensor)
        self.weights[name] = value
        return value

    def scalar(self, number: float) -> ir.Value:
        """A float32 constant."""
        return self.weight(np.asarray(number, np.float32))

    def vector(self, *numbers: int) -> ir.Value:
        """An int64 constant."""
        return self.weight(np.asarray(numbers, np.int64))

    def matrix(self, rows: int, columns: int) -> ir.Value:
        """Random weights that keep the scale."""
        values = self.rng.standard_normal((rows, columns)) / math.sqrt(rows)
        return self.weight(values.astype(np.float32))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One size of `value` as a vector, by Shape, Gather and Unsqueeze."""
        gathered = self.op("Gather", self.op("Shape", value), self.weight(np.int64(axis)))
        return self.op("Unsqueeze", gathered, self.vector(0))


def transformer(nodes: int, seed: int = 0) -> ir.Model:
    """About `nodes` nodes (to half a block, some 32) on dynamic batch and length, opset 17.

    Normalisation in pieces, shape arithmetic around every Reshape, GELU by Erf, an Identity in
    each block.
    """
    writer = _Writer(seed)
    dims = ("batch", "length", WIDTH)
    entry = ir.Value(name="x", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))
    value, block = entry, 0
    while not block or len(writer.nodes) + block / 2 < nodes:
        before = len(writer.nodes)
        value = _block(writer, value)
        block = len(writer.nodes) - before
    value.name, value.shape = "y", ir.Shape(dims)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [entry],
        [value],
        nodes=writer.nodes,
        initializers=tuple(writer.weights.values()),
        opset_imports={"": 17},
        name="transformer",
    )
    return ir.Model(graph, ir_version=8)


def _block(writer: _Writer, x: ir.Value) -> ir.Value:
    op = writer.op
    normal = _normalise(writer, x)
    query, key, value = (
        _heads(writer, normal, p) for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    )
    scores = op("Mul", op("MatMul", query, key), writer.scalar(0.25))
    mixed = op("MatMul", op("Softmax", scores, axis=-1), value)
    back = op("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = op("Concat", writer.size(back, 0), writer.vector(-1, WIDTH), axis=0)
    joined = op("Reshape", op("Reshape", back, shape), op("Shape", x))
    x = op("Add", x, joined)
    inner = op("MatMul", x, writer.matrix(WIDTH, 2 * WIDTH))
    inner = op("Add", inner, writer.weight(np.zeros(2 * WIDTH, np.float32) + 0.1))
    bell = op("Erf", op("Div", inner, writer.scalar(math.sqrt(2))))
    inner = op("Mul", op("Mul", inner, op("Add", bell, writer.scalar(1))), writer.scalar(0.5))
    outer = op("MatMul", inner, writer.matrix(2 * WIDTH, WIDTH))
    return op("Add", x, op("Identity", outer))


def _normalise(writer: _Writer, x: ir.Value) -> ir.Value:
    op = writer.op
    centred = op("Sub", x, op("ReduceMean", x, axes=[-1]))
    variance = op("ReduceMean", op("Pow", centred, writer.scalar(2)), axes=[-1])
    deviation = op("Sqrt", op("Add", variance, writer.scalar(1e-5)))
    scaled = op("Mul", op("Div", centred, deviation), writer.weight(np.ones(WIDTH, np.float32)))
    return op("Add", scaled, writer.weight(np.full(WIDTH, 0.1, np.float32)))


def _heads(writer: _Writer, x: ir.Value, order: tuple[int, ...]) -> ir.Value:
    projected = writer.op("MatMul", x, writer.matrix(WIDTH, WIDTH))
    rest = writer.vector(HEADS, WIDTH // HEADS)
    shape = writer.op("Concat", writer.size(projected, 0), writer.size(projected, 1), rest, axis=0)
    return writer.op("Transpose", writer.op("Reshape", projected, shape), perm=list(order))
