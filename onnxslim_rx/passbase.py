"""Contracts of passes: what a pass is, what it gets, what it returns.

Two kinds. A `RewritePass` leaves the function of the graph unchanged up to rounding. A
`CompressionPass` changes it: it names the layers it can treat, offers candidates for each, and
carries out the candidate that the planner chose. Both are frozen dataclasses whose fields are
their options; neither keeps state between calls, and neither opens ONNX Runtime sessions: what
must be evaluated goes through `PassContext.evaluate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.layers import (
    MOST_COLUMNS,
    Layer,
    LayerStatistics,
    Skipped,
    channel_gram,
    weight_layers,
)
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
    helps: ClassVar[str] = ""
    """Name of the compression pass that may lose less behind it: it is tried then, and used where
    that is so."""

    def requires(self, model: ir.Model) -> None:
        """Check the precondition; raise `PassError` where it does not hold."""

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition; raise `PassError` where it does not hold."""

    def measures(self, model: ir.Model, ctx: PassContext) -> Sequence[str]:
        """Tensors of the main graph whose largest values by channel the pass can make use of.

        They have a batch, channels, and at least one axis more.
        """
        return ()

    def measured(
        self, model: ir.Model, ctx: PassContext, peaks: Mapping[str, Array]
    ) -> RewritePass | None:
        """The pass with what follows from them among its options; None where nothing does."""
        return None

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


KEEP: tuple[Stage, ...] = ()
"""The stages of the candidate that is always there: leave the layer alone."""


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
    needs_opset: ClassVar[int] = 0
    """Version of the standard operators that it emits; older models are brought to it first, where
    there is data."""

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """All units that the pass can treat, and those it considered and refused, with reasons."""
        raise NotImplementedError(f"{type(self).__name__} does not implement layers")

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """Ways to treat `layer` that the target allows, each with predicted error and cost."""
        raise NotImplementedError(f"{type(self).__name__} does not implement candidates")

    def variants(self, layer: Layer, stage: Stage) -> Sequence[Stage]:
        """Stages that cost what `stage` does, of which only a whole network tells the best.

        The planner tries them with all layers treated, goes on from what is better, and offers
        that instead of the candidates. Of equal stages none is tried; the same place in the
        sequence means a step in the same direction.
        """
        return ()

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

    def release(self, model: ir.Model) -> None:
        """Change what only a finished model may change, in place: types of inputs and outputs.

        Called once, on the model that is handed out, when all is measured and verified; what the
        model computes must not change any more.
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
