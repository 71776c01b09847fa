"""Lower ranks of factors that are there already, whoever made them.

`X P Q` becomes `X P' Q'` with fewer columns of P', and a chain of convolutions one of the same kind
with fewer channels between its parts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._chain_fits import ChainFits
from onnxslim_rx_passes._chain_parts import Chain, read, write
from onnxslim_rx_passes._chains import find_chains
from onnxslim_rx_passes._factors import is_finite, statistics_of_input
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._ranks import SHARES

__all__ = ["FactorizeChains"]

Ranks = npt.NDArray[np.int64]
_EPS = 1e-12
_NAMES = {1: ("rank",), 2: ("rank_in", "rank_out")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeChains(CompressionPass):
    """Cut the ranks of chains that are in the model, with the least error of what they compute.

    Two or three matrix products (MatMul and Gemm with constants, in any layout), or convolutions
    of any kernels, groups, strides and padding, transposed ones included, one after the other, and
    in the second place depthwise ones: what low-rank passes of this and other tools leave. Each
    part stays, with fewer channels; names of weights stay, so that they can be stored in fewer
    bits, too. A bias of the first part counts as a channel that is one.

    Only chains of the same kind are offered: the effect of a cut is measured with weights of the
    sizes that there are, padded with zeros, and those of another kind do not fit in. (A chain that
    is dearer than what it stands for is multiplied out before, see `MergeConvs` and `MergeGemms`.)

    Args:
        ratio: share of the chain's parameters and multiply-adds kept at most, in (0, 1); None:
            several for the planner to choose from.
        max_rel_error: the least share whose relative error stays within this bound, in [0, 1).
        weighting: "channels" (error under the Gram matrix of what the first part reads), "none"
            (all its inputs count alike) or "auto" (the first where it is known).
        min_saving: least share removed, in [0, 1).
        min_elements: chains with fewer entries are left alone.
        max_side: chains whose first part reads more entries at a position are left alone.

    Raises:
        InputError: an option outside its range, or two that settle the ranks.

    Sources: Eckart & Young, Psychometrika 1(3), 1936 (two parts); Kim et al., ICLR 2016 (three);
    Lebedev et al., ICLR 2015 (depthwise ones).
    """

    name: ClassVar[str] = "factorize-chains"
    partial: ClassVar[bool] = True
    ratio: float | None = None
    max_rel_error: float | None = None
    weighting: str = "auto"
    min_saving: float = 0.1
    min_elements: int = 4096
    max_side: int = 8192

    def __post_init__(self) -> None:
        ranges = {
            "ratio": (self.ratio is None or 0.0 < self.ratio < 1.0, "in (0, 1)"),
            "max_rel_error": (
                self.max_rel_error is None or 0.0 <= self.max_rel_error < 1.0,
                "in [0, 1)",
            ),
            "weighting": (self.weighting in ("auto", "none", "channels"), "auto, none or channels"),
            "min_saving": (0.0 <= self.min_saving < 1.0, "in [0, 1)"),
            "min_elements": (self.min_elements >= 1, "at least 1"),
            "max_side": (self.max_side >= 1, "at least 1"),
        }
        for option, (holds, expected) in ranges.items():
            if not holds:
                found = getattr(self, option)
                raise InputError(f"{self.name} has {option} = {found!r}", expected=expected)
        if self.ratio is not None and self.max_rel_error is not None:
            raise InputError(f"{self.name} got ratio and max_rel_error", expected="one of them")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """All chains, and why some cannot be cut."""
        for found in find_chains(model, self.min_elements):
            if isinstance(found, Chain):
                side = found.parts[0].reads * found.parts[0].taps
                if side > self.max_side:
                    why = f"chain of {len(found.parts)}: reads {side}, above {self.max_side}"
                    yield Skipped(found.name, why)
                    continue
            yield found

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """For each share the ranks of least error within it, mildest first."""
        chain = _as_chain(layer)
        arrays = _constants(chain)
        if not all(map(is_finite, arrays)):
            return
        known = self._known(self.weighting, stats)
        fits = ChainFits(chain, arrays, known)
        for multiple in (target.rank_multiple, 1):
            every = _grid(chain, fits.largest, multiple, max(target.min_rank, 1))
            shares = np.array([_share(chain, ranks) for ranks in every])
            inside = shares <= 1.0 - self.min_saving + _EPS
            every, shares = every[inside], shares[inside]
            if len(every):
                bounded = self.max_rel_error is not None
                every = every[
                    self._picks(shares, (fits.errors if bounded else fits.guesses)(every))
                ]
                for ranks, error in zip(every, fits.errors(every), strict=True):
                    yield _candidate(self.name, chain, ranks, float(error), known)
                return
            if self.ratio is None and self.max_rel_error is None:
                return  # a ladder holds what runs fast

    def _picks(self, shares: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> list[int]:
        """Positions of what is offered."""
        if self.max_rel_error is not None:
            within = np.flatnonzero(errors <= self.max_rel_error * (1.0 + _EPS))
            return [int(min(within, key=lambda i: (shares[i], errors[i])))] if len(within) else []
        wanted = SHARES if self.ratio is None else (self.ratio,)
        found: dict[int, None] = {}
        for share in wanted:
            under = np.flatnonzero(shares <= share + _EPS)
            if len(under):
                found[int(min(under, key=lambda i: (errors[i], shares[i])))] = None
        return list(found)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The constants at the stage's ranks: each smaller than it was, as stored."""
        chain = _as_chain(layer)
        weighting = str(stage.options.get("weighting", "auto"))
        fits = ChainFits(chain, factors, self._known(weighting, stats))
        ranks = _ranks_of(fits, chain, stage.options)
        if isinstance(ranks, str):
            raise InputError(f"{layer.name}: {ranks}")
        return tuple(fits.cut(ranks))

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The constants with zeros for the channels that went."""
        chain = _as_chain(layer)
        padded = []
        for value, array in zip(chain.weights, factors, strict=True):
            padded.append(np.zeros(tensor_of(value).shape.numpy()))
            assert array.ndim == padded[-1].ndim  # only sides differ
        kernels, bias = read(chain, padded)
        smaller, row = read(chain, factors)
        for kernel, small in zip(kernels, smaller, strict=True):
            kernel[tuple(map(slice, small.shape))] = small
        if bias is not None and row is not None:
            bias[:, : row.shape[1]] = row
        return tuple(write(chain, kernels, bias))

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the nodes of the chain with smaller constants."""
        chain = _as_chain(layer)
        arrays = _constants(chain)
        if not all(map(is_finite, arrays)):
            return Skip("a weight has NaN or infinity")
        try:
            return _emit(chain, self.transform(layer, stage, arrays, stats), tape)
        except InputError as error:
            return Skip(str(error))

    def _known(self, weighting: str, stats: LayerStatistics | None) -> LayerStatistics | None:
        """The statistics to weigh by; None: all inputs count alike."""
        known = statistics_of_input(stats)
        known = None if known is None or known.gram is None else known
        if weighting == "channels" and known is None:
            raise InputError(
                f"{self.name} has weighting = channels and no statistics of the activations",
                advice="give calibration data (a plan: those it was made with), or use none",
            )
        return None if weighting == "none" else known


