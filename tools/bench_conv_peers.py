"""Plain decompositions by numpy and tensorly, as anyone would do them, written as ONNX.

No data, one share for all layers. A convolution becomes a chain of convolutions, a Gemm a chain of
Gemms. Nothing of onnxslim_rx is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from tools.bench_conv_macs import Site, sites
from tools.bench_conv_plain import (
    METHODS,
    Array,
    Piece,
    channel,
    places,
    tt_at,
    tucker_at,
)

__all__ = ["at_ranks", "replaced", "uniform"]

FEWEST_CHANNELS = 4  # of a kernel that is decomposed: those that read images are not


def uniform(model: onnx.ModelProto, method: str, share: float) -> onnx.ModelProto:
    """Every large kernel at the same share of its multiply-adds; the whole model at `share`.

    As is usual, kernels of 1 x 1 and of the first layer stay as they are. On cifar10_resnet_1m at
    40% that is better than to cut them, too: by 27, 9, 13 and 18 points for these methods.

    Args:
        model: not changed; two spatial axes and one group in all convolutions.
        method: of `METHODS`.
        share: of the model's multiply-adds, at most so many are kept, in (0, 1).

    Returns:
        The model with the largest common share of each large kernel that holds `share`.

    Raises:
        ValueError: one rank in each layer is still too much.
    """
    found = sites(model)
    limit = share * sum(site.macs for site in found)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _total(found, method, middle) <= limit else (low, middle)
    if _total(found, method, low) > limit:
        raise ValueError(f"{method} cannot keep {share} of the multiply-adds")
    chains = {}
    for site in found:
        if rank := _rank(site, method, low):
            kernel = _kernel(model, site.node)
            chains[site.node.output[0]] = METHODS[method][0](kernel, rank)
    return replaced(model, chains)


def _rank(site: Site, method: str, share: float) -> int:
    """The largest that keeps at most this share of the layer, at least 1; 0: nothing is saved."""
    small = places(site.weight) == 1 or site.weight[1] < FEWEST_CHANNELS
    if site.node.op_type != "Conv" or small:
        return 0
    cost, top = METHODS[method][1], math.prod(site.weight)
    above = (rank for rank in range(1, top + 1) if cost(site, rank) > share * site.macs)
    rank = max(1, next(above, top + 1) - 1)
    return rank if cost(site, rank) < site.macs else 0


def _total(found: Sequence[Site], method: str, share: float) -> float:
    total = 0.0
    for site in found:
        rank = _rank(site, method, share)
        total += METHODS[method][1](site, rank) if rank else site.macs
    return total


def at_ranks(model: onnx.ModelProto, method: str, ranks: tuple[int, int]) -> onnx.ModelProto:
    """Every layer at `ranks` (input side, output side), where that takes fewer parameters.

    Args:
        model: not changed.
        method: "tucker" or "tt"; of a matrix, a tensor train has one rank: that of the input side.
        ranks: cut to the sizes of each layer.
    """
    chains: dict[str, list[Piece]] = {}
    for site in sites(model):
        kernel = _kernel(model, site.node)
        filters, channels = kernel.shape[:2]
        inner, outer = min(ranks[0], channels), min(ranks[1], filters)
        if method == "tt" and kernel.ndim == 2:
            pieces = channel(kernel[:, :, None, None], min(inner, filters))
        else:
            make = tucker_at if method == "tucker" else tt_at
            wide = kernel if kernel.ndim == 4 else kernel[:, :, None, None]
            pieces = make(wide, inner, outer)
        if sum(piece.kernel.size for piece in pieces) < kernel.size:
            chains[site.node.output[0]] = pieces
    return replaced(model, chains)


def _kernel(model: onnx.ModelProto, node: onnx.NodeProto) -> Array:
    """The weight in float64, filters first."""
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    return numpy_helper.to_array(tensor).astype(np.float64)


def replaced(model: onnx.ModelProto, chains: Mapping[str, Sequence[Piece]]) -> onnx.ModelProto:
    """A copy in which chains stand for the nodes with these outputs; Gemm with transB = 1."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    gone = set()
    for node in model.graph.node:
        if node.output[0] not in chains:
            nodes.append(node)
            continue
        gone.add(node.input[1])
        nodes += _emitted(node, chains[node.output[0]], made)
    kept = [tensor for tensor in made.graph.initializer if tensor.name not in gone]
    del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(kept)
    return made


def _emitted(
    node: onnx.NodeProto, pieces: Sequence[Piece], made: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """The nodes of one chain; their weights are added to the model. The last has the bias."""
    nodes = []
    value = node.input[0]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        name = f"{node.output[0]}.{number}"
        kernel = piece.kernel if node.op_type == "Conv" else piece.kernel[:, :, 0, 0]
        tensor = numpy_helper.from_array(np.ascontiguousarray(kernel, np.float32), f"{name}.w")
        made.graph.initializer.append(tensor)
        output = node.output[0] if last else name
        inputs = [value, tensor.name, *(node.input[2:] if last else ())]
        new = onnx.NodeProto(op_type=node.op_type, name=name, input=inputs, output=[output])
        if node.op_type == "Conv":
            _geometry(new, node, piece)
        else:
            new.attribute.add(name="transB", type=onnx.AttributeProto.INT, i=1)
        nodes.append(new)
        value = output
    return nodes


def _geometry(new: onnx.NodeProto, node: onnx.NodeProto, piece: Piece) -> None:
    """Kernel shape, groups, and what the piece takes over of strides, dilations and pads."""
    given = {a.name: list(a.ints) for a in node.attribute}
    kept = [axis in piece.axes for axis in (0, 1)]
    attributes = {"kernel_shape": list(piece.kernel.shape[2:])}
    for name in ("strides", "dilations"):
        values = given.get(name, [1, 1])
        attributes[name] = [v if keep else 1 for v, keep in zip(values, kept, strict=True)]
    pads = given.get("pads", [0] * 4)
    attributes["pads"] = [v if keep else 0 for v, keep in zip(pads, kept * 2, strict=True)]
    for name, ints in attributes.items():
        new.attribute.add(name=name, type=onnx.AttributeProto.INTS, ints=ints)
    new.attribute.add(name="group", type=onnx.AttributeProto.INT, i=piece.groups)
