"""Replace matrix products of the same activations by one thin product and a thin one for each.

`X W_i + b_i` becomes `(X P) Q_i + b_i`, where X P is computed once: the weights side by side,
`[W_1 W_2 ...] ~= P [Q_1 Q_2 ...]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

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
from onnxslim_rx_passes._factors import (
    factorize,
    is_finite,
    output_curve,
    settle_method,
    spectra,
    statistics_of_input,
)
from onnxslim_rx_passes._linear import (
    as_applied,
    as_stored,
    contracts_last,
    emit_first,
    emit_second,
    is_factor,
    store,
    stored_factors,
    tensor_of,
    unit_name,
    weight_of,
)
from onnxslim_rx_passes._ranks import LowRankPass

__all__ = ["FactorizeSiblings"]

_KINDS = {"linear": "linear", "linear-left": "linear"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeSiblings(LowRankPass):
    """Replace ``X W_i + b_i`` by ``(X P) Q_i + b_i``, with X P computed once for all.

    Shapes: X (..., M, K), W_i (K, N_i), P (K, R), Q_i (R, N_i). MatMul with a constant on either
    side and Gemm in all transposes, in any mix that contracts the same axis of X. R is settled by
    one of the first six options; without one, a ladder is offered.

    Args:
        rank: R, at least 1.
        ratio: the largest R that keeps at most this share of the parameters, in (0, 1).
        energy: the least R that keeps this share of the energy (sum of squares) of all outputs, or
            of the weights where the inputs are not known, in (0, 1].
        max_rel_error: the least R whose relative error of all outputs, or of the weights, stays
            within this bound, in [0, 1).
        min_quality: the least R with this cosine of all outputs, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of the
            weights side by side.
        method: "svd", "scaled-svd", "whitened-svd" or "auto"; see `FactorizeGemm`.
        min_saving: least share of parameters and multiply-adds removed, in [0, 1).
        min_elements: weights with fewer entries are left alone.
        max_elements: weights with more entries together are left alone: several copies of them are
            held in float64.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: as `FactorizeGemm`, of the weights side by side; see `linalg.joint_left_svd`.
    """

    name: ClassVar[str] = "factorize-siblings"
    max_elements: int = 1 << 26

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_elements < 1:
            raise InputError(
                f"{self.name} has max_elements = {self.max_elements}", expected="at least 1"
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Two or more MatMul and Gemm of one graph that read the same activation."""
        found: dict[tuple[ir.Value, bool, ir.Graph], list[Layer]] = {}
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped) or is_factor(layer.node):
                continue
            graph = layer.node.graph
            assert isinstance(graph, ir.Graph)  # layers do not lie in functions
            if len(layer.weight.uses()) == 1:
                key = layer.activation, contracts_last(layer), graph
                found.setdefault(key, []).append(layer)
        for members in found.values():
            if len(members) > 1:
                yield self._unit(members)

    def _unit(self, members: Sequence[Layer]) -> Layer | Skipped:
        elements = sum(tensor_of(one.weight).size for one in members)
        if elements > self.max_elements:
            why = f"{elements} elements together, above {self.max_elements}"
            return Skipped(unit_name(members), why)
        return dataclasses.replace(
            members[0],
            name=unit_name(members),
            region=tuple(one.node for one in members),
            constants=tuple(one.weight for one in members),
            members=tuple(members),
        )

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that is settled by an option, or the ladder, where it saves enough."""
        joined = _side_by_side(weight_of(one) for one in layer.members)
        k, n = joined.shape
        top = self.largest(k, n)
        if top < 1 or not is_finite(joined):
            return
        known = statistics_of_input(stats)
        method = settle_method(self.method, known, self.name)
        curve = output_curve(joined, method, top, known)
        size = tensor_of(layer.weight).dtype.itemsize
        for rank in self.ranks(k, n, target, curve, spectra(joined)):
            elements = rank * (k + n)
            stage = Stage(self.name, {"method": method, "rank": rank})
            yield Candidate((stage,), float(curve[rank]), int(elements * size), 2 * elements)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q_1, Q_2, ...)` of the weights as applied: (K, R) and (R, N_i)."""
        if len(factors) != len(layer.members):
            raise InputError(f"{layer.name} is factorized already", expected="its weights")
        pairs = zip(layer.members, factors, strict=True)
        return self._factors(layer, [as_applied(one, w) for one, w in pairs], stage, stats)

    def _factors(
        self,
        layer: Layer,
        weights: Sequence[Array],
        stage: Stage,
        stats: LayerStatistics | None,
    ) -> Factors:
        known = statistics_of_input(stats)
        method = settle_method(str(stage.options["method"]), known, self.name)
        rank = int(stage.options["rank"])
        p, q = factorize(_side_by_side(weights), method, rank, known)
        ends = np.cumsum([w.shape[1] for w in weights])[:-1]
        return p, *np.split(q, ends, axis=1)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weights, each in the layout of its own, that `factors` stand for."""
        p, *qs = factors
        return tuple(as_stored(one, p @ q) for one, q in zip(layer.members, qs, strict=True))

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit X P, and of it each product with the member's own scaling, bias and transposes."""
        weights = [weight_of(one) for one in layer.members]
        if not all(is_finite(w) for w in weights):
            return Skip("a weight has NaN or infinity")
        rank, most = int(stage.options["rank"]), min(len(weights[0]), _columns(weights))
        if not 1 <= rank <= most:
            return Skip(f"rank {rank} is not in 1 to {most}")
        p, *qs = self._factors(layer, weights, stage, stats)
        first, _ = stored_factors(layer, p, qs[0])
        seconds = [stored_factors(one, p, q)[1] for one, q in zip(layer.members, qs, strict=True)]
        names = [f"{layer.weight.name}.p", *(f"{one.weight.name}.q" for one in layer.members)]
        dtype = tensor_of(layer.weight).dtype
        stored = store(tape, [first, *seconds], names, dtype)
        middle = emit_first(layer, layer.activation, stored[0], tape)
        return {
            one.output: emit_second(one, middle, second, tape)
            for one, second in zip(layer.members, stored[1:], strict=True)
        }


def _columns(weights: Sequence[Array]) -> int:
    return sum(w.shape[1] for w in weights)


def _side_by_side(weights: Iterable[Array]) -> Array:
    """(K, sum of N_i), in the type of the weights."""
    joined: Array = np.concatenate(list(weights), axis=1)
    return joined
