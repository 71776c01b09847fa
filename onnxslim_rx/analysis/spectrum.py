"""How much of a weight, or of a layer's output, few singular values hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.weights import WeightUse
from onnxslim_rx.linalg import break_even_rank, svd, whitened_error_curve
from onnxslim_rx.linalg.matrix import energy
from onnxslim_rx.linalg.moments import gram_root, ridge

__all__ = [
    "EXACT_SIDE",
    "LEADING",
    "SPECTRUM_LIMIT",
    "Spectrum",
    "as_matrices",
    "energy_ranks",
    "kept_by_rank",
    "kept_by_rank_of_outputs",
    "kept_by_rank_of_rows",
    "ranks_to_show",
]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

SPECTRUM_LIMIT = 1024
"""Matrices whose smaller side is above this take seconds each and are left out unless asked."""

EXACT_SIDE = 2048
"""Above this smaller side, only the leading part of a spectrum is computed."""

LEADING = 256
"""So many singular values of matrices above `EXACT_SIDE`, by a randomized method."""

ENERGIES = (0.9, 0.99, 0.999)

_CHUNK = 1 << 22  # elements converted to float64 at a time: 32 MB
_TOLERANCE = 1e-2  # of the randomized method: a hundredth of the error, far below a pixel


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Share of the energy (squared Frobenius norm) that the best approximation of each rank keeps.

    Args:
        name: of the weight, as in plans.
        op: operator type of the node that reads it.
        shape: (K, N), as the layer applies it: `Y = X W` with X (rows, K).
        batch: number of such matrices in the weight; shares are of their sum.
        bytes: of the weight as stored.
        plain: (R + 1,), entry r is the share of `||W||_F^2` that rank r keeps, in [0, 1]; R is
            min(K, N), or `LEADING` for large matrices. None where the weight is not finite.
        whitened: the same of `||X W||_F^2` under the activations seen; None where there are none.
        note: what is missing, and why; "" where nothing is.
    """

    name: str
    op: str
    shape: tuple[int, int]
    batch: int
    bytes: int
    plain: Matrix | None
    whitened: Matrix | None = None
    note: str = ""

    @property
    def break_even(self) -> int:
        """The largest rank whose two factors are smaller than the matrix; 0: none."""
        return break_even_rank(*self.shape)

    def rank(self, share: float, *, whitened: bool = False) -> int | None:
        """The least rank that keeps a share in (0, 1]; None where it is not known."""
        kept = self.whitened if whitened else self.plain
        return None if kept is None else _rank(kept, share, min(self.shape))

    def to_dict(self, also: tuple[int, ...] = ()) -> dict[str, Any]:
        """Lists, numbers and strings, with at most 64 points of each curve.

        Args:
            also: ranks that must be among the points, beside 0, break-even and the last one.
        """
        curves = [kept for kept in (self.plain, self.whitened) if kept is not None]
        known = max((len(kept) - 1 for kept in curves), default=0)
        ranks = ranks_to_show(known, (self.break_even, *also))
        ranked = {
            f"{name}rank{label}": self.rank(share, whitened=bool(name))
            for name in ("", "whitened_")
            for label, share in zip(("90", "99", "999"), ENERGIES, strict=True)
        }
        return {
            "name": self.name, "op": self.op, "shape": list(self.shape), "batch": self.batch,
            "bytes": self.bytes, "break_even": self.break_even, **ranked, "ranks": ranks,
            "plain": _thinned(self.plain, ranks), "whitened": _thinned(self.whitened, ranks),
            "note": self.note,
        }  # fmt: skip


def _rank(kept: Matrix, share: float, full: int) -> int | None:
    """The least rank that keeps a share; rounding may leave the last sums below 1."""
    rank = max(int(np.searchsorted(kept, share)), 1)
    return rank if rank < len(kept) else full if len(kept) > full else None


def ranks_to_show(known: int, also: tuple[int, ...] = (), most: int = 64) -> list[int]:
    """At most `most` ranks from 0 to `known`, close together where spectra bend, at small ones.

    Args:
        known: the largest rank, at least 0.
        also: ranks that must be among them, where they are within reach.
        most: at least 8.
    """
    must = {0, known, *(rank for rank in also if 0 <= rank <= known)}
    half = (most - len(must)) // 2
    spread = {round(x) for x in np.linspace(0, known, half)}
    small = {round(x) for x in np.geomspace(1, max(known, 1), half)}
    return sorted(rank for rank in must | spread | small if rank <= known)


def _thinned(kept: Matrix | None, ranks: list[int]) -> list[float]:
    return [] if kept is None else [float(f"{kept[min(r, len(kept) - 1)]:.6g}") for r in ranks]


