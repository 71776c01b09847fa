"""From columns of activations up to the constant weight that makes them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import constant, nodes
from onnxslim_rx.passbase import Layer, weight_layers

__all__ = ["Projection", "Projections", "Refused", "Walk", "shape_of", "sole_reader"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


class Refused(Exception):
    """Why something is left alone."""


class Projection(NamedTuple):
    """A part of the columns that a MatMul or Gemm makes.

    Args:
        layer: the MatMul or Gemm.
        bias: what is added, or None.
        adder: the node that adds it: an Add, or the Gemm itself.
        start: first column in the weight.
        bias_start: first column in the bias.
        gains: by what the product with the weight, and the bias, are multiplied afterwards.
        nodes: all on the way.
        totals: of each Reshape on the way: how many columns it keeps together.
        split: the Split that takes the columns out of others, or None.
        sizes: of its outputs.
        pick: which output it is.
    """

    layer: Layer
    bias: ir.Value | None
    adder: ir.Node | None
    start: int
    bias_start: int
    gains: tuple[float, float]
    nodes: tuple[ir.Node, ...]
    totals: Mapping[ir.Node, int]
    split: ir.Node | None
    sizes: tuple[int, ...]
    pick: int


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The standard node that alone reads `value`, in the same graph, or None."""
    uses, maker = value.uses(), value.producer()
    if len(uses) != 1 or maker is None or value.is_graph_output():
        return None
    (use,) = uses
    return use.node if use.node.graph is maker.graph and use.node.domain == "" else None


