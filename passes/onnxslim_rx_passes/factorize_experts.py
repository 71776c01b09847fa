"""Replace the weights of a mixture of experts by products that share one factor.

`X W_e` becomes `(X P_e) Q` or `(X P) Q_e`, where the factor without an index is stored once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Array,
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
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import (
    as_applied,
    as_stored,
    emit_first,
    emit_second,
    is_factor,
    store,
    stored_factors,
    tensor_of,
    unit_name,
    weight_of,
)
from onnxslim_rx_passes._mixtures import find_experts
from onnxslim_rx_passes._ranks import LowRankPass
from onnxslim_rx_passes._shared import (
    factors_of,
    routing_of,
    shared_curve,
    shared_spectra,
    sides_of,
)

__all__ = ["FactorizeExperts"]

_KINDS = {"linear": "linear", "linear-left": "linear", "linear-batched": "linear"}
_SHARES = ("second", "first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeExperts(LowRankPass):
    """Replace ``X W_e`` of all experts of a mixture by ``(X P_e) Q`` or ``(X P) Q_e``.

    Shapes: W_e (K, N), either the matrices of one constant (..., K, N) that a MatMul reads, or
    constants of MatMul or Gemm of their own whose outputs a gate weighs, or a scatter adds up. The
    shared factor is one constant that all experts read. R is settled by one of the first six
    options; without one, a ladder is offered.

    Args:
        rank: R, at least 1.
        ratio: the largest R that keeps at most this share of the parameters, in (0, 1).
        energy: the least R that keeps this share of the energy (sum of squares) of all outputs, or
            of the weights where the inputs are not known, in (0, 1].
        max_rel_error: the least R whose relative error of all outputs, or of the weights, stays
            within this bound, in [0, 1).
        min_quality: the least R with this cosine of all outputs, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of the
            experts one below the other (or, sharing the first factor, side by side).
        method: "svd" (least error of the weights, each expert counted by its rows where they are
            known), "whitened-svd" (least error of the outputs, each expert under the inputs that
            were routed to it; needs statistics) or "auto".
        min_saving: least share of parameters removed, in [0, 1).
        min_elements: weights with fewer entries are left alone.
        share: which factor there is one of: "second", "first" or "both" (candidates of either).
        max_elements: experts with more entries together are left alone: several copies of them are
            held in float64.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: Eckart & Young, Psychometrika 1(3), 1936, of the stacked outputs; see `linalg.shared`.
    """

    name: ClassVar[str] = "factorize-experts"
    share: str = "both"
    max_elements: int = 1 << 26

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share not in (*_SHARES, "both"):
            raise InputError(
                f"{self.name} has share = {self.share!r}", expected="second, first or both"
            )
        if self.method == "scaled-svd":
            raise InputError(
                f"{self.name} has method = scaled-svd", expected="auto, svd or whitened-svd"
            )
        if self.max_elements < 1:
            raise InputError(
                f"{self.name} has max_elements = {self.max_elements}", expected="at least 1"
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Constants of several matrices, and alike layers of experts."""
        own: list[Layer] = []
        facts = Facts(model)
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped) or is_factor(layer.node) or len(layer.weight.uses()) > 1:
                continue
            shape = tensor_of(layer.weight).shape.numpy()
            if len(shape) == 2:
                own.append(layer)
            elif math.prod(shape[:-2]) > 1:
                if (facts.rank(layer.activation) or 0) < 2:
                    yield Skipped(layer.name, f"{layer.op}: its activation may be a vector")
                else:
                    yield self._within_bounds(layer)
        order = {layer.node: number for number, layer in enumerate(own)}
        for place in find_experts(model, own):
            yield self._within_bounds(
                dataclasses.replace(
                    place[0],
                    name=f"experts {unit_name(place)}",
                    region=tuple(sorted((one.node for one in place), key=order.__getitem__)),
                    constants=tuple(one.weight for one in place),
                    members=place,
                )
            )

    def _within_bounds(self, unit: Layer) -> Layer | Skipped:
        elements = sum(tensor_of(value).size for value in unit.weights)
        if elements > self.max_elements:
            why = f"{unit.op}: {elements} elements together, above {self.max_elements}"
            return Skipped(unit.name, why)
        return unit

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that is settled by an option, or the ladder, of each way to share."""
        experts = _stacked(layer, [weight_of(one) for one in _parts(layer)])
        if not is_finite(experts):
            return
        number, k, n = experts.shape
        routing = routing_of(number, stats if self.method != "svd" else _counted(stats))
        if self.method == "whitened-svd" and not routing.is_known:
            raise InputError(
                f"{self.name} has method = whitened-svd and no statistics of the activations",
                advice="give calibration data, or use method svd",
            )
        size = tensor_of(layer.weight).dtype.itemsize
        for share in self._ways(layer):
            rows, columns = sides_of((number, k, n), share)
            top = self.largest(rows, columns)
            if top < 1:
                continue
            curve = shared_curve(experts, share, top, routing)
            spectra = shared_spectra(experts, share)
            method = f"{'whitened-' if routing.is_known else ''}svd-{share}"
            for rank in self.ranks(rows, columns, target, curve, spectra):
                # a shared first product is computed once where the experts read one tensor
                once = k if share == "first" and not layer.members else number * k
                work = rank * (once + number * n)
                stage = Stage(self.name, {"method": method, "rank": rank})
                nbytes = int(rank * (rows + columns) * size)
                yield Candidate((stage,), float(curve[rank]), nbytes, 2 * work)

    def _ways(self, layer: Layer) -> Iterator[str]:
        """What may be shared: a first factor of one input is what factorize-siblings offers."""
        one_input = len({one.activation for one in layer.members}) == 1
        for share in _SHARES if self.share == "both" else (self.share,):
            if not (share == "first" and one_input):
                yield share

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`P (E, K, R), Q (R, N)` or `P (K, R), Q (E, R, N)` of the weights as applied."""
        parts = _parts(layer)
        if len(factors) != len(parts):
            raise InputError(f"{layer.name} is factorized already", expected="its weights")
        weights = [as_applied(one, w) for one, w in zip(parts, factors, strict=True)]
        return self._factors(_stacked(layer, weights), stage, stats)

    def _factors(
        self, experts: Array, stage: Stage, stats: LayerStatistics | None
    ) -> tuple[Array, Array]:
        method, _, share = str(stage.options["method"]).rpartition("-")
        routing = routing_of(len(experts), stats if method != "svd" else _counted(stats))
        if method != "svd" and not routing.is_known:
            raise InputError(
                "the plan has whitened experts and there are no statistics of the activations",
                advice="give the calibration data that the plan was made with",
            )
        return factors_of(experts, share, int(stage.options["rank"]), routing)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weights, in the layouts of their own, that `factors` stand for."""
        dense = np.matmul(*factors)
        if layer.members:
            return tuple(as_stored(one, w) for one, w in zip(layer.members, dense, strict=True))
        return (as_stored(layer, dense.reshape(*_batch(layer), *dense.shape[-2:])),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Mapping[ir.Value, ir.Value] | Skip:
        """Emit both products of each expert, with its own scaling, bias and transposes."""
        experts = _stacked(layer, [weight_of(one) for one in _parts(layer)])
        if not is_finite(experts):
            return Skip("a weight has NaN or infinity")
        method = str(stage.options["method"])
        rank = int(stage.options["rank"])
        most = min(sides_of(experts.shape, method.rpartition("-")[2]))
        if not 1 <= rank <= most:
            return Skip(f"rank {rank} is not in 1 to {most}")
        p, q = self._factors(experts, stage, stats)
        if layer.members:
            return _emit_own(layer, p, q, tape)
        p, q = (_unstacked(layer, factor) for factor in (p, q))
        dtype, name = tensor_of(layer.weight).dtype, layer.weight.name
        names = (f"{name}.p", f"{name}.q")
        first, second = store(tape, stored_factors(layer, p, q), names, dtype)
        return emit_second(layer, emit_first(layer, layer.activation, first, tape), second, tape)


def _emit_own(layer: Layer, p: Array, q: Array, tape: ir.tape.Tape) -> Mapping[ir.Value, ir.Value]:
    """Experts that are nodes of their own: one constant for the shared factor."""
    dtype = tensor_of(layer.weight).dtype
    arrays: list[list[Array]] = []
    for side, factor in enumerate((p, q)):
        own = list(factor) if factor.ndim == 3 else [factor]
        arrays.append([stored_factors(layer, one, one)[side] for one in own])
    names = [
        f"{one.weight.name}.{letter}"
        for letter, side in zip("pq", arrays, strict=True)
        for one in layer.members[: len(side)]
    ]
    stored = store(tape, [*arrays[0], *arrays[1]], names, dtype)
    firsts, seconds = stored[: len(arrays[0])], stored[len(arrays[0]) :]
    count = len(layer.members)
    firsts, seconds = (side * (count // len(side)) for side in (firsts, seconds))
    return {
        one.output: emit_second(one, emit_first(one, one.activation, first, tape), second, tape)
        for one, first, second in zip(layer.members, firsts, seconds, strict=True)
    }


def _parts(layer: Layer) -> tuple[Layer, ...]:
    """The layers that hold the weights: the members, or the unit itself."""
    return layer.members or (layer,)


def _batch(layer: Layer) -> tuple[int, ...]:
    shape: tuple[int, ...] = tuple(tensor_of(layer.weight).shape.numpy()[:-2])
    return shape


def _stacked(layer: Layer, weights: Sequence[Array]) -> Array:
    """(E, K, N) in the type of the weights."""
    if layer.members:
        return np.stack(weights)
    return weights[0].reshape(-1, *weights[0].shape[-2:])


def _unstacked(layer: Layer, factor: Array) -> Array:
    """A factor (E, ..., ...) with the leading axes of the constant; a shared one as it is."""
    return factor.reshape(*_batch(layer), *factor.shape[-2:]) if factor.ndim == 3 else factor


def _counted(stats: LayerStatistics | None) -> LayerStatistics | None:
    """What plain SVD may use: how many rows each expert saw."""
    if stats is None:
        return None
    members = tuple(
        None if one is None else dataclasses.replace(one, gram=None) for one in stats.members
    )
    return dataclasses.replace(stats, gram=None, members=members)
