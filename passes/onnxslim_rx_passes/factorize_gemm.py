"""Replace a matrix product by two thinner ones.

`X W + b` becomes `(X P) Q + b` with `W ~= P Q`. With statistics of the activations the product
keeps `X W`, not `W` (see `linalg.whiten`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    MOST_COLUMNS,
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
from onnxslim_rx_passes._factors import (
    factorize,
    is_finite,
    output_curve,
    settle_method,
    spectra,
)
from onnxslim_rx_passes._linear import (
    as_applied,
    as_stored,
    emit_first,
    emit_second,
    is_factor,
    store,
    stored_factors,
    tensor_of,
    weight_of,
)
from onnxslim_rx_passes._ranks import LowRankPass

__all__ = ["FactorizeGemm"]

_KINDS = {"linear": "linear", "linear-left": "linear", "linear-batched": "linear"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeGemm(LowRankPass):
    """Replace ``X W + b`` by ``(X P) Q + b`` with ``W ~= P Q``.

    Shapes: X (..., M, K), W (K, N) or (..., K, N), P (..., K, R), Q (..., R, N), b (N,) or absent.
    MatMul with a constant on either side, and Gemm in all transposes with alpha and beta, are
    covered; a constant on the left is treated as its transpose. R is settled by one of the first
    six options; without one, a ladder of ranks is offered for the planner to choose from.

    Args:
        rank: R, at least 1.
        ratio: the largest R that keeps at most this share of the parameters, in (0, 1).
        energy: the least R that keeps this share of the energy (sum of squares) of the output, or
            of the weight where the inputs are not known, in (0, 1].
        max_rel_error: the least R whose relative error of the output, or of the weight, stays
            within this bound, in [0, 1).
        min_quality: the least R with this cosine of the outputs over all rows, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of the
            weight.
        method: "svd" (least error of the weight), "scaled-svd" (rows of the weight weighed by the
            size of the activations), "whitened-svd" (least error of the output; these two need
            statistics) or "auto" (the last that the statistics allow).
        min_saving: least share of parameters and multiply-adds removed, in [0, 1).
        min_elements: weights with fewer entries are left alone.
        max_side: weights whose smaller side is larger are left alone: in one thread, looking at
            ranks takes 16 s at 4,096 x 11,008, and eight times as long at twice the sides.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: Eckart & Young, Psychometrika 1(3), 1936; scaled: ASVD, Yuan et al., 2023; whitened:
    SVD-LLM, Wang et al., ICLR 2025; rules: see `linalg.noise`.
    """

    name: ClassVar[str] = "factorize-gemm"
    max_side: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_side < 1:
            raise InputError(f"{self.name} has max_side = {self.max_side}", expected="at least 1")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """MatMul and Gemm with a constant side that no other node reads."""
        facts = Facts(model)
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            why = self._why_not(layer, facts) if isinstance(layer, Layer) else None
            yield Skipped(layer.name, why) if why and isinstance(layer, Layer) else layer

    def _why_not(self, layer: Layer, facts: Facts) -> str | None:
        if is_factor(layer.node):
            return f"{layer.op}: is a factor already"
        if len(layer.weight.uses()) > 1:
            return f"{layer.op}: {len(layer.weight.uses())} nodes share it"
        shape = tensor_of(layer.weight).shape.numpy()
        if (side := min(shape[-2:])) > self.max_side:
            return f"{layer.op}: smaller side {side}, above {self.max_side}"
        if self.method == "auto" and (columns := weight_of(layer).shape[-2]) > MOST_COLUMNS:
            return (
                f"{layer.op}: {columns:,} columns, of whose pairs calibration sums nothing up;"
                " method svd or scaled-svd does without"
            )
        # a vector times several matrices gives a matrix, not a batch of vectors
        if len(shape) > 2 and (facts.rank(layer.activation) or 0) < 2:
            return f"{layer.op}: its activation is, or may be, a vector"
        return None

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that is settled by an option, or the ladder, where it saves enough."""
        weight = weight_of(layer)
        *batch, k, n = weight.shape
        top = self.largest(k, n)
        if top < 1 or not is_finite(weight):
            return
        method = settle_method(self.method, stats, self.name)
        curve = output_curve(weight, method, top, stats)
        size = tensor_of(layer.weight).dtype.itemsize
        for rank in self.ranks(k, n, target, curve, spectra(weight)):
            elements = math.prod(batch) * rank * (k + n)
            stage = Stage(self.name, {"method": method, "rank": rank})
            yield Candidate((stage,), float(curve[rank]), int(elements * size), 2 * elements)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q)` of the weight as the layer applies it: (..., K, R) and (..., R, N)."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        method = settle_method(str(stage.options["method"]), stats, self.name)
        return factorize(as_applied(layer, factors[0]), method, int(stage.options["rank"]), stats)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weight, in the layout of the layer's own, that `factors` stand for."""
        return (as_stored(layer, factors[0] if len(factors) == 1 else np.matmul(*factors)),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit `(X P) Q` with the layer's own scaling, bias and transposes."""
        weight = weight_of(layer)
        if not is_finite(weight):
            return Skip("the weight has NaN or infinity")
        rank = int(stage.options["rank"])
        if not 1 <= rank <= min(weight.shape[-2:]):
            return Skip(f"rank {rank} does not fit a weight of {weight.shape}")
        method = settle_method(str(stage.options["method"]), stats, self.name)
        pair = stored_factors(layer, *factorize(weight, method, rank, stats))
        name, dtype = layer.weight.name, tensor_of(layer.weight).dtype
        first, second = store(tape, pair, (f"{name}.p", f"{name}.q"), dtype)
        return emit_second(layer, emit_first(layer, layer.activation, first, tape), second, tape)
