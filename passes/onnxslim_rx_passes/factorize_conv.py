"""Replace a convolution by a chain of cheaper ones.

See `_conv_structures` for the chains, `_conv_inputs` for the errors that are made least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Candidate,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._conv_chains import compose, emit, names, stored
from onnxslim_rx_passes._conv_decompose import Decomposition
from onnxslim_rx_passes._conv_geometry import Convolution, Kernels
from onnxslim_rx_passes._conv_inputs import WEIGHTINGS, Inputs, settle_weighting
from onnxslim_rx_passes._conv_judge import judge_of
from onnxslim_rx_passes._conv_ranks import ConvRanksPass, share_kept
from onnxslim_rx_passes._conv_structures import (
    METHODS,
    Structure,
    macs,
    parameters,
    structures,
)
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import is_factor, store, tensor_of

__all__ = ["FactorizeConv"]

_KINDS = {"conv": "conv", "conv-transpose": "conv"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeConv(ConvRanksPass):
    """Replace Conv or ConvTranspose by a chain of two to five that computes nearly the same.

    One, two or three spatial axes, any groups, strides, dilations, padding; the first convolutions
    of a chain have no bias, so that borders come out as they were. All groups get the same ranks.
    Ranks are settled by one of the first eight options; without one, a ladder is offered for each
    method.

    Args:
        rank: R, at least 1; of tucker and tt both ranks.
        rank_in: of tucker and tt: channels that enter the k x k convolution; with
        rank_out: channels that leave it.
        ratio: share of the parameters and of the multiply-adds kept at most, in (0, 1); of pairs
            of ranks the one of least error.
        energy: the least share that keeps this share of the energy (sum of squares) of the output,
            or of the kernel where the inputs are not known, in (0, 1].
        max_rel_error: the least share whose relative error stays within this bound, in [0, 1).
        min_quality: the least share with this cosine of the outputs, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of what is
            cut; of tucker, tt and cp along channels and filters (cp: the larger of the two).
        method: "channel-output" (k x k to R channels, then 1 x 1), "channel-input" (1 x 1, then
            k x k), "spatial" (k x 1, then 1 x k), "tucker" or "tt" (1 x 1, k x k, 1 x 1), "cp"
            (1 x 1, depthwise k x k, 1 x 1), "cp-separable" (depthwise k x 1 and 1 x k), several of
            them separated by commas, or "auto": all but tt and cp-separable.
        weighting: "none" (error of the kernel), "channels" (errors weighed by the Gram matrix of
            the input channels), "patches" (by that of all a position reads: the error of the
            output) or "auto" (the last that the statistics allow and time affords).
        min_saving: least share of parameters and multiply-adds removed, in [0, 1).
        min_elements: kernels with fewer entries are left alone.

    Raises:
        InputError: an option outside its range, or more than one that settles the ranks.

    Sources: Zhang et al., TPAMI 38(10), 2016 (channels, by the responses); Jaderberg et al., BMVC
    2014 (spatial); Kim et al., ICLR 2016 (tucker); Oseledets, SIAM J. Sci. Comput. 33(5), 2011
    (tt); Lebedev et al., ICLR 2015 (cp).
    """

    name: ClassVar[str] = "factorize-conv"
    weighting: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in WEIGHTINGS:
            raise InputError(
                f"{self.name} has weighting = {self.weighting!r}", expected=" or ".join(WEIGHTINGS)
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Conv and ConvTranspose that some chain can stand for, and why others are refused."""
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped):
                yield layer
            elif is_factor(layer.node):
                yield Skipped(layer.name, f"{layer.op}: is a factor already")
            elif len(layer.weight.uses()) > 1:
                yield Skipped(layer.name, f"{layer.op}: {len(layer.weight.uses())} nodes share it")
            elif why := self._why_not(Convolution.of(layer)):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer

    def _why_not(self, conv: Convolution) -> str | None:
        if why := conv.why_not():
            return why
        found = {method: structures(conv, method) for method in self.wanted}
        chains = [chain for some in found.values() if not isinstance(some, str) for chain in some]
        if not chains:
            reasons = dict.fromkeys(why for why in found.values() if isinstance(why, str))
            return "; ".join(map(str, reasons))
        ones = ((chain, np.ones((1, len(chain.rank_names)), int)) for chain in chains)
        least = min(float(share_kept(conv, chain, ranks)[0]) for chain, ranks in ones)
        if least > self.most:
            return f"a chain of rank 1 keeps {least:.0%} of it"
        return None

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """For each method the ranks that an option settles, or a ladder, where they save enough."""
        tensor = tensor_of(layer.weight)
        conv, dense = Convolution.of(layer), tensor.numpy()
        if not is_finite(dense):
            return
        kernels = conv.canonical(dense)
        ways: dict[str, Decomposition] = {}
        for method in self.wanted:
            chains = structures(conv, method)
            if isinstance(chains, str):
                continue
            weighting = settle_weighting(self.weighting, method, stats, conv, self.name)
            if weighting not in ways:
                ways[weighting] = Decomposition(conv, kernels, Inputs.of(weighting, stats, conv))
            for cut in self.cuts(conv, chains, target, judge_of(ways[weighting])):
                ranks = np.array([cut.ranks])
                yield Candidate(
                    (Stage(self.name, cut.structure.options(weighting, cut.ranks)),),
                    cut.error,
                    int(parameters(conv, cut.structure, ranks)[0] * tensor.dtype.itemsize),
                    2 * int(macs(conv, cut.structure, ranks)[0]),
                )

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The kernels of the chain, as its convolutions store them."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one kernel")
        conv = Convolution.of(layer)
        chosen = _chosen(conv, stage.options)
        if isinstance(chosen, str):
            raise InputError(f"{layer.name}: {chosen}")
        return tuple(self._kernels(conv, chosen, stage, conv.canonical(factors[0]), stats))

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The kernel that those of a chain stand for, as the layer stores it."""
        return (compose(Convolution.of(layer), factors),) if len(factors) > 1 else factors

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit the chain."""
        tensor, conv = tensor_of(layer.weight), Convolution.of(layer)
        dense = tensor.numpy()
        if not is_finite(dense):
            return Skip("the kernel has NaN or infinity")
        chosen = _chosen(conv, stage.options)
        if isinstance(chosen, str):
            return Skip(chosen)
        kernels = self._kernels(conv, chosen, stage, conv.canonical(dense), stats)
        own = names(str(layer.weight.name), len(kernels))
        return emit(layer, chosen[0], store(tape, kernels, own, tensor.dtype), tape)

    def _kernels(
        self,
        conv: Convolution,
        chosen: tuple[Structure, tuple[int, ...]],
        stage: Stage,
        kernels: Kernels,
        stats: LayerStatistics | None,
    ) -> list[Kernels]:
        structure, ranks = chosen
        asked = str(stage.options.get("weighting", "auto"))
        weighting = settle_weighting(asked, structure.method, stats, conv, self.name)
        found = Decomposition(conv, kernels, Inputs.of(weighting, stats, conv))
        return stored(conv, structure, found.factors(structure, ranks))


def _chosen(
    conv: Convolution, options: Mapping[str, Any]
) -> tuple[Structure, tuple[int, ...]] | str:
    """The chain and the ranks that a stage names, or why there are none."""
    method = str(options.get("method"))
    if method not in METHODS:
        return f"there is no method {method!r}"
    chains = structures(conv, method)
    if isinstance(chains, str):
        return f"{method}: {chains}"
    chain = next((one for one in chains if one.axis == options.get("axis")), None)
    if chain is None:
        return f"{method}: there is no axis {options.get('axis')} to start with"
    missing = [name for name in chain.rank_names if name not in options]
    if missing:
        return f"{method}: {' and '.join(missing)} is missing"
    ranks = tuple(int(options[name]) for name in chain.rank_names)
    largest = chain.largest(conv)
    if not all(1 <= rank <= most for rank, most in zip(ranks, largest, strict=True)):
        own = ", ".join(map(str, ranks))
        return f"rank {own} does not fit: expected 1 to {', '.join(map(str, largest))}"
    return chain, ranks
