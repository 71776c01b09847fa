"""Facts about the values of a model, inferred when asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import bodies, fallback
from onnxslim_rx.analysis.facts.dims import Dim, fresh, symbol
from onnxslim_rx.analysis.facts.known import LONGEST, NOTHING, Array, Known, Site, small_integers
from onnxslim_rx.analysis.facts.rules.table import CONTRIB, STANDARD
from onnxslim_rx.ir import constant

__all__ = ["Facts"]

_log = logging.getLogger(__name__)


class Facts:
    """Types, shapes and contents that follow from the model's inputs and weights.

    Facts hold for each run that succeeds, whatever the inputs. What the file states of values in
    between is not used: exporters, and scripts that edit models, leave stale shapes behind. Only
    the main graph's inputs are believed, and there the same name is the same size.

    Three things are assumed. A `Reshape` whose target has a size that turns out 0, which ONNX
    reads as "copy the input's size", means 0 where the tensor is empty anyway. The windows of
    convolutions and pools fit into the padded input. Arithmetic on sizes does not overflow.

    Args:
        model: left as it is. Values are looked at when first asked for, with all that they
            depend on; values that are made later are as good as others.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._known: dict[ir.Value | None, Known] = {}
        self._arrays: dict[ir.Value, tuple[ir.TensorProtocol, Array | None]] = {}
        self._homes: dict[ir.Graph, Mapping[str, int]] = {}
        self._owners: dict[ir.Graph, ir.Node] = {}
        self._inferred = fallback.Fallback()
        self.forget()

    def forget(self) -> None:
        """Drop all: the model changed so that more may be known now."""
        self._known.clear()
        self._known[None] = NOTHING
        self._homes.clear()
        self._owners.clear()

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The type of a tensor's elements, or None."""
        return self._of(value).dtype

    def rank(self, value: ir.Value | None) -> int | None:
        """The number of dimensions, or None."""
        shape = self._of(value).shape
        return None if shape is None else len(shape)

    def shape(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The sizes, those not known being symbols of their own; None without a known rank."""
        return self._of(value).shape

    def sizes(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The sizes where all are numbers, or None."""
        shape = self._of(value).shape
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return shape  # type: ignore[return-value]  # checked in the line above

    def contents(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The elements of a tensor of integers or truth values, of rank 0 or 1; or None.

        There are at most 64. Formulas stand for elements that depend on sizes of the inputs, and
        symbols for those not known, while others in the same tensor are.
        """
        known = self._of(value)
        if known.contents is None or known.dtype is None:
            return None
        return known.contents if known.dtype.is_integer() or _is_bool(known.dtype) else None

    def array(self, value: ir.Value | None) -> Array | None:
        """The content of a constant, read only; None for other values.

        A constant is an initializer that callers cannot override, or the output of a Constant.
        """
        if value is None:
            return None
        tensor = constant(value)
        if tensor is None:
            return None
        found = self._arrays.get(value)
        if found is None or found[0] is not tensor:
            found = self._arrays[value] = tensor, _numpy(tensor)
        return found[1]

    def learn(self, value: ir.Value, known: Known) -> None:
        """Note what is known of a value; for rules of inference, not for others."""
        self._known[value] = known

    def drop(self, value: ir.Value) -> None:
        """Take back what was noted of a value; for rules of inference, not for others."""
        self._known.pop(value, None)

    def _of(self, value: ir.Value | None) -> Known:
        known = self._known.get(value)
        if known is None:
            assert value is not None  # of which nothing is known from the start
            self.settle([value])
            known = self._known.get(value, NOTHING)
        return known

    def settle(self, values: Sequence[ir.Value | None]) -> list[Known]:
        """What is known of values, after inference of all that they depend on."""
        known = self._known
        stack = [value for value in values if value not in known]
        opened: set[ir.Node] = set()
        while stack:
            value = stack[-1]
            if value is None or value in known:
                stack.pop()
                continue
            node = value.producer() or self._owner(value)
            if node is None:
                known[value] = self._source(value)
                continue
            missing = [one for one in self._needs(node) if one not in known]
            if missing and node not in opened:  # else a graph with a cycle
                opened.add(node)
                stack.extend(missing)
                continue
            self._infer(node)
            if value not in known:
                known[value] = NOTHING
        return [known.get(value, NOTHING) for value in values]

    def _needs(self, node: ir.Node) -> Sequence[ir.Value | None]:
        if bodies.has_bodies(node):
            return [*node.inputs, *bodies.captured(node)]
        return node.inputs

    def _infer(self, node: ir.Node) -> None:
        """Note what is known of the outputs of a node whose inputs are looked at."""
        known = self._known
        try:
            found = self._outputs(node)
        except Exception as error:  # noqa: BLE001  (an odd node may raise anything anywhere)
            _log.debug("inference of %s failed: %r", node.op_type, error)
            found = ()
        for index, value in enumerate(node.outputs):
            known[value] = found[index] if index < len(found) else NOTHING

    def _outputs(self, node: ir.Node) -> Sequence[Known]:
        domain, op_type = node.domain, node.op_type
        rules = STANDARD if domain in ("", "ai.onnx") else CONTRIB.get(domain)
        if self._model.functions and node.op_identifier() in self._model.functions:
            return ()
        for attribute in node.attributes.values():
            if attribute.is_ref():
                return ()
        if op_type == "Constant" and rules is STANDARD:
            return (self._stored(constant(node.outputs[0]), node.outputs[0]),)
        known = self._known
        inputs = [known.get(value, NOTHING) for value in node.inputs]
        version = self._version(node)
        site = Site(node, version, inputs, self)
        if rules is STANDARD and (infer := bodies.RULES.get(op_type)) is not None:
            return infer(site, self)
        rule = None if rules is None else rules.get(op_type)
        found = None if rule is None else rule(site)
        return self._inferred(site) if found is None else found

    def _source(self, value: ir.Value) -> Known:
        """What is known of a value that no node makes."""
        tensor = constant(value)
        if tensor is not None:
            return self._stored(tensor, value)
        if not value.is_graph_input() or value.graph is not self._model.graph:
            return NOTHING
        dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
        if value.type is not None and dtype is None:
            return NOTHING
        shape = value.shape
        return Known(dtype, None if shape is None else tuple(_dim(dim) for dim in shape))

    def _stored(self, tensor: ir.TensorProtocol | None, value: ir.Value) -> Known:
        if tensor is None:
            return NOTHING
        shape = tuple(int(size) for size in tensor.shape.numpy())
        contents = None
        if len(shape) == 0 or (len(shape) == 1 and shape[0] <= LONGEST):
            array = self.array(value)
            contents = None if array is None else small_integers(array)
        return Known(tensor.dtype, shape, contents)

    def _version(self, node: ir.Node) -> int:
        graph = node.graph
        if graph is None:
            return self._model.opset_imports.get(node.domain, 1)
        if graph not in self._homes:
            self._map()
        return self._homes.get(graph, self._model.opset_imports).get(node.domain, 1)

    def _owner(self, value: ir.Value) -> ir.Node | None:
        """The node whose body has this input."""
        if not value.is_graph_input():
            return None
        graph = value.graph
        if graph is None or graph is self._model.graph or value.is_initializer():
            return None
        if graph not in self._homes:
            self._map()
        return self._owners.get(graph)

    def _map(self) -> None:
        """Note of each graph where it belongs."""
        parts = [(self._model.graph, self._model.opset_imports)]
        parts += [(body.graph, body.opset_imports) for body in self._model.functions.values()]
        for graph, versions in parts:
            self._homes[graph] = versions
            for node in graph.all_nodes():
                for body in bodies.bodies(node):
                    self._homes[body] = versions
                    self._owners[body] = node


def _numpy(tensor: ir.TensorProtocol) -> Array | None:
    if tensor.dtype == ir.DataType.STRING:
        return None
    try:
        array: Array = np.asarray(tensor.numpy()).view()
    except Exception as error:  # noqa: BLE001  (files that went away, types that numpy lacks)
        _log.info("%s cannot be read: %s", tensor.name, error)
        return None
    array.flags.writeable = False
    return array


def _dim(dim: int | ir.SymbolicDim) -> Dim:
    if isinstance(dim, int):
        return dim if dim >= 0 else fresh()
    return fresh() if dim.value is None else symbol(str(dim.value))


def _is_bool(dtype: ir.DataType) -> bool:
    return dtype == ir.DataType.BOOL