class Projections:
    """The projections of one model.

    Args:
        model: not changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self.facts = Facts(model)
        self.opset = model.opset_imports.get("", 1)
        self._model = model

    @functools.cached_property
    def layers(self) -> Mapping[ir.Node, Layer]:
        """Every MatMul and Gemm with a constant matrix, as passes that replace them see it."""
        found = weight_layers(self._model, {"linear": "linear"}, min_elements=1)
        return {layer.node: layer for layer in found if isinstance(layer, Layer)}

    @functools.cached_property
    def order(self) -> Mapping[ir.Node, int]:
        """The place of every node."""
        return {node: number for number, node in enumerate(nodes(self._model))}

    def ordered(self, found: Iterable[ir.Node]) -> tuple[ir.Node, ...]:
        """Nodes without repetition, in the order of the model."""
        return tuple(sorted(set(found), key=self.order.__getitem__))

    def find(self, node: ir.Node, *, rows: int | None = None, columns: int | None = None) -> Layer:
        """The layer of a node that multiplies by a constant matrix of that size.

        Raises:
            Refused: it has another size, or others read it, or it is no plain constant.
        """
        layer = self.layers.get(node)
        if layer is None or layer.weight_index != 1:
            raise Refused("there is no projection with a constant weight that can be changed")
        if node.attributes.get_int("transA", 0):
            raise Refused("a Gemm transposes its activations")
        if len(layer.weight.uses()) > 1:
            raise Refused("several nodes share the weight of a projection")
        shape = shape_of(layer.weight)
        if node.attributes.get_int("transB", 0):
            shape = shape[::-1]
        if rows not in (None, shape[0]) or columns not in (None, shape[1]):
            raise Refused("a projection has other sizes than the heads together")
        return layer

    def check_target(self, node: ir.Node, last: int) -> None:
        """Check that a Reshape to rows of `last` elements can be made one to narrower rows.

        Raises:
            Refused: its target is no constant, or copies sizes that change from its input.
        """
        target = None if len(node.inputs) < 2 else self.facts.array(node.inputs[1])
        rank = self.facts.rank(node.inputs[0])
        if target is None or rank is None or target.ndim != 1 or target.size == 0:
            raise Refused("the target of a Reshape is computed while the model runs")
        copied = [axis for axis, size in enumerate(target.tolist()) if size == 0]
        if int(target[-1]) not in (last, -1) or rank - 1 in copied:
            raise Refused("a Reshape copies the width of heads from its input")

    def factor(self, node: ir.Node) -> tuple[int, float] | None:
        """Which input a Mul or Div by a number passes on, and the factor; None for all else."""
        if node.op_type not in ("Mul", "Div") or node.domain != "":
            return None
        for index in (0, 1) if node.op_type == "Mul" else (0,):
            x, other = node.inputs[index], node.inputs[1 - index]
            array, rank = self.facts.array(other), self.facts.rank(x)
            if array is None or array.size != 1 or rank is None or array.ndim > rank:
                continue
            number = float(array.astype(float).item())
            if number != 0:
                return index, number if node.op_type == "Mul" else 1.0 / number
        return None

    def keeps_values(self, node: ir.Node) -> bool:
        """Whether a node gives what it gets, up to the rounding of another type."""
        if node.op_type == "Cast" and node.domain == "":
            ends = (node.inputs[0], node.outputs[0])
            return all(self.facts.dtype(value) in _FLOATS for value in ends)
        return node.op_type == "Identity" and node.domain == ""


class Walk:
    """Upwards from a value, noting what lies on the way.

    Args:
        projections: of the model.
        value: where to begin.
    """

    def __init__(self, projections: Projections, value: ir.Value | None) -> None:
        self.value = value
        self.found: list[ir.Node] = []
        self._all = projections
        self._gain = 1.0

    def node(self) -> ir.Node | None:
        """The standard node that makes the value, or None."""
        node = None if self.value is None else self.value.producer()
        return node if node is not None and node.domain == "" else None

    def step(self, index: int) -> None:
        """On to an input of the node."""
        node = self.node()
        assert node is not None  # the caller looked at it
        self.found.append(node)
        self.value = node.inputs[index]

    def pass_by(self) -> bool:
        """Step over a factor or a change of type; whether there was one."""
        node = self.node()
        if node is not None and self._all.keeps_values(node):
            self.step(0)
            return True
        found = None if node is None else self._all.factor(node)
        if found is not None:
            self._gain *= found[1]
            self.step(found[0])
        return found is not None

    def projection(self, columns: int) -> Projection:
        """On to the projection that makes these columns, the last axis of the value.

        Raises:
            Refused: there is none, or there are nodes between that depend on the columns.
        """
        start, bias_start, bias_gain = 0, 0, 1.0
        bias: ir.Value | None = None
        adder: ir.Node | None = None
        split: ir.Node | None = None
        totals: dict[ir.Node, int] = {}
        sizes, pick = list[int](), 0
        while (node := self.node()) is not None and node.op_type not in ("MatMul", "Gemm"):
            if node.op_type == "Reshape":
                before = self._all.facts.shape(node.inputs[0])
                if not before or before[-1] != columns:
                    raise Refused("a Reshape does more than to cut columns into heads")
                self._all.check_target(node, columns)
                totals[node] = columns
                self.step(0)
            elif node.op_type == "Split" and split is None:
                sizes = self._sizes(node)
                split, pick = node, self._pick(node)
                start, columns = sum(sizes[:pick]), sum(sizes)
                self.step(0)
            elif node.op_type == "Add" and bias is None and (index := self._bias(node)) is not None:
                bias, adder = _own(node.inputs[index], columns), node
                bias_start, bias_gain = start, self._gain
                self.step(1 - index)
            elif not self.pass_by():
                raise Refused(f"{node.op_type} lies between a projection and its heads")
        if node is None:
            raise Refused("no projection of activations by a constant weight makes it")
        layer = self._all.find(node, columns=columns)
        weight_gain = self._gain * node.attributes.get_float("alpha", 1.0)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            if bias is not None:
                raise Refused("a projection has two biases")
            bias, adder, bias_start = _own(node.inputs[2], columns), node, start
            bias_gain = self._gain * node.attributes.get_float("beta", 1.0)
        self.found.append(node)
        gains = weight_gain, bias_gain
        way = tuple(self.found)
        return Projection(
            layer, bias, adder, start, bias_start, gains, way, totals, split, tuple(sizes), pick
        )

    def _pick(self, node: ir.Node) -> int:
        """Which output of the node the value is."""
        return next(n for n, value in enumerate(node.outputs) if value is self.value)

    def _sizes(self, node: ir.Node) -> list[int]:
        """Sizes of the pieces that a Split along the last axis makes."""
        facts = self._all.facts
        rank = facts.rank(node.inputs[0])
        if rank is None or node.attributes.get_int("axis", 0) not in (-1, rank - 1):
            raise Refused("a Split cuts another axis than that of the columns")
        shapes = [facts.shape(value) for value in node.outputs]
        sizes = [shape[-1] for shape in shapes if shape]
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) != len(shapes):
            raise Refused("the sizes of a Split are not known")
        return numbers

    def _bias(self, node: ir.Node) -> int | None:
        """Which input of an Add is a constant."""
        constants = [i for i in (0, 1) if self._all.facts.array(node.inputs[i]) is not None]
        return constants[0] if len(constants) == 1 else None


def _own(value: ir.Value | None, columns: int) -> ir.Value:
    """A bias that is a row of numbers, read by one node."""
    if value is None or constant(value) is None:
        raise Refused("the bias of a projection is no constant")
    shape = shape_of(value)
    if not shape or shape[-1] != columns or any(size != 1 for size in shape[:-1]):
        raise Refused("the bias of a projection has other sizes than the heads together")
    if len(value.uses()) > 1 or value.is_graph_output():
        raise Refused("several nodes share the bias of a projection")
    return value


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant."""
    tensor = constant(value)
    assert tensor is not None  # the caller knows that it is one
    return tuple(int(size) for size in tensor.shape.numpy())
