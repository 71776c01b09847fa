"""One matrix into two thin ones, by any method, and the error of that by rank.

- "svd": least error of the weight (Eckart & Young, Psychometrika 1(3), 1936).
- "scaled-svd": its rows weighed by the size of their inputs (ASVD, Yuan et al., 2023).
- "whitened-svd": least error of the output (SVD-LLM, Wang et al., ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.linalg import (
    error_curve,
    fix_signs,
    output_energy,
    scaled_svd,
    svd,
    whitened_error_curve,
    whitened_svd,
)
from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx_passes._memo import Memo, digest

__all__ = [
    "channel_sizes",
    "curve_of_factors",
    "factorize",
    "is_finite",
    "output_curve",
    "plain_curve",
    "settle_method",
    "spectra",
    "statistics_of_input",
]

Matrix = npt.NDArray[np.float64]

# From this side on a randomized method may be taken, at an error at most 1e-4 of it larger.
_LARGE, _TOL = 512, 1e-4
# Of outputs, only for ranks below this share of the side: there it was faster (4,096 x 11,008, one
# thread: rank 304 in 15 s instead of 21, rank 1,488 in 39 instead of 27).
_FEW = 1 / 6
# From this side on squares of singular values stand for them: a fifth of the time, and errors
# below 1e-8 of the norm, which no stored type shows, are noise.
_SQUARES = 1024
_CHUNK = 1 << 22
# Factors are wanted when a rank is probed, and again in each plan that has it.
_KEPT = Memo(256 << 20)


def statistics_of_input(stats: LayerStatistics | None) -> LayerStatistics | None:
    """Of a unit whose members read one tensor: what is known of it, from whoever has it."""
    if stats is None or stats.gram is not None:
        return stats
    return next((one for one in stats.members if one is not None and one.gram is not None), stats)


def settle_method(method: str, stats: LayerStatistics | None, name: str) -> str:
    """The method to take: "auto" is the best that the statistics allow.

    Args:
        method: as the user gave it, or as a plan has it.
        stats: of the input.
        name: of the pass, for messages.

    Raises:
        InputError: the method needs statistics that there are not.
    """
    gram = stats is not None and stats.gram is not None
    sizes = gram or (stats is not None and stats.mean_abs is not None)
    if method == "auto":
        return "whitened-svd" if gram else "scaled-svd" if sizes else "svd"
    if (method == "whitened-svd" and not gram) or (method == "scaled-svd" and not sizes):
        raise InputError(
            f"{name} has method = {method} and no statistics of the activations",
            advice="give calibration data (a plan: those it was made with), or use method svd",
        )
    return method


def is_finite(weight: Array) -> bool:
    """Whether no entry is NaN or infinite; looked at in parts, as float16 and bfloat16 are slow."""
    flat = weight.reshape(-1) if weight.flags.c_contiguous else np.ravel(weight, order="K")
    return all(
        bool(np.isfinite(flat[start : start + _CHUNK]).all())
        for start in range(0, flat.size, _CHUNK)
    )


def channel_sizes(stats: LayerStatistics) -> Matrix:
    """(K,), how large the inputs of each channel are: mean absolute value or root mean square."""
    if stats.mean_abs is not None:
        return stats.mean_abs
    assert stats.gram is not None  # `settle_method` has seen to it
    sizes: Matrix = np.sqrt(np.maximum(np.diagonal(stats.gram), 0.0) / max(stats.rows, 1))
    return sizes


def factorize(
    weight: Array, method: str, rank: int, stats: LayerStatistics | None
) -> tuple[Matrix, Matrix]:
    """Factors of a matrix, or of each matrix of a batch.

    Args:
        weight: (..., K, N), finite.
        method: "svd", "scaled-svd" or "whitened-svd".
        rank: 1 to min(K, N).
        stats: of the inputs; the same for all matrices of a batch.

    Returns:
        P (..., K, rank) and Q (..., rank, N), float64, balanced, with fixed signs; what they are
        at a lower rank are their leading columns and rows. Not to be changed: others may get them.
    """
    if weight.ndim == 2:
        p, q = _KEPT.get(
            _key(weight, method, rank, stats), lambda: _factorize(weight, method, rank, stats)
        )
        return p, q
    flat = weight.reshape(-1, *weight.shape[-2:])
    pairs = [_factorize(w, method, rank, stats) for w in flat]
    batch = weight.shape[:-2]
    p, q = (np.stack(side).reshape(*batch, *side[0].shape) for side in zip(*pairs, strict=True))
    return p, q


def _key(weight: Array, method: str, rank: int, stats: LayerStatistics | None) -> object:
    """Of all that factors depend on."""
    arrays = [weight]
    if method == "scaled-svd" and stats is not None:
        arrays.append(channel_sizes(stats))
    elif method == "whitened-svd" and stats is not None and stats.gram is not None:
        arrays.append(stats.gram)
    return digest(arrays), method, rank, 0 if stats is None else stats.rows


def _factorize(
    w: Array, method: str, rank: int, stats: LayerStatistics | None
) -> tuple[Matrix, Matrix]:
    if method == "whitened-svd" and stats is not None and stats.gram is not None:
        few = min(w.shape) > _SQUARES and rank <= _FEW * min(w.shape)
        rows = max(stats.rows, 1)
        return whitened_svd(w, stats.gram, rank, rows=rows, tol=_TOL if few else 0.0)
    if method == "scaled-svd" and stats is not None:
        return scaled_svd(w, channel_sizes(stats), rank)
    p, q = svd(w, rank, tol=_TOL if min(w.shape) > _LARGE else 0.0).factors()
    return fix_signs(p, q)


def output_curve(weight: Array, method: str, top: int, stats: LayerStatistics | None) -> Matrix:
    """Relative error by rank: of the output where the inputs are known, else of the weight.

    Args:
        weight: (..., K, N), finite; of a batch, the root of the mean of squared relative errors.
        method: as `factorize` has it.
        top: the largest rank that is asked for, 1 to min(K, N).
        stats: of the inputs.

    Returns:
        (R + 1,) with R at least `top`, in [0, 1], not increasing.
    """
    flat = weight.reshape(-1, *weight.shape[-2:])
    curves = [_curve(w, method, top, stats) for w in flat]
    mean: Matrix = np.sqrt(np.mean(np.square(curves), axis=0))
    return mean


def _curve(w: Array, method: str, top: int, stats: LayerStatistics | None) -> Matrix:
    gram = None if stats is None else stats.gram
    if method == "whitened-svd" and stats is not None and gram is not None:
        return whitened_error_curve(w, gram, rows=max(stats.rows, 1))
    if method == "svd" and gram is None:
        return plain_curve(w)
    assert stats is not None  # only plain SVD does without
    p, q = _factorize(w, method, top, stats)
    if gram is not None:
        return curve_of_factors(np.einsum("kr,kr->r", p, gram @ p), q, output_energy(w, gram))
    squares = channel_sizes(stats) ** 2
    total = float(squares @ np.einsum("kn,kn->k", w, w, dtype=np.float64))
    return curve_of_factors(squares @ p**2, q, total)


def curve_of_factors(images: Matrix, q: Matrix, total: float) -> Matrix:
    """Error by rank of a product whose second factor has orthogonal rows.

    The outputs `X P Q` are then an orthogonal projection of `X W`, so that what each component
    holds of the energy can be taken from the whole.

    Args:
        images: (R,), `||X p_i||^2` of each column of P.
        q: (R, N), its rows orthogonal.
        total: `||X W||_F^2`.

    Returns:
        (R + 1,), relative error; all 0 where the total is 0.
    """
    if total <= 0.0:
        return np.zeros(len(q) + 1)
    held = np.cumsum(np.maximum(images, 0.0) * np.einsum("rn,rn->r", q, q))
    left: Matrix = np.sqrt(np.maximum(1.0 - np.append(0.0, held) / total, 0.0))
    return left


def plain_curve(w: Array) -> Matrix:
    """`linalg.error_curve` at any size."""
    if min(w.shape) <= _SQUARES:
        return error_curve(w)
    short = w if w.shape[0] <= w.shape[1] else w.T
    return whitened_error_curve(short, np.eye(len(short)))


def spectra(weight: Array) -> Callable[[], Iterator[Matrix]]:
    """All singular values of each matrix of (..., K, N), up to a factor, when asked for."""

    def values() -> Iterator[Matrix]:
        for w in weight.reshape(-1, *weight.shape[-2:]):
            squares = plain_curve(w) ** 2
            # rounding may leave differences that increase
            yield np.sqrt(np.maximum.accumulate((squares[:-1] - squares[1:])[::-1])[::-1])

    return values
