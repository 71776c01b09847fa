"""Rules that choose a rank from a spectrum, an error curve or a size.

Every rule answers with a number of components; `round_rank` turns it into one that the target runs
fast and that pays. Rules that estimate noise from the spectrum are in `noise`.
"""

from __future__ import annotations

import math

import numpy as np

from onnxslim_rx.linalg.matrix import Array, Matrix, tail

__all__ = [
    "break_even_rank",
    "check_spectrum",
    "rank_for_energy",
    "rank_for_error",
    "rank_for_quality",
    "rank_for_ratio",
    "round_rank",
]


def break_even_rank(k: int, n: int) -> int:
    """The largest rank whose two factors have fewer entries than a matrix of K x N; 0: none."""
    _check_sides(k, n)
    return (k * n - 1) // (k + n)


def rank_for_ratio(k: int, n: int, kept: float) -> int:
    """The largest rank whose factors have at most `kept` (above 0) of the entries; at least 1."""
    _check_sides(k, n)
    if not kept > 0.0:
        raise ValueError(f"found a ratio of {kept}; expected more than 0")
    return max(min(math.floor(kept * k * n / (k + n) + 1e-9), k, n), 1)


def rank_for_energy(values: Array, share: float) -> int:
    """The least rank that holds a share of the energy.

    Args:
        values: (R,), singular values, not increasing, at least 0.
        share: of the sum of their squares, in (0, 1].

    Returns:
        1 to R.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"found a share of {share}; expected more than 0 and at most 1")
    return rank_for_error(tail(check_spectrum(values)[0] ** 2), math.sqrt(1.0 - share))


def rank_for_error(curve: Array, bound: float) -> int:
    """The least rank, at least 1, whose relative error is within a bound.

    Args:
        curve: (R + 1,), error by rank as `error_curve` has it: not increasing, ending at 0 or at
            rounding.
        bound: at least 0; where no entry is within it, R is the answer.

    Returns:
        1 to R.
    """
    errors = np.asarray(curve, dtype=np.float64)
    if errors.ndim != 1 or len(errors) < 2 or not bound >= 0.0:
        raise ValueError(f"found a curve of shape {errors.shape} and bound {bound}")
    within = np.flatnonzero(errors <= bound * (1.0 + 1e-12))
    return max(int(within[0]), 1) if len(within) else len(errors) - 1


def rank_for_quality(curve: Array, cosine: float) -> int:
    """The least rank whose outputs have a cosine with the original ones, over all rows together.

    The best outputs of a rank are an orthogonal projection of the original ones, so that their
    cosine is `sqrt(1 - error^2)`.

    Args:
        curve: (R + 1,), error of the layer's outputs by rank (`whitened_error_curve`).
        cosine: in (0, 1].

    Returns:
        1 to R.
    """
    if not 0.0 < cosine <= 1.0:
        raise ValueError(f"found a cosine of {cosine}; expected more than 0 and at most 1")
    return rank_for_error(curve, math.sqrt(1.0 - cosine**2))


def round_rank(
    rank: float, k: int, n: int, *, multiple: int = 1, least: int = 1, most: int | None = None
) -> int:
    """The nearest rank that is a multiple and pays.

    Args:
        rank: wanted.
        k: rows of the matrix.
        n: columns.
        multiple: what the target runs fast; at least 1. Halves are rounded up.
        least: lower bound, at least 1.
        most: upper bound; None: only the rank at which the factors stop being smaller.

    Returns:
        A multiple within the bounds; where there is none, the bound itself. Never below 1, and
        never above `break_even_rank` unless that is 0: then 1.
    """
    if multiple < 1 or least < 1 or (most is not None and most < 1):
        raise ValueError(f"found multiple {multiple}, least {least}, most {most}; expected >= 1")
    top = max(break_even_rank(k, n), 1)
    top = top if most is None else min(top, most)
    low = min(least, top)
    first, last = -(-low // multiple) * multiple, top // multiple * multiple
    if first > last:
        return min(max(round(rank), low), top)
    return min(max(math.floor(rank / multiple + 0.5) * multiple, first), last)


def check_spectrum(values: Array) -> tuple[Matrix, float]:
    """Singular values divided by the largest, and the largest (1 where all are 0).

    Raises:
        ValueError: not one axis, empty, not finite, negative or increasing.
    """
    spectrum = np.asarray(values, dtype=np.float64)
    if spectrum.ndim != 1 or not len(spectrum) or not np.isfinite(spectrum).all():
        raise ValueError(f"found singular values of shape {spectrum.shape}; expected finite ones")
    if (spectrum < 0).any() or (np.diff(spectrum) > 0).any():
        raise ValueError("found singular values that are negative or increase; expected neither")
    largest = float(spectrum[0]) if spectrum[0] > 0 else 1.0
    return spectrum / largest, largest


def _check_sides(k: int, n: int) -> None:
    if k < 1 or n < 1:
        raise ValueError(f"found a matrix of {k} x {n}; expected at least 1 x 1")
