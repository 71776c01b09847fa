"""Replace a matrix product by three thinner ones: a weight as a tensor.

See `_tensor_forms` for the forms, `_tensor_fits` for the errors that are made least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

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
from onnxslim_rx_passes._linear import as_applied, as_stored, is_factor, tensor_of, weight_of
from onnxslim_rx_passes._tensor_emit import emit, shapes_are_sliced
from onnxslim_rx_passes._tensor_fits import Fits
from onnxslim_rx_passes._tensor_forms import METHODS, Form, compose, form_of
from onnxslim_rx_passes._tensor_ranks import TensorRanksPass

__all__ = ["TensorizeGemm"]

_KINDS = {"linear": "linear", "linear-left": "linear", "linear-batched": "linear"}
_WEIGHTINGS = ("auto", "none", "channels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorizeGemm(TensorRanksPass):
    """Replace ``X W + b`` by three products with few parameters.

    MatMul and Gemm with a constant matrix on the right, in all transposes with alpha and beta, and
    any leading axes of X. W is (K, N), N = n1 n2, and the three are (R and S being rank_in and
    rank_out of the first two, R the rank of the last):

    - "tucker": K to R, R to S, S to N. As a matrix has no more than one rank, this is never less
      than two factors of the smaller rank: it is there for those who count as the literature does.
    - "tt": K to R, R to n1 S, then each S to n2: a tensor train of (K, n1, n2), with the least
      error over all (the Tucker decomposition along K and n2 is the same).
    - "cp": K to R, n1 copies of that scaled, then each R to n2.

    Args:
        rank: R, at least 1; of tucker and tt both ranks.
        rank_in: R of tucker and tt, with
        rank_out: S.
        split: n1, a divisor of N; None: the one next below the root of N.
        ratio: share of the parameters and of the multiply-adds kept at most, in (0, 1); of pairs
            of ranks the one of least error.
        energy: the least share that keeps this share of the energy (sum of squares) of the output,
            or of the weight where the inputs are not known, in (0, 1].
        max_rel_error: the least share whose relative error stays within this bound, in [0, 1).
        min_quality: the least share with this cosine of the outputs, in (0, 1].
        rule: "evbmf" or "mdl": as many as stand out of noise among the singular values of the
            weight along K and n2 (cp: the larger of the two).
        method: "tucker", "tt", "cp", several of them separated by commas, or "auto": tt and cp
            where they beat two factors of as many parameters, which `FactorizeGemm` makes.
        weighting: "none" (error of the weight), "channels" (weighed by the Gram matrix of the
            inputs: the error of the output) or "auto" (the last where it is known).
        min_saving: least share of parameters and multiply-adds removed, in [0, 1).
        min_elements: weights with fewer entries are left alone.
        max_side: weights whose smaller side is larger are left alone: errors by rank need the
            eigenvectors of matrices of that side.

    Raises:
        InputError: an option outside its range, or more than one that settles the ranks.

    Sources: Novikov et al., NeurIPS 2015 (trains of linear layers); Oseledets, SIAM J. Sci.
    Comput. 33(5), 2011; Kim et al., ICLR 2016 (tucker); Lebedev et al., ICLR 2015 (cp).
    """

    name: ClassVar[str] = "tensorize-gemm"
    weighting: str = "auto"
    split: int | None = None
    max_side: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in _WEIGHTINGS:
            raise InputError(
                f"{self.name} has weighting = {self.weighting!r}",
                expected=" or ".join(_WEIGHTINGS),
            )
        for name, value, least in (("split", self.split, 2), ("max_side", self.max_side, 1)):
            if value is not None and value < least:
                raise InputError(f"{self.name} has {name} = {value}", expected=f"at least {least}")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """MatMul and Gemm with a constant matrix on the right that no other node reads."""
        facts, opset = Facts(model), model.opset_imports.get("", 1)
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped):
                yield layer
            elif why := self._why_not(layer) or _why_not_emitted(layer, facts, opset):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer

    def _why_not(self, layer: Layer) -> str | None:
        if is_factor(layer.node):
            return "is a factor already"
        if layer.weight_index == 0:
            return "its weight is on the left"
        if len(layer.weight.uses()) > 1:
            return f"{len(layer.weight.uses())} nodes share it"
        shape = tensor_of(layer.weight).shape.numpy()
        if len(shape) > 2:
            return "its weight is a batch of matrices"
        if (side := min(shape)) > self.max_side:
            return f"smaller side {side}, above {self.max_side}"
        k, n = weight_of(layer).shape
        forms = self._forms(k, n)
        if not any(isinstance(form, Form) for form in forms):
            return "; ".join(dict.fromkeys(map(str, forms)))
        return None

    def _forms(self, k: int, n: int) -> list[Form | str]:
        return [form_of(method, k, n, self.split) for method in self.wanted]

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """For each method the ranks that an option settles, or a ladder, where they save enough."""
        weight = weight_of(layer)
        if not is_finite(weight):
            return
        weighting = self._settled_weighting(self.weighting, stats)
        fits = _fits(weight, weighting, stats)
        size = tensor_of(layer.weight).dtype.itemsize
        k, n = weight.shape
        for form in self._forms(k, n):
            if isinstance(form, str):
                continue
            for cut in self.cuts(form, fits, target):
                ranks = np.array([cut.ranks])
                options = {**form.options(cut.ranks), "weighting": weighting}
                yield Candidate(
                    (Stage(self.name, options),),
                    cut.error,
                    int(form.parameters(ranks)[0] * size),
                    2 * int(form.macs(ranks)[0]),
                )

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The three factors; see `_tensor_forms`."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        weight = as_applied(layer, factors[0])
        chosen = _chosen(weight.shape, stage.options)
        if isinstance(chosen, str):
            raise InputError(f"{layer.name}: {chosen}")
        return self._factors(weight, chosen, stage, stats)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weight, in the layout of the layer's own, that `factors` stand for."""
        if len(factors) == 1:
            return factors
        _, n = weight_of(layer).shape
        return (as_stored(layer, compose(n, factors)),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit the three products with the layer's own scaling, bias and transposes."""
        weight = weight_of(layer)
        if not is_finite(weight):
            return Skip("the weight has NaN or infinity")
        chosen = _chosen(weight.shape, stage.options)
        if isinstance(chosen, str):
            return Skip(chosen)
        return emit(layer, chosen[0], self._factors(weight, chosen, stage, stats), tape)

    def _factors(
        self,
        weight: Array,
        chosen: tuple[Form, tuple[int, ...]],
        stage: Stage,
        stats: LayerStatistics | None,
    ) -> Factors:
        weighting = self._settled_weighting(str(stage.options.get("weighting", "auto")), stats)
        return tuple(_fits(weight, weighting, stats).factors(*chosen))

    def _settled_weighting(self, weighting: str, stats: LayerStatistics | None) -> str:
        known = stats is not None and stats.gram is not None
        if weighting == "channels" and not known:
            raise InputError(
                f"{self.name} has weighting = channels and no statistics of the activations",
                advice="give calibration data (a plan: those it was made with), or use none",
            )
        return "channels" if known and weighting != "none" else "none"


def _why_not_emitted(layer: Layer, facts: Facts, opset: int) -> str | None:
    if opset < 7:
        return f"opset {opset} adds without broadcasting; 7 is the first that does"
    if opset < 10 and shapes_are_sliced(layer, facts):
        return f"opset {opset}, and its activation may have any number of axes"
    return None


def _fits(weight: Array, weighting: str, stats: LayerStatistics | None) -> Fits:
    matrix = weight.astype(np.float64)
    if weighting == "none" or stats is None:
        return Fits(matrix)
    return Fits(matrix, stats.gram, max(stats.rows, 1))


def _chosen(
    shape: tuple[int, ...], options: Mapping[str, Any]
) -> tuple[Form, tuple[int, ...]] | str:
    """The form and the ranks that a stage names, or why there are none."""
    method = str(options.get("method"))
    if method not in METHODS:
        return f"there is no method {method!r}"
    split = options.get("split")
    k, n = shape
    form = form_of(method, k, n, None if split is None else int(split))
    if isinstance(form, str):
        return form
    missing = [name for name in form.rank_names if name not in options]
    if missing:
        return f"{method}: {' and '.join(missing)} is missing"
    ranks = tuple(int(options[name]) for name in form.rank_names)
    if not form.fits(np.array([ranks]))[0]:
        return f"{method}: ranks {', '.join(map(str, ranks))} do not fit a weight of {shape}"
    return form, ranks
