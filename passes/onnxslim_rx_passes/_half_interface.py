"""Inputs and outputs of a model in 16 bits of floating point.

First they are rounded inside the model, so that it can be measured and verified with the types that
it had; when that is done, the types change, and the numbers that the model computes do not.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx.ir import mark
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._half_casts import is_cast
from onnxslim_rx_passes._halves import HALVES

__all__ = ["release_interface", "round_interface"]

_FLOAT = ir.DataType.FLOAT


def round_interface(editor: Editor, half: ir.DataType, by: str) -> None:
    """Round inputs and outputs in float32 of the main graph to `half`, in place.

    Args:
        editor: of the model.
        half: float16 or bfloat16.
        by: name of the pass, noted on the new Casts; what they round already is left as it is.
    """
    graph = editor.model.graph
    for value in graph.inputs:
        open_ = value.dtype == _FLOAT and not value.is_initializer() and bool(value.uses())
        if open_ and not value.is_graph_output() and _rounding(value, by) is None:
            readers = list(value.uses())
            there, back = _casts(editor, value, half, by)
            for node, index in readers:
                node.replace_input_with(index, back.outputs[0])
            graph.insert_before(graph[0], [there, back])
    for index, value in enumerate(graph.outputs):
        maker = value.producer()
        if value.dtype == _FLOAT and maker is not None and not is_cast(maker, by):
            name, value.name = value.name, editor.fresh(f"{value.name}_exact")
            there, back = _casts(editor, value, half, by)
            back.outputs[0].name = name
            graph.extend([there, back])
            graph.outputs[index] = back.outputs[0]


def release_interface(model: ir.Model, by: str) -> None:
    """Callers give and get in half what `round_interface` rounds, in place."""
    editor, graph = Editor(model), model.graph
    for value in graph.inputs:
        cast = _rounding(value, by)
        if cast is not None:
            value.type = cast.outputs[0].type
            cast.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
            remove(cast)
    for index, value in enumerate(graph.outputs):
        node = value.producer()
        before = node.inputs[0] if node is not None and is_cast(node, by) else None
        if node is None or before is None or before.dtype not in HALVES.values():
            continue
        if before.producer() is None or before.is_graph_output():
            continue
        graph.outputs[index] = before
        name, value.name = value.name, None
        before.name = name
        if value.uses():
            value.name = editor.fresh(f"{name}_float32")
        else:
            remove(node)


def _rounding(value: ir.Value, by: str) -> ir.Node | None:
    """The Cast to half that alone reads an input, if so."""
    readers = [use.node for use in value.uses()]
    if value.dtype != _FLOAT or len(readers) != 1 or not is_cast(readers[0], by):
        return None
    return readers[0] if readers[0].outputs[0].dtype in HALVES.values() else None


def _casts(editor: Editor, value: ir.Value, half: ir.DataType, by: str) -> tuple[ir.Node, ir.Node]:
    """To half and back, without a place in the graph."""
    made: list[ir.Node] = []
    for dtype in (half, _FLOAT):
        name = editor.fresh(f"{value.name}_{dtype.name.lower()}")
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        source = made[0].outputs[0] if made else value
        node = ir.Node("", "Cast", [source], [ir.AttrInt64("to", int(dtype))], outputs=[output])
        node.name = editor.fresh_for_node(f"{name}/Cast")
        mark(node, by)
        made.append(node)
    return made[0], made[1]
