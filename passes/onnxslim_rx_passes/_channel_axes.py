"""Which axes of a weight index output channels: each index gets a scale of its own."""

from __future__ import annotations

from onnxslim_rx.passbase import Layer
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._part_layers import PARTS, part_axes
from onnxslim_rx_passes._picked_layers import PICKED

__all__ = ["channel_axes"]


def channel_axes(layer: Layer) -> tuple[int, ...]:
    """The axes of the layer's constant that index output channels; of a table, its rows."""
    if layer.kind == PARTS:
        return part_axes(layer)
    rank = len(tensor_of(layer.weights[0]).shape)
    if layer.kind == PICKED:
        return tuple(range(rank - 1))
    if layer.kind == "recurrent":
        return (0, 1)  # (directions, gates * hidden, inputs)
    if layer.kind == "conv":
        return (1,) if layer.op == "ConvTranspose" else (0,)
    if layer.kind == "embedding":
        return (0,)
    batch = tuple(range(rank - 2))
    columns = layer.weight_index == 1
    if layer.op == "Gemm":
        transposed = layer.node.attributes.get_int("transB" if columns else "transA", 0)
        columns = columns != bool(transposed)
    return (*batch, rank - 1 if columns else rank - 2)
