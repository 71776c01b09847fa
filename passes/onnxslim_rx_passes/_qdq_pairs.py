"""Lay out QuantizeLinear and DequantizeLinear between layers: off with all, then on where needed.

Only pairs that the pass made itself are touched.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant, marked
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._qdq_grids import Grid, grid_read
from onnxslim_rx_passes._qdq_nodes import FLOAT, INTEGER, emit_number, emit_pair
from onnxslim_rx_passes._qdq_spread import Readers, Spread
from onnxslim_rx_passes._qdq_weights import bias_scales, to_integers

__all__ = ["lay_out"]

_LAYERS = ("Conv", "Gemm", "MatMul")


def lay_out(model: ir.Model, by: str) -> None:
    """Put pairs where runtimes make integers of them, in place; again: nothing changes.

    Args:
        model: its main graph holds the layers.
        by: name of the pass that made the layers.
    """
    graph = model.graph
    layers = [node for node in graph if _is_layer(node, by)]
    if not layers:
        return
    asked = _lift(model, by)
    spread = Spread(list(graph), set(layers), asked)
    _Layout(model, by).place(spread)
    grids = {node: _grid_before(node) for node in layers}
    for node, grid in grids.items():
        _fit_bias(node, grid)


def _is_layer(node: ir.Node, by: str) -> bool:
    if node.op_type not in _LAYERS or marked(node) != by or len(node.inputs) < 2:
        return False
    weight = None if node.inputs[1] is None else node.inputs[1].producer()
    return weight is not None and weight.op_type == "DequantizeLinear" and marked(weight) == by


def _lift(model: ir.Model, by: str) -> dict[ir.Value, Grid]:
    """Take all pairs away; the grid of each tensor that had one, the first one's if several."""
    editor, asked = Editor(model), dict[ir.Value, Grid]()
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and marked(node) == by:
            _lift_number(node, editor)
        if node.op_type != "QuantizeLinear" or marked(node) != by:
            continue
        grid, x = grid_read(node), node.inputs[0]
        back = [use.node for use in node.outputs[0].uses()]
        ours = all(one.op_type == "DequantizeLinear" and marked(one) == by for one in back)
        if grid is None or x is None or not ours or node.outputs[0].is_graph_output():
            continue
        asked.setdefault(x, grid)
        for one in back:
            _forward(one.outputs[0], x)
            inputs = one.inputs[1:]
            remove(one)
            editor.remove_unused(inputs)
        inputs = node.inputs[1:]
        remove(node)
        editor.remove_unused(inputs)
    return asked


def _lift_number(node: ir.Node, editor: Editor) -> None:
    """Put a number in the place of its DequantizeLinear, where there is one."""
    integer, grid, graph = node.inputs[0], grid_read(node), node.graph
    stored = constant(integer)
    if integer is None or stored is None or grid is None or graph is None:
        return
    name = str(integer.name).removesuffix(INTEGER)
    if name == integer.name:  # a weight
        return
    number = (stored.numpy() - np.float32(grid.zero)) * np.float32(grid.scale)
    inputs, value = list(node.inputs), graph.initializers.get(name)
    known = constant(value)
    if value is None or known is None or not np.array_equal(known.numpy(), number):
        value = editor.constant(graph, ir.tensor(number), name)
    node.outputs[0].replace_all_uses_with(value)
    remove(node)
    editor.remove_unused(inputs)


def _forward(old: ir.Value, new: ir.Value) -> None:
    """Who reads `old` reads `new`, which takes its name where that is the tensor's own."""
    name, own = old.name, str(new.name).startswith(f"{old.name}{FLOAT}")
    own = own or old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if own:
        old.name = None
        new.name = name


class _Layout:
    """Puts pairs into the main graph of a model."""

    def __init__(self, model: ir.Model, by: str) -> None:
        self._editor, self._graph, self._by = Editor(model), model.graph, by
        self._order = list(model.graph)
        self._places = {node: place for place, node in enumerate(self._order)}

    def place(self, spread: Spread) -> None:
        """All pairs, and constants that nodes on integers read."""
        for node, index, dtype in list(spread.scalars()):
            self._scalar(node, index, dtype)
        for value, grid, readers in list(spread.places()):
            self._pair(value, grid, readers)
        self._graph.sort()

    def _pair(self, value: ir.Value, grid: Grid, readers: Readers | None) -> None:
        name, tape = str(value.name), ir.tape.Tape()
        back = emit_pair(value, grid, name, tape)
        first = tape.nodes[0]
        maker = value.producer()
        # behind the last node there is no place to insert: the graph is sorted afterwards
        place = 0 if maker is None else self._places[maker] + 1
        before = self._order[min(place, len(self._order) - 1)]
        self._editor.insert(tape, before, by=self._by, like=maker)
        if readers is not None:
            for node, index in readers:
                node.replace_input_with(index, back)
            return
        value.replace_all_uses_with(back, replace_graph_outputs=True)
        first.replace_input_with(0, value)
        value.name = self._editor.fresh(f"{name}{FLOAT}")
        back.name = name

    def _scalar(self, node: ir.Node, index: int, dtype: ir.DataType) -> None:
        value = node.inputs[index]
        tensor = constant(value)
        assert tensor is not None  # see `Spread.scalars`
        assert value is not None
        tape = ir.tape.Tape()
        rounded = emit_number(tensor.numpy(), dtype, str(value.name), tape)
        self._editor.insert(tape, node, by=self._by)
        node.replace_input_with(index, rounded)
        self._editor.remove_unused([value])


def _grid_before(layer: ir.Node) -> Grid | None:
    """That of what enters a layer."""
    node = None if layer.inputs[0] is None else layer.inputs[0].producer()
    return None if node is None else grid_read(node)


def _bias_node(layer: ir.Node) -> ir.Node | None:
    """What turns the bias of a layer back from integers; of a MatMul that of the Add behind it."""
    adders = [layer] if layer.op_type != "MatMul" else [use.node for use in layer.outputs[0].uses()]
    made = [None if v is None else v.producer() for node in adders for v in node.inputs]
    for node in made:
        stored = constant(node.inputs[0]) if node is not None and node.inputs else None
        if stored is not None and stored.dtype == ir.DataType.INT32:
            return node
    return None


def _fit_bias(layer: ir.Node, entering: Grid | None) -> None:
    """The bias of a layer in multiples of the scale that its input has now."""
    node = _bias_node(layer)
    weight = None if layer.inputs[1] is None else layer.inputs[1].producer()
    if entering is None or node is None or weight is None:
        return
    values, scales = node.inputs[:2]
    stored, old, own = (constant(v) for v in (values, scales, weight.inputs[1]))
    if stored is None or old is None or own is None or values is None or scales is None:
        return
    fit = bias_scales(entering.scale, own.numpy())
    if np.array_equal(fit, old.numpy()):
        return
    numbers = stored.numpy() * old.numpy().astype(np.float64)
    values.const_value = ir.tensor(to_integers(numbers, fit), name=values.name)
    scales.const_value = ir.tensor(fit, name=scales.name)
