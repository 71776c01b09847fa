"""Contracts of passes: what a pass is, what it gets, what it returns.

Two kinds. A `RewritePass` leaves the function of the graph unchanged up to rounding. A
`CompressionPass` changes it: it names the layers it can treat, offers candidates for each, and
carries out the candidate that the planner chose. Both are frozen dataclasses whose fields are
their options; neither keeps state between calls, and neither opens ONNX Runtime sessions: what
must be evaluated goes through `PassContext.evaluate`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.quant import Histogram
from onnxslim_rx.targets import Target

__all__ = [
    "KEEP",
    "MOST_COLUMNS",
    "Candidate",
    "CompressionPass",
    "Evaluate",
    "Factors",
    "Layer",
    "LayerStatistics",
    "PassContext",
    "PassResult",
    "RewritePass",
    "Skip",
    "Skipped",
    "Stage",
    "channel_gram",
    "weight_layers",
]

Array = npt.NDArray[Any]
Evaluate = Callable[[Sequence[ir.Node], Mapping[str, Array]], dict[str, Array]]
Factors = tuple[Array, ...]
"""Weights whose product, first to last, stands for one layer's weight: `(W,)` or `(P, Q)`. Of a
unit with several constants: one array for each."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """A refusal: nothing was changed, and this is why."""

    why: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A place that a pass left as it was, and why."""

    where: str
    why: str


@dataclasses.dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Args:
        model: the rewritten model; the same object where the pass works in place.
        modified: whether anything changed; the manager compares and raises `PassError` on a lie.
        rewritten: number of places rewritten.
        skipped: places considered and refused.
    """

    model: ir.Model
    modified: bool
    rewritten: int = 0
    skipped: tuple[Skipped, ...] = ()


@dataclasses.dataclass(frozen=True)
class PassContext:
    """What the manager lends to a pass.

    Args:
        evaluate: runs nodes in ONNX Runtime on given arrays, returns every output by name.
        target: the device profile that says which operators may be emitted.
        seed: seed of anything random.
        facts: types, shapes and contents that are proven, shared by the passes of a run; None: a
            pass that needs some finds its own.
    """

    evaluate: Evaluate
    target: Target
    seed: int = 0
    facts: Facts | None = None


@dataclasses.dataclass(frozen=True)
class RewritePass:
    """Rewrites a graph without changing what it computes, up to rounding.

    Subclasses set `name` (as registered, lower case with hyphens) and implement `__call__`.
    """

    name: ClassVar[str] = ""
    raises_opset: ClassVar[bool] = False
    """Whether it may make the model need newer standard operators and a newer file format."""

    def requires(self, model: ir.Model) -> None:
        """Check the precondition; raise `PassError` where it does not hold."""

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition; raise `PassError` where it does not hold."""

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model`, in place or into a new object."""
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a candidate: a compression pass by name, with all options spelt out."""

    pass_name: str
    options: Mapping[str, int | float | str | bool] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.pass_name, tuple(sorted(self.options.items()))))

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.pass_name}({options})"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to treat one layer.

    Args:
        stages: steps in order; none means that the layer is kept.
        error: predicted relative error of the layer's output, `||Y' - Y||_F / ||Y||_F`, no unit;
            NaN where only an end-to-end measurement tells.
        bytes: size of the layer's weights as stored, bytes.
        flops: multiply-adds of the layer for one row (or one output position), times two.
        folds: the runtime folds what was emitted at load, so that this costs no time.
        saves: of a pass that changes a part of weights (`CompressionPass.partial`): bytes that each
            loses, by name.
        follows: of a pass that only stores weights differently: whether it may also follow the
            candidates of others, on the weights that they make.
    """

    stages: tuple[Stage, ...]
    error: float
    bytes: int
    flops: int
    folds: bool = False
    saves: Mapping[str, int] = dataclasses.field(default_factory=dict)
    follows: bool = True

    def __str__(self) -> str:
        return " + ".join(map(str, self.stages)) or "keep"


MOST_COLUMNS = 16384
"""Columns of X of which a Gram matrix is summed up: 2 GiB on disk. That of VGG-16's first linear
layer, 25,088 wide, would take 5 GB, and more time than all others together."""

KEEP: tuple[Stage, ...] = ()
"""The stages of the candidate that is always there: leave the layer alone."""


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


@dataclasses.dataclass(frozen=True)
class CompressionPass:
    """Changes what a layer computes, by a stated amount, on the planner's word.

    A stage maps factors to factors: factorization turns `(W,)` into `(P, Q)`, quantization
    replaces each factor by a rounded one. So stages chain, and the planner can ask for the
    weight that a candidate stands for (`transform`, then multiply) without touching the graph.
    """

    name: ClassVar[str] = ""
    replaces: ClassVar[Literal["output", "weight"]] = "output"
    """What the value that `apply` returns takes the place of. A pass that only stores a weight
    differently replaces the weight, wherever it is read, so that tied weights stay tied."""
    partial: ClassVar[bool] = False
    """Whether it changes parts of weights and leaves names and all else as they are, so that other
    such passes, and those that store weights, can treat the same weights after it."""
    reads_ranges: ClassVar[bool] = False
    """Whether it wants to know what values enter and leave layers."""

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """All units that the pass can treat, and those it considered and refused, with reasons."""
        raise NotImplementedError(f"{type(self).__name__} does not implement layers")

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """Ways to treat `layer` that the target allows, each with predicted error and cost."""
        raise NotImplementedError(f"{type(self).__name__} does not implement candidates")

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The factors, in float, that take the place of `factors` after `stage`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement transform")

    def follows_data(self, stage: Stage) -> bool:
        """Whether a pass that only stores weights differently rounds them as the statistics say.

        Weights are then fitted to the compressed network before they are rounded, under what
        enters them there.
        """
        return False

    def applied(self, stage: Stage) -> bool:
        """Whether damage is measured by carrying the stage out, in the graph.

        So it must be where more than the weight changes: activations that are rounded, products
        in half precision. Else the weight that `transform` gives is fed to the network as it is.
        """
        return False

    def finish(self, model: ir.Model) -> None:
        """Tidy up what stages left between layers, in place, when all are carried out.

        Doing so again changes nothing.
        """

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """What the factors of `transform` stand for: one array for each of `layer.weights`.

        Each has the shape of the constant that it stands in for. Of a chain, the first stage's
        pass is asked: it settled what the factors are.
        """
        if len(factors) != len(layer.weights):
            raise NotImplementedError(f"{type(self).__name__} does not implement restore")
        return factors

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Mapping[ir.Value, ir.Value] | Skip:
        """Emit the nodes of one stage on `tape`; return the value that `replaces` names.

        A chain is carried out stage by stage: the next stage gets the layers among the nodes
        that this one emitted. A unit of several nodes returns what takes the place of which value:
        of each output of `layer.nodes` that others read, and of constants, whose names pass to
        those that replace them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement apply")


def weight_layers(
    model: ir.Model, kinds: Mapping[str, str], *, min_elements: int
) -> Iterator[Layer | Skipped]:
    """The layers of `model` whose weight is of one of `kinds`, and those that are refused.

    Args:
        model: the model; not changed.
        kinds: kinds of weights (see `analysis.WeightUse`) and what a layer made of them is
            called.
        min_elements: smaller weights are refused.

    Yields:
        One `Layer` for each weight, in the order of the model; a weight that several nodes read
        is the layer of the first. Weights of the same name in different subgraphs are told
        apart by a suffix `#2`, `#3`, ...
    """
    names: Counter[str] = Counter()
    seen: set[ir.Value] = set()
    for use in weight_uses(model, min_elements=min_elements):
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
