"""Replace a convolution by a chain of cheaper ones.

A pointwise convolution becomes two, with fewer channels in between (`_conv_channel`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

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
from onnxslim_rx_passes import _conv_channel as channel
from onnxslim_rx_passes._factors import (
    factorize,
    is_finite,
    output_curve,
    settle_method,
    spectra,
)
from onnxslim_rx_passes._linear import is_factor, store, tensor_of
from onnxslim_rx_passes._ranks import LowRankPass

__all__ = ["FactorizeConv"]

_KINDS = {"conv": "conv"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeConv(LowRankPass):
    """Replace a pointwise convolution by two: C channels to R, then R to M filters.

    Shapes: kernel (M, C, 1, ...) with one, two or three axes behind it, one group; the new ones
    are (R, C, 1, ...) and (M, R, 1, ...). R is settled by one of the first six options; without
    one, a ladder is offered.

    Args:
        rank: R, at least 1.
        ratio: the largest R that keeps at most this share of the parameters, in (0, 1).
        energy: the least R that keeps this share of the energy (sum of squares) of the output, or
            of the kernel where the inputs are not known, in (0, 1].
        max_rel_error: the least R whose relative error of the output, or of the kernel, stays
            within this bound, in [0, 1).
        min_quality: the least R with this cosine of the outputs, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of the
            kernel.
        method: "svd", "scaled-svd", "whitened-svd" or "auto"; see `FactorizeGemm`.
        min_saving: least share of parameters and multiply-adds removed, in [0, 1).
        min_elements: kernels with fewer entries are left alone.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: Zhang et al., "Accelerating Very Deep Convolutional Networks", TPAMI 38(10), 2016
    (channels, by the responses); see also `FactorizeGemm`.
    """

    name: ClassVar[str] = "factorize-conv"

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Conv with one group, a kernel of one position, and no other reader of the kernel."""
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped):
                yield layer
            elif is_factor(layer.node):
                yield Skipped(layer.name, "Conv: is a factor already")
            elif len(layer.weight.uses()) > 1:
                yield Skipped(layer.name, f"Conv: {len(layer.weight.uses())} nodes share it")
            elif why := channel.why_not(layer):
                yield Skipped(layer.name, f"Conv: {why}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that is settled by an option, or the ladder, where it saves enough."""
        tensor = tensor_of(layer.weight)
        matrix = channel.matrix_of(tensor.numpy())
        k, n = matrix.shape
        top = self.largest(k, n)
        if top < 1 or not is_finite(matrix):
            return
        method = settle_method(self.method, stats, self.name)
        curve = output_curve(matrix, method, top, stats)
        for rank in self.ranks(k, n, target, curve, spectra(matrix)):
            elements = rank * (k + n)
            stage = Stage(self.name, {"method": method, "rank": rank})
            nbytes = int(elements * tensor.dtype.itemsize)
            yield Candidate((stage,), float(curve[rank]), nbytes, 2 * elements)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q)` of the kernel as a matrix of channels by filters: (C, R) and (R, M)."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one kernel")
        method = settle_method(str(stage.options["method"]), stats, self.name)
        matrix = channel.matrix_of(factors[0])
        return factorize(matrix, method, int(stage.options["rank"]), stats)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The kernel (M, C, 1, ...) that `factors` stand for."""
        return (channel.stored(layer, np.matmul(*factors)),) if len(factors) > 1 else factors

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit both convolutions."""
        tensor = tensor_of(layer.weight)
        matrix = channel.matrix_of(tensor.numpy())
        if not is_finite(matrix):
            return Skip("the kernel has NaN or infinity")
        rank = int(stage.options["rank"])
        if not 1 <= rank <= min(matrix.shape):
            return Skip(f"rank {rank} does not fit {matrix.shape[0]} x {matrix.shape[1]} channels")
        method = settle_method(str(stage.options["method"]), stats, self.name)
        kernels = channel.stored_factors(layer, *factorize(matrix, method, rank, stats))
        name = layer.weight.name
        first, second = store(tape, kernels, (f"{name}.p", f"{name}.q"), tensor.dtype)
        return channel.emit(layer, first, second, tape)
