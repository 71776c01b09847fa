"""Nodes in floating point for nodes on integers: what the parts of `dequantize` share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers, root_of
from onnxslim_rx.analysis.stored import Stored, stored
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Scene

__all__ = ["Draft", "RefusedError", "Weights"]

_ENDINGS = (".int8", ".int4", ".packed", "_quantized", "_Q4", "_Q4G32", "_Q8", "_Q2", ".fused")
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_FIRST_LINEAR = 10  # the opset that brought QuantizeLinear and DequantizeLinear
_LEAST_HALVED = 1024  # entries of a weight for which a Cast pays
_HALF_ERROR = 1e-3  # relative; float16 rounds by a third of that where nothing underflows


class RefusedError(Exception):
    """A node cannot be brought to floating point; its text says why, one clause."""


class Weights:
    """Weights that are put back as floats, one for each stored tensor: tied ones stay tied.

    Args:
        half: store what float16 holds well in float16, with a Cast in front of where it is used.
    """

    def __init__(self, *, half: bool) -> None:
        self._half = half
        self._made: dict[tuple[object, bool], ir.Value] = {}
        self.fresh: list[ir.Value] = []
        """Constants made since somebody emptied the list."""

    def get(
        self, found: Stored, scene: Scene, tape: ir.tape.Tape, *, turned: bool = False
    ) -> ir.Value:
        """The weight, with its last two axes swapped if `turned`.

        One that is read both ways is stored once, as it was stored before, and turned by a node.
        """
        plain = self._alive(found, turned=False)
        if turned and (plain is not None or _read_otherwise(found.root)):
            order = [*range(len(found.shape) - 2), len(found.shape) - 1, len(found.shape) - 2]
            straight = self.get(found, scene, tape)
            return tape.op("Transpose", [straight], {"perm": order})
        value = self._alive(found, turned=turned) or self._make(found, scene, turned=turned)
        if value.dtype != found.dtype:
            return tape.op("Cast", [value], {"to": found.dtype})
        return value

    def _alive(self, found: Stored, *, turned: bool) -> ir.Value | None:
        """What was made of it before, if it is still in the model."""
        value = self._made.get((found.key, turned))
        return value if value is not None and (value.uses() or value in self.fresh) else None

    def _make(self, found: Stored, scene: Scene, *, turned: bool) -> ir.Value:
        dtype = ir.DataType.FLOAT16 if self._half and _suits_half(found) else found.dtype
        array = found.read(dtype)
        if turned:
            array = np.ascontiguousarray(array.swapaxes(-1, -2))
        graph = found.root.graph
        assert graph is not None  # constants belong to one
        tensor = ir.tensor(array, dtype=dtype)
        value = scene.editor.constant(graph, tensor, _name(found.root))
        self._made[found.key, turned] = value
        self.fresh.append(value)
        return value


def _name(root: ir.Value) -> str:
    """What the weight was called before it was quantized, as far as its name tells."""
    name = root.name or "weight"
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            return name[: -len(ending)]
    return f"{name}.float"


def _read_otherwise(root: ir.Value) -> bool:
    """Whether the constant is read by an operator that does not turn its weight."""
    values = [root]
    for value in values:
        for use in value.uses():
            if use.node.op_type in _VIEWS:
                values.extend(use.node.outputs)
            elif use.node.op_type not in ("MatMulNBits", "DynamicQuantizeLSTM"):
                return True
    return False


def _suits_half(found: Stored) -> bool:
    """Whether float16 holds a weight with hardly an error, and that is worth a node."""
    if found.dtype != ir.DataType.FLOAT or np.prod(found.shape) < _LEAST_HALVED:
        return False
    error = norm = 0.0
    for _, part in found.parts():
        with np.errstate(over="ignore", invalid="ignore"):
            error += float(np.square(part.astype(np.float16) - part).sum())
        norm += float(np.square(part).sum())
    return error <= _HALF_ERROR**2 * norm  # not where the error is infinite, or NaN


class Draft:
    """What takes the place of one node.

    Args:
        node: of a graph.
        scene: where it lies.
        weights: that were and will be put back.
    """

    def __init__(self, node: ir.Node, scene: Scene, weights: Weights) -> None:
        self.node = node
        self.scene = scene
        self.tape = ir.tape.Tape()
        self._weights = weights

    def input(self, index: int) -> ir.Value | None:
        """An input of the node; None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def needed(self, index: int) -> ir.Value:
        """An input that has to be there."""
        value = self.input(index)
        if value is None:
            raise RefusedError(f"input {index} is missing")
        return value

    def weight(self, found: Stored | str, *, turned: bool = False) -> ir.Value:
        """A constant as floats; see `Weights.get`."""
        if isinstance(found, str):
            raise RefusedError(f"the weight: {found}")
        return self._weights.get(found, self.scene, self.tape, turned=turned)

    def real(
        self, values: ir.Value, scale: ir.Value, zero: ir.Value | None, *, axis: int | None = None
    ) -> ir.Value:
        """What integers stand for: a constant as floats, anything else by DequantizeLinear.

        Args:
            values: the integers.
            scale: of each, or of all.
            zero: the integer that stands for 0; None: 0.
            axis: of constants, if they have several scales.
        """
        if root_of(values) is not None:
            scales, zeros = numbers(scale), numbers(zero)
            if scales is None or (zeros is None and zero is not None):
                raise RefusedError("a scale or zero point of a weight is no constant")
            dtype = ir.DataType.from_numpy(scales.dtype)
            return self.weight(stored(values, scales, zeros, dtype, axis=axis))
        self._check_linear(scale)
        return self.tape.op("DequantizeLinear", [values, scale, *([] if zero is None else [zero])])

    def rounded(self, y: ir.Value, scale: ir.Value, zero: ir.Value | None) -> ir.Value:
        """`y` as the integers that the node returned."""
        self._check_linear(scale)
        if zero is None:
            dtype = self.node.outputs[0].dtype or ir.DataType.UINT8
            zero = self.constant(np.zeros((), dtype.numpy()), "zero")
        return self.tape.op("QuantizeLinear", [y, scale, zero])

    def constant(self, array: npt.NDArray[Any], kind: str) -> ir.Value:
        """A small constant on the tape."""
        name = f"{self.node.outputs[0].name}.{kind}"
        return self.tape.initializer(ir.tensor(array), name=name)

    def add(self, y: ir.Value, bias: ir.Value | None) -> ir.Value:
        """`y + bias`."""
        return y if bias is None else self.tape.op("Add", [y, bias])

    def finish(self, *results: ir.Value, behind: Sequence[ir.Node] = ()) -> bool:
        """Put what was drafted in the place of the node, and drop what nobody reads any more.

        Args:
            results: one for each output of the node, or of the last of `behind`.
            behind: nodes of the same graph that go as well.
        """
        nodes = [self.node, *behind]
        pairs: Mapping[ir.Value, ir.Value] = {
            before: after
            for before, after in zip(nodes[-1].outputs, results, strict=True)
            if before.uses() or before.is_graph_output()
        }
        read = [value for node in nodes for value in node.inputs]
        self.scene.replace(nodes, self.tape, pairs)
        self._sweep(read)
        return True

    def _sweep(self, values: Iterable[ir.Value | None]) -> None:
        """Remove nodes that make `values` for nobody, and what they alone read."""
        for value in values:
            node = None if value is None else value.producer()
            if node is None or node.graph is None:
                continue
            if any(one.uses() or one.is_graph_output() for one in node.outputs):
                continue
            inputs = list(node.inputs)
            remove(node)
            self.scene.editor.remove_unused(inputs)
            self._sweep(inputs)

    def give_up(self, error: RefusedError) -> Skip:
        """Leave the node, and nothing of what was drafted."""
        for node in reversed(self.tape.nodes):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.scene.editor.remove_unused(self._weights.fresh)
        return Skip(str(error))

    def _check_linear(self, scale: ir.Value) -> None:
        if self.scene.opset < _FIRST_LINEAR:
            raise RefusedError(f"opset {self.scene.opset} has no QuantizeLinear")
        if self.scene.facts.sizes(scale) not in ((), (1,)):
            raise RefusedError("what is computed has several scales")
