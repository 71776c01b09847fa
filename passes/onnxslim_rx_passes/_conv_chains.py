"""Kernels of a chain of convolutions: as they are stored, what they compose to, and the nodes.

A part of a chain has the canonical kernel (G, outputs, inputs, *k), k along its own axes alone, or
(G, R, *k) where it is depthwise. Pointwise parts are emitted as Conv, those with axes as what the
layer is. Conv stores (G outputs, inputs, *k) and ConvTranspose (G inputs, outputs, *k), with size 1
along all other axes; both store a depthwise part as (G R, 1, *k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._conv_geometry import Convolution, Kernels
from onnxslim_rx_passes._conv_structures import Part, Structure

__all__ = ["compose", "emit", "names", "output_axes", "stored"]


def stored(conv: Convolution, structure: Structure, factors: Sequence[Kernels]) -> list[Kernels]:
    """The kernels as the convolutions of a chain store them."""
    return [_stored(conv, part, f) for part, f in zip(structure.parts, factors, strict=True)]


def _stored(conv: Convolution, part: Part, factor: Kernels) -> Kernels:
    sizes = [conv.sizes[axis] if axis in part.axes else 1 for axis in conv.axes]
    if part.depthwise:
        return factor.reshape(-1, 1, *sizes)
    full = factor.reshape(*factor.shape[:3], *sizes)
    if conv.is_transposed and part.axes:
        full = np.swapaxes(full, 1, 2)
    return full.reshape(-1, *full.shape[2:])


def compose(conv: Convolution, kernels: Sequence[Array]) -> Kernels:
    """The kernel that a chain stands for, as the layer stores it.

    Args:
        conv: the layer.
        kernels: of the parts in order, as stored; sizes tell which part is depthwise.
    """
    total: Kernels | None = None  # (G, *k, outputs so far, channels)
    for kernel, layout in zip(kernels, _layouts(conv, kernels), strict=True):
        by_group = kernel.astype(np.float64).reshape(conv.groups, -1, *kernel.shape[1:])
        own = np.swapaxes(by_group, 1, 2) if layout == "flipped" else by_group
        own = np.moveaxis(own, (1, 2), (-2, -1))
        if total is None:
            total = own
        else:
            total = total * own if layout == "depthwise" else np.matmul(own, total)
    assert total is not None  # a chain has parts
    return conv.stored(np.moveaxis(total, (-2, -1), (1, 2)))


def output_axes(conv: Convolution, kernels: Sequence[Array]) -> list[int | None]:
    """By kernel of a chain, the axis that indexes its outputs; None where it is depthwise."""
    axes: dict[str, int | None] = {"plain": 0, "flipped": 1, "depthwise": None}
    return [axes[layout] for layout in _layouts(conv, kernels)]


def _layouts(conv: Convolution, kernels: Sequence[Array]) -> list[str]:
    """How each kernel of a chain is stored: "plain", "flipped" (inputs first) or "depthwise".

    A depthwise part of one channel is the same as one with one input and one output.
    """
    flipped = [_is_transposed(conv, kernels, i) for i in range(len(kernels))]
    reads = [_inputs(conv, k, flip) for k, flip in zip(kernels, flipped, strict=True)]
    found, rank = [], conv.channels
    for i, (kernel, flip) in enumerate(zip(kernels, flipped, strict=True)):
        last = i + 1 == len(kernels)
        one = i > 0 and rank > 1 and kernel.shape[1] == 1
        # stored by inputs, a part that makes one output looks alike: its successor reads one
        if one and (not flip or (not last and reads[i + 1] == rank)):
            found.append("depthwise")
            continue
        found.append("flipped" if flip else "plain")
        rank = int(kernel.shape[1] if flip else kernel.shape[0] // conv.groups)
    return found


def _inputs(conv: Convolution, kernel: Array, flipped: bool) -> int:
    return int(kernel.shape[0] // conv.groups if flipped else kernel.shape[1])


def _is_transposed(conv: Convolution, kernels: Sequence[Array], i: int) -> bool:
    """Whether part `i` is stored as ConvTranspose stores it: whether it has axes of its own."""
    if not conv.is_transposed:
        return False
    if not conv.long_axes:  # fewer channels first, see `structures`
        return i == len(kernels) - 1
    return any(size > 1 for size in kernels[i].shape[2:])


def names(weight: str, number: int) -> list[str]:
    """What the kernels of a chain in place of `weight` are called."""
    inner = [f"{weight}.s{i}" for i in range(1, number - 1)] if number > 3 else [f"{weight}.s"]
    return [f"{weight}.p", *(inner if number > 2 else []), f"{weight}.q"]


def emit(
    layer: Layer, structure: Structure, kernels: Sequence[ir.Value], tape: ir.tape.Tape
) -> ir.Value:
    """All convolutions of a chain; the last adds the layer's bias.

    Args:
        layer: what the chain stands for.
        structure: the chain.
        kernels: constants, as `stored` has them.
        tape: gets the nodes.
    """
    value, conv = layer.activation, Convolution.of(layer)
    last = structure.parts[-1]
    for part, kernel in zip(structure.parts, kernels, strict=True):
        attributes = conv.attributes(part.axes)
        assert kernel.const_value is not None
        groups = kernel.const_value.shape.numpy()[0] if part.depthwise else conv.groups
        if groups != 1:
            attributes["group"] = groups
        bias = layer.node.inputs[2:] if part is last else ()
        op = layer.op if part.axes else "Conv"
        value = tape.op(op, [value, kernel, *bias], attributes)
    return value
