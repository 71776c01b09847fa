"""Replace a matrix product by two thinner ones.

`X W + b` becomes `(X P) Q + b` with `W ~= P Q`. With statistics of the activations the product
keeps `X W`, not `W` (see `linalg.whiten`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant, marked
from onnxslim_rx.linalg import error_curve, truncated_svd, whitened_error_curve, whitened_svd
from onnxslim_rx.passbase import (
    Array,
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.targets import Target

__all__ = ["FactorizeGemm"]

_KINDS = {"linear": "linear", "linear-left": "linear", "linear-batched": "linear"}
# Shares of the weights kept that the ladder offers.
_LADDER = (0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.12)
Matrices = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeGemm(CompressionPass):
    """Replace ``X W + b`` by ``(X P) Q + b`` with ``W ~= P Q``.

    Shapes: X (..., M, K), W (K, N) or (..., K, N), P (..., K, R), Q (..., R, N), b (N,) or absent.
    MatMul with a constant on either side, and Gemm in all transposes with alpha and beta, are
    covered; a constant on the left is treated as its transpose.

    Args:
        rank: R; None: a ladder of ranks for the planner to choose from.
        max_rel_error: instead of `rank`: the least rank whose relative error of the output stays
            within this bound, in [0, 1).
        method: "svd" (least error of the weight), "whitened-svd" (least error of the output, needs
            statistics) or "auto" (the second where there are statistics).
        min_saving: least share of multiply-adds removed, in [0, 1).
        min_elements: weights with fewer entries are left alone.
        max_side: weights whose smaller side is larger are left alone: the decomposition takes
            4 s at 2,048 and eight times as long at twice the side.

    Raises:
        InputError: an option outside its range, or both `rank` and `max_rel_error`.

    Source: Eckart & Young, Psychometrika 1(3), 1936; whitened: SVD-LLM, Wang et al., ICLR 2025.
    """

    name: ClassVar[str] = "factorize-gemm"
    rank: int | None = None
    max_rel_error: float | None = None
    method: str = "auto"
    min_saving: float = 0.1
    min_elements: int = 4096
    max_side: int = 2048

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"factorize-gemm has rank = {self.rank}", expected="at least 1")
        if self.max_rel_error is not None and not 0.0 <= self.max_rel_error < 1.0:
            raise InputError(
                f"factorize-gemm has max_rel_error = {self.max_rel_error}", expected="in [0, 1)"
            )
        if self.rank is not None and self.max_rel_error is not None:
            raise InputError("factorize-gemm got both rank and max_rel_error", expected="one")
        if self.method not in ("auto", "svd", "whitened-svd"):
            raise InputError(
                f"factorize-gemm has method = {self.method!r}",
                expected="auto, svd or whitened-svd",
            )
        if not 0.0 <= self.min_saving < 1.0:
            raise InputError(
                f"factorize-gemm has min_saving = {self.min_saving}", expected="in [0, 1)"
            )
        for field in ("min_elements", "max_side"):
            if getattr(self, field) < 1:
                raise InputError(
                    f"factorize-gemm has {field} = {getattr(self, field)}", expected="at least 1"
                )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """MatMul and Gemm with a constant side that no other node reads."""
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Skipped):
                yield layer
            elif marked(layer.node) == self.name:  # a second cut would add a second error
                yield Skipped(layer.name, f"{layer.op}: is a factor already")
            elif len(layer.weight.uses()) > 1:
                yield Skipped(layer.name, f"{layer.op}: {len(layer.weight.uses())} nodes share it")
            elif (side := min(_weight(layer).shape.numpy()[-2:])) > self.max_side:
                yield Skipped(layer.name, f"{layer.op}: smaller side {side}, above {self.max_side}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The fixed rank, the one of the error bound, or the ladder, where it saves enough."""
        weight = _canonical(layer)
        if not np.isfinite(weight).all():
            return
        method = self._method(stats)
        curve = _error_curve(weight, stats if method == "whitened-svd" else None)
        size = _weight(layer).dtype.itemsize
        *batch, k, n = weight.shape
        for rank in self._ranks(k, n, curve, target):
            elements = math.prod(batch) * rank * (k + n)
            if elements > (1.0 - self.min_saving) * weight.size:
                continue
            stage = Stage(self.name, {"method": method, "rank": rank})
            yield Candidate(
                (stage,), error=float(curve[rank]), bytes=elements * size, flops=2 * elements
            )

    def _method(self, stats: LayerStatistics | None) -> str:
        gram = stats is not None and stats.gram is not None
        if self.method == "whitened-svd" and not gram:
            raise InputError(
                "factorize-gemm has method = whitened-svd and no statistics of the activations",
                advice="give calibration data, or use method svd",
            )
        return ("whitened-svd" if gram else "svd") if self.method == "auto" else self.method

    def _ranks(self, k: int, n: int, curve: Matrices, target: Target) -> Iterator[int]:
        """Descending, so that the first is the mildest."""
        if self.rank is not None:
            yield min(self.rank, k, n)
        elif self.max_rel_error is not None:
            within = np.flatnonzero(curve <= self.max_rel_error)
            yield max(int(within[0]), 1)
        else:
            step = target.rank_multiple
            ladder = {round(share * k * n / (k + n) / step) * step for share in _LADDER}
            yield from sorted((r for r in ladder if r >= max(target.min_rank, 1)), reverse=True)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q)` of the weight as the layer applies it: (..., K, R) and (..., R, N)."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        return _factorize(_canonical(layer), stage, stats)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weight, in the layout of the layer's own, that `factors` stand for."""
        product = factors[0] if len(factors) == 1 else np.matmul(*factors)
        return (np.swapaxes(product, -1, -2) if _is_transposed(layer) else product,)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit `(X P) Q` with the layer's own scaling, bias and transposes."""
        weight = _canonical(layer)
        if not np.isfinite(weight).all():
            return Skip("the weight has NaN or infinity")
        if not 1 <= int(stage.options["rank"]) <= min(weight.shape[-2:]):
            return Skip(f"rank {stage.options['rank']} does not fit a weight of {weight.shape}")
        dtype = _weight(layer).numpy().dtype
        p, q = (factor.astype(dtype) for factor in _factorize(weight, stage, stats))
        name = layer.weight.name
        left = layer.weight_index == 0
        if left:  # Y = W X with W^T ~= P Q, so Y = Q^T (P^T X)
            p, q = np.swapaxes(p, -1, -2), np.swapaxes(q, -1, -2)
        first = tape.initializer(ir.tensor(np.ascontiguousarray(p), name=f"{name}.p"))
        second = tape.initializer(ir.tensor(np.ascontiguousarray(q), name=f"{name}.q"))
        emit = _emit_gemm if layer.op == "Gemm" else _emit_matmul
        return emit(layer, first, second, tape)


def _emit_matmul(layer: Layer, p: ir.Value, q: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    x = layer.activation
    if layer.weight_index == 0:
        return tape.op("MatMul", [q, tape.op("MatMul", [p, x])])
    return tape.op("MatMul", [tape.op("MatMul", [x, p]), q])


def _emit_gemm(layer: Layer, p: ir.Value, q: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """The first product carries the transpose of the activation, the second all the rest."""
    node = layer.node
    left = layer.weight_index == 0
    transposed = node.attributes.get_int("transB" if left else "transA", 0)
    x = tape.op("Transpose", [layer.activation], {"perm": [1, 0]}) if transposed else None
    x = x if x is not None else layer.activation
    middle = tape.op("MatMul", [p, x] if left else [x, p])
    scaling = {
        key: node.attributes.get_float(key, 1.0)
        for key in ("alpha", "beta")
        if key in node.attributes
    }
    return tape.op("Gemm", [*((q, middle) if left else (middle, q)), *node.inputs[2:]], scaling)


def _canonical(layer: Layer) -> Matrices:
    """The weight as (..., K, N), so that the layer computes `X W` for X (..., K)."""
    weight = _weight(layer).numpy().astype(np.float64)
    return np.swapaxes(weight, -1, -2) if _is_transposed(layer) else weight


def _is_transposed(layer: Layer) -> bool:
    left = layer.weight_index == 0
    if layer.op != "Gemm":
        return left
    flag = layer.node.attributes.get_int("transA" if left else "transB", 0)
    return bool(flag) != left


def _factorize(weight: Matrices, stage: Stage, stats: LayerStatistics | None) -> Factors:
    rank, method = int(stage.options["rank"]), stage.options["method"]
    if method == "whitened-svd" and (stats is None or stats.gram is None):
        raise InputError(
            "the plan has method = whitened-svd and there are no statistics of the activations",
            advice="give the calibration data that the plan was made with",
        )

    def one(w: Array) -> tuple[Matrices, Matrices]:
        if method == "whitened-svd" and stats is not None and stats.gram is not None:
            return whitened_svd(w, stats.gram, rank, rows=max(stats.rows, 1))
        return truncated_svd(w, rank)

    if weight.ndim == 2:
        return one(weight)
    pairs = [one(w) for w in weight.reshape(-1, *weight.shape[-2:])]
    batch = weight.shape[:-2]
    p, q = (np.stack(side).reshape(*batch, *side[0].shape) for side in zip(*pairs, strict=True))
    return p, q


def _error_curve(weight: Matrices, stats: LayerStatistics | None) -> Matrices:
    """By rank; of a batch, the root of the mean of the squared relative errors."""
    curves = [
        error_curve(w)
        if stats is None or stats.gram is None
        else whitened_error_curve(w, stats.gram, rows=max(stats.rows, 1))
        for w in weight.reshape(-1, *weight.shape[-2:])
    ]
    mean: Matrices = np.sqrt(np.mean(np.square(curves), axis=0))
    return mean


def _weight(layer: Layer) -> ir.TensorProtocol:
    tensor = constant(layer.weight)
    assert tensor is not None  # `layers` lists constants only
    return tensor
