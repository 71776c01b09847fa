"""How far apart two arrays of the same shape and type are."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "agreement", "cosine", "failed", "is_float", "measure"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How one output of one sample differs from the reference.

    Args:
        closeness: cosine for floats, share of equal elements otherwise; 1 where nothing differs.
        signal: sum of squares of the reference.
        noise: sum of squares of the difference.
        max_abs: largest absolute difference.
        max_rel: `max_abs` divided by the reference's largest absolute value.
        single: reference and candidate, where they are one float each.
        failure: why the two cannot be compared, or "".
    """

    closeness: float
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    single: tuple[float, float] | None = None
    failure: str = ""


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether values are compared by cosine: real and complex, 16 bits (or fewer) and more."""
    return dtype.kind in "fc" or "float" in dtype.name


def failed(why: str) -> Difference:
    """The difference between things that cannot be compared."""
    return Difference(0.0, noise=math.inf, max_abs=math.inf, max_rel=math.inf, failure=why)


def measure(reference: Array, candidate: Array) -> Difference:
    """Compare two arrays; other shapes or types than the reference's are a failure.

    NaN and infinity are left out where both have the same; anywhere else they are a failure.
    """
    if reference.dtype != candidate.dtype and "O" not in reference.dtype.kind:
        return failed(f"has type {candidate.dtype.name} instead of {reference.dtype.name}")
    if reference.shape != candidate.shape:
        return failed(f"has shape {list(candidate.shape)} instead of {list(reference.shape)}")
    if not is_float(reference.dtype):
        return Difference(agreement(reference, candidate))
    r, c = _doubles(reference), _doubles(candidate)
    finite = np.isfinite(r) & np.isfinite(c)
    if not finite.all():
        if not np.array_equal(r[~finite], c[~finite], equal_nan=True):
            return failed("is NaN or infinite at other places than the original")
        r, c = r[finite], c[finite]
    largest = float(np.abs(r).max(initial=0.0))
    with np.errstate(over="ignore"):  # squares above 1e308 become infinite: no ratio is known
        error = c - r
        signal, noise = float(r @ r), float(error @ error)
    max_abs = float(np.abs(error).max(initial=0.0))
    max_rel = max_abs / largest if largest else (math.inf if max_abs else 0.0)
    single = (float(r[0]), float(c[0])) if r.size == 1 else None
    return Difference(cosine(r, c), signal, noise, max_abs, max_rel, single)


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Cosine of the angle between two finite vectors (n,), in [-1, 1].

    1 where both are zero or empty, 0 where only one is.
    """
    largest_a, largest_b = np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)
    if not (largest_a and largest_b):
        return 1.0 if largest_a == largest_b else 0.0
    if np.array_equal(a, b):
        return 1.0
    a, b = a / largest_a, b / largest_b  # squares cannot overflow or vanish now
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def agreement(reference: Array, candidate: Array) -> float:
    """Share of equal elements, in [0, 1]; 1 where there are none. Works for text, too."""
    return float(np.mean(reference == candidate)) if reference.size else 1.0


def _doubles(array: Array) -> npt.NDArray[np.float64]:
    """All values in one row of float64; a complex number gives two."""
    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array, dtype=np.complex128).view(np.float64)
    return np.asarray(array, dtype=np.float64).ravel()
