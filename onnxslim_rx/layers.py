"""Layers: what can be compressed of a model, and what calibration measured of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.quant import Histogram

__all__ = ["MOST_COLUMNS", "Layer", "LayerStatistics", "Skipped", "channel_gram", "weight_layers"]

Array = npt.NDArray[Any]

MOST_COLUMNS = 16384
"""Columns of X of which a Gram matrix is summed up: 2 GiB on disk. That of VGG-16's first linear
layer, 25,088 wide, would take 5 GB, and more time than all others together."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A place that a pass left as it was, and why."""

    where: str
    why: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """One compressible unit of the graph.

    Args:
        name: unique in the model and the same in every run: the weight's name, or the node's.
        op: operator type of `node`.
        kind: "linear", "conv", "embedding" or "recurrent".
        node: the node that computes the layer.
        weight_index: which input of `node` is the constant weight.
        activation_index: which input of `node` carries the activations (for an embedding: the
            indices).
        region: where the unit is more than `node`: all nodes that a treatment replaces, of one
            graph and in its order.
        constants: where a treatment changes more than the weight of `node`: all constants that it
            changes, biases included.
        members: where the unit is several layers: these, each of a kind that has statistics.
    """

    name: str
    op: str
    kind: str
    node: ir.Node
    weight_index: int
    activation_index: int
    region: tuple[ir.Node, ...] = ()
    constants: tuple[ir.Value, ...] = ()
    members: tuple[Layer, ...] = ()

    @property
    def weight(self) -> ir.Value:
        """The constant weight."""
        value = self.node.inputs[self.weight_index]
        assert value is not None  # layers are only made of nodes whose weight is a constant
        return value

    @property
    def weights(self) -> tuple[ir.Value, ...]:
        """All constants that a treatment changes."""
        return self.constants or (self.weight,)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes that a treatment replaces."""
        return self.region or (self.node,)

    @property
    def activation(self) -> ir.Value:
        """The tensor that enters the layer."""
        value = self.node.inputs[self.activation_index]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The tensor that leaves the layer."""
        return self.node.outputs[0]


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """What calibration measured at the input of a layer.

    Args:
        gram: (K, K) float64, `X^T X` summed over `rows` rows that entered the layer, or None where
            the layer has none (embeddings, depthwise convolutions). The input of a recurrent layer
            counts as that of a linear one. For convolutions see `patches`.
        counts: (V,) int64, how often each row of an embedding was read, or None.
        rows: number of rows of X summed up.
        sample: (R, K) a few rows of X as they came, for measuring on real activations, or None.
        shape: shape of the layer's activation in the longest sample seen, for measuring latency.
        mean, mean_abs, low, high: (K,) float64, of each column of X: mean, mean absolute value,
            least and largest value; None where there is no Gram matrix.
        members: of a unit of several layers: the statistics of each, None where it has none.
        positions: number of positions that a layer computes: more than `rows` where X was sampled.
            Those of a ConvTranspose are the positions of its input. Given as 0: as many as `rows`.
        patches: whether X are the patches of a convolution: a row is what it reads at one position
            of its output, all channels of all groups, in the order of a kernel (C, *k), with zeros
            for what lies in the padding. Where patches would be too wide, a row holds the channels
            at one tap of one position; of a ConvTranspose, the channels at one position of its
            input. See `channel_gram`.
        entering, leaving: of the whole tensors that enter the layer and leave it, the latter
            behind its activation (`analysis.activated`); None unless a pass that `reads_ranges`
            takes part.
    """

    gram: npt.NDArray[np.float64] | None
    counts: npt.NDArray[np.int64] | None
    rows: int
    sample: Array | None
    shape: tuple[int, ...]
    mean: npt.NDArray[np.float64] | None = None
    mean_abs: npt.NDArray[np.float64] | None = None
    low: npt.NDArray[np.float64] | None = None
    high: npt.NDArray[np.float64] | None = None
    members: tuple[LayerStatistics | None, ...] = ()
    positions: int = 0
    patches: bool = False
    entering: Histogram | None = None
    leaving: Histogram | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", self.positions or self.rows)


def channel_gram(
    stats: LayerStatistics, channels: int, taps: int
) -> npt.NDArray[np.float64] | None:
    """The Gram matrix of a convolution's input channels, (C, C), summed over all taps of patches.

    Args:
        stats: of a convolution.
        channels: of its input, those of all groups: C.
        taps: entries of its kernel in one channel.

    Raises:
        ValueError: the Gram matrix has another size.
    """
    gram = stats.gram
    if gram is None:
        return None
    side = channels * taps if stats.patches else channels
    if gram.shape != (side, side):
        raise ValueError(f"the Gram matrix is {gram.shape}, not {(side, side)}")
    if not stats.patches:
        return gram
    summed: npt.NDArray[np.float64] = np.einsum(
        "ctdt->cd", gram.reshape(channels, taps, channels, taps)
    )
    return summed


def weight_layers(
    model: ir.Model, kinds: Mapping[str, str], *, min_elements: int, depthwise: bool = False
) -> Iterator[Layer | Skipped]:
    """The layers of `model` whose weight is of one of `kinds`, and those that are refused.

    Args:
        model: the model; not changed.
        kinds: kinds of weights (see `analysis.WeightUse`) and what a layer made of them is
            called.
        min_elements: smaller weights are refused.
        depthwise: whether depthwise kernels are layers, too.

    Yields:
        One `Layer` for each weight, in the order of the model; a weight that several nodes read
        is the layer of the first. Weights of the same name in different subgraphs are told
        apart by a suffix `#2`, `#3`, ...
    """
    names: Counter[str] = Counter()
    seen: set[ir.Value] = set()
    for use in weight_uses(model, min_elements=min_elements, depthwise=depthwise):
        if use.kind not in kinds or use.weight in seen:
            continue
        seen.add(use.weight)
        base = use.weight.name or use.node.name or use.node.op_type
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        if use.why_not is not None or use.activation_index is None:
            yield Skipped(name, f"{use.node.op_type}: {use.why_not}")
        else:
            kind = kinds[use.kind]
            yield Layer(name, use.node.op_type, kind, use.node, use.index, use.activation_index)