def _as_chain(layer: Layer) -> Chain:
    if not isinstance(layer, Chain):
        raise InputError(f"{layer.name} is no chain", expected="a layer that this pass found")
    return layer


def _constants(chain: Chain) -> Factors:
    return tuple(tensor_of(value).numpy() for value in chain.weights)


def _ranks_of(fits: ChainFits, chain: Chain, options: Mapping[str, Any]) -> tuple[int, ...] | str:
    """The ranks that a stage names, or why they do not fit."""
    names = _NAMES[len(chain.ranks)]
    missing = [name for name in names if name not in options]
    if missing:
        return f"{' and '.join(missing)} is missing"
    ranks = tuple(int(options[name]) for name in names)
    if not all(1 <= rank <= most for rank, most in zip(ranks, fits.largest, strict=True)):
        own = ", ".join(map(str, ranks))
        return f"rank {own} does not fit: expected 1 to {', '.join(map(str, fits.largest))}"
    return ranks


def _grid(chain: Chain, largest: Sequence[int], multiple: int, least: int) -> Ranks:
    """Ranks (N, number of ranks): multiples, and all that there are of one of two."""
    sides = []
    for most, now in zip(largest, chain.ranks, strict=True):
        first = math.ceil(min(least, now) / multiple) * multiple
        own = {*range(first, most + 1, multiple)}
        sides.append(sorted(own | ({most} if len(largest) > 1 or most < now else set())))
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(sides))


def _share(chain: Chain, ranks: Sequence[int]) -> float:
    """The larger of the shares of parameters and of multiply-adds that are kept."""
    parameters = sum(chain.entries(ranks)) / sum(chain.entries(chain.ranks))
    return max(parameters, chain.macs(ranks) / chain.macs(chain.ranks))


def _candidate(
    name: str, chain: Chain, ranks: Sequence[int], error: float, known: LayerStatistics | None
) -> Candidate:
    options: dict[str, int | float | str | bool] = {
        "method": chain.method,
        "weighting": "none" if known is None else "channels",
    }
    own = tuple(map(int, ranks))
    options |= dict(zip(_NAMES[len(own)], own, strict=True))
    size = int(tensor_of(chain.weight).dtype.itemsize)
    now, then = chain.entries(chain.ranks), chain.entries(own)
    biases = [chain.groups * r for r in (chain.ranks[0], own[0])] if chain.biased else [0, 0]
    names = [str(value.name) for value in chain.weights]
    lost = [a - b for a, b in zip((*now, biases[0]), (*then, biases[1]), strict=True)]
    # as all that is there counts once where nothing is done, whatever the strides are
    operations = sum(now) + biases[0] - (chain.macs(chain.ranks) - chain.macs(own))
    return Candidate(
        (Stage(name, options),),
        error,
        (sum(then) + biases[1]) * size,
        2 * max(round(operations), 0),
        saves={n: left * size for n, left in zip(names, lost, strict=False)},
    )


def _emit(chain: Chain, arrays: Factors, tape: ir.tape.Tape) -> Mapping[ir.Value, ir.Value] | Skip:
    """The nodes again with these constants, in float64."""
    made: dict[ir.Value, ir.Value] = {}
    for value, array in zip(chain.weights, arrays, strict=True):
        dtype = tensor_of(value).dtype
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array).astype(dtype.numpy())
        if not is_finite(stored):
            return Skip(f"{value.name} would not be finite in {dtype.name.lower()}")
        made[value] = tape.initializer(ir.tensor(stored, dtype=dtype), name=f"{value.name}.narrow")
    replaced = dict(made)
    for part, array in zip(chain.parts, arrays, strict=False):
        node = part.layer.node
        attributes: dict[str, Any] = dict(node.attributes)
        if part.depthwise:
            attributes["group"] = array.shape[0]
        inputs = [value if value is None else made.get(value, value) for value in node.inputs]
        result = tape.op(node.op_type, inputs, attributes, name=node.name)
        made[node.outputs[0]] = result
    last = chain.parts[-1].layer.output
    return replaced | {last: made[last]}