def as_matrices(node: ir.Node, index: int, weight: Array) -> Array:
    """A weight (B, K, N) as its node applies it, `Y = X W` with X (rows, K); a view, no copy.

    B counts the matrices of a batched weight and the directions of a recurrent one. K is channels
    times kernel of a convolution, the rows of an embedding, the inputs of a recurrent layer.

    Args:
        node: reads the weight.
        index: as which input.
        weight: two axes or more.
    """
    op = node.op_type
    if op in ("Conv", "ConvTranspose"):  # (filters, channels, ...) and (channels, filters, ...)
        flat = weight.reshape(1, weight.shape[0], -1)
        return np.swapaxes(flat, 1, 2) if op == "Conv" else flat
    stacked = weight.reshape(-1, *weight.shape[-2:])
    flipped = op in ("LSTM", "GRU", "RNN") or (op == "MatMul" and index == 0)
    if op == "Gemm":
        flipped = bool(node.attributes.get_int("transA" if index == 0 else "transB", 0)) != (
            index == 0
        )
    return np.swapaxes(stacked, 1, 2) if flipped else stacked


def kept_by_rank(matrices: Array) -> Matrix | None:
    """Share of the energy that the best approximation of each rank keeps.

    Args:
        matrices: (B, K, N); each is approximated on its own, by the same rank.

    Returns:
        (R + 1,), not falling, entry 0 is 0; R is min(K, N) or, above `EXACT_SIDE`, `LEADING`.
        None for matrices with an entry that is not finite.
    """
    if min(matrices.shape[1:]) > EXACT_SIDE:
        return _leading(matrices)
    return _shares(np.stack([_energies(matrix) for matrix in matrices]))


def kept_by_rank_of_outputs(matrices: Array, gram: Array, rows: int) -> Matrix:
    """As `kept_by_rank`, of the layer's outputs.

    Args:
        matrices: (B, K, N), finite.
        gram: (K, K), `X^T X`.
        rows: of X, at least 1.
    """
    if min(matrices.shape[1:]) > EXACT_SIDE:
        ridged = np.asarray(gram, dtype=np.float64)
        ridged = ridged + np.eye(len(ridged)) * ridge(ridged, rows)
        root = gram_root(ridged).astype(np.float32)
        found = _leading(np.stack([root @ matrix.astype(np.float32) for matrix in matrices]))
        assert found is not None  # products of finite matrices of this size
        return found
    errors = [whitened_error_curve(matrix, gram, rows=rows) for matrix in matrices]
    kept: Matrix = 1.0 - np.mean(np.square(errors), axis=0)
    return kept


def kept_by_rank_of_rows(table: Array, counts: Array) -> Matrix | None:
    """As `kept_by_rank`, of an embedding's rows as often as they were read.

    Args:
        table: (V, N).
        counts: (V,), at least 0.
    """
    return _shares(_energies(table, np.sqrt(np.asarray(counts, dtype=np.float64)))[None])


def energy_ranks(use: WeightUse, limit: int | None) -> tuple[int, int, int] | None:
    """Least ranks that keep 90, 99 and 99.9% of the weight's energy, its squared Frobenius norm.

    Args:
        use: the weight.
        limit: None is returned where the smaller side is above this; None for no limit.

    Returns:
        Three ranks, at least 1; None also for weights with an entry that is not finite.
    """
    matrices = as_matrices(use.node, use.index, use.tensor.numpy())
    full = min(matrices.shape[1:])
    if limit is not None and full > limit:
        return None
    kept = _shares(np.stack([_energies(matrix) for matrix in matrices]))
    if kept is None:
        return None
    first, second, third = (_rank(kept, share, full) or full for share in ENERGIES)
    return first, second, third


def _shares(energies: Matrix) -> Matrix | None:
    """From squared singular values (B, R), largest first, to kept shares (R + 1,)."""
    total = energies.sum()
    if not np.isfinite(total):
        return None
    kept = np.append(0.0, np.cumsum(np.maximum(energies.sum(axis=0), 0.0)))
    return np.minimum(kept / (kept[-1] or 1.0), 1.0) if total > 0 else np.ones(len(kept))


def _energies(matrix: Array, scale: Matrix | None = None) -> Matrix:
    """Squared singular values of `diag(scale) matrix`, largest first; NaN where it is not finite.

    In float64, from the Gram matrix of the smaller side, whose eigenvalues they are.
    """
    gram = _small_gram(matrix, scale)
    if not np.isfinite(gram).all():
        return np.full(len(gram), math.nan)
    energies: Matrix = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
    return energies


def _small_gram(matrix: Array, scale: Matrix | None) -> Matrix:
    """X^T X or X X^T, whichever is smaller, float64, over chunks of the longer side."""
    factors = None if scale is None else scale[:, None]
    if matrix.shape[0] < matrix.shape[1]:
        matrix, factors = matrix.T, None if factors is None else factors.T
    rows, columns = matrix.shape
    gram = np.zeros((columns, columns))
    step = max(_CHUNK // columns, 1)
    for start in range(0, rows, step):
        part = matrix[start : start + step].astype(np.float64)
        if factors is not None:
            part *= factors[start : start + step] if len(factors) > 1 else factors
        gram += part.T @ part
    return gram


def _leading(matrices: Array) -> Matrix | None:
    """Kept shares (LEADING + 1,) of large matrices."""
    found, total = np.zeros(LEADING), 0.0
    for matrix in matrices:
        try:
            found += svd(matrix, LEADING, tol=_TOLERANCE).s ** 2
        except ValueError:
            return None  # not finite
        total += energy(matrix)
    return (
        np.minimum(np.append(0.0, np.cumsum(found)) / total, 1.0) if total else np.ones(LEADING + 1)
    )
