"""How many singular values stand out of noise: EVBMF and MDL.

Both take the spectrum of a matrix that is a product of low rank plus independent noise of equal
variance, and need no setting.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from onnxslim_rx.linalg.matrix import Array, Matrix
from onnxslim_rx.linalg.rank import check_spectrum

__all__ = ["evbmf_rank", "mdl_rank", "noise_variance"]

# Points of the first, coarse search for the noise variance, which may have several minima.
_GRID = 128


def evbmf_rank(values: Array, shape: tuple[int, int], *, variance: float | None = None) -> int:
    """Rank by the global solution of empirical variational Bayes matrix factorization.

    Args:
        values: (min(K, N),), all singular values, not increasing.
        shape: (K, N).
        variance: of the noise in an entry, above 0; None: `noise_variance`.

    Returns:
        0 to min(K, N): how many values exceed the threshold `sqrt(M variance x)` with
        `x = (1 + t) (1 + a / t)`, `a = L / M`, L and M the shorter and the longer side, and t the
        root of `phi(t) + phi(t / a)`, `phi(z) = log(1 + z) / z - 1/2`.

    Raises:
        ValueError: values that are no full spectrum of the shape; a variance that is not above 0.

    Source: Nakajima, Sugiyama, Babacan & Tomioka, JMLR 14, 2013, theorem 2.
    """
    spectrum, scale = _full_spectrum(values, shape)
    long = max(shape)
    if variance is None:
        noise = _estimate_variance(spectrum, shape)
    elif variance > 0.0:
        noise = variance / scale**2
    else:
        raise ValueError(f"found a variance of {variance}; expected more than 0")
    threshold = np.sqrt(long * noise * _least_signal(min(shape) / long))
    return int(np.count_nonzero(spectrum > max(threshold, _rounding(shape))))


def noise_variance(values: Array, shape: tuple[int, int]) -> float:
    """Variance of the noise in an entry, by least free energy of the same model.

    Args:
        values: (min(K, N),), all singular values, not increasing.
        shape: (K, N).

    Returns:
        At least 0, in squared units of the entries; 0 for a matrix of exact low rank.

    Source: Nakajima et al., JMLR 14, 2013, theorem 3: bounds, and the function of one variable.
    """
    spectrum, scale = _full_spectrum(values, shape)
    return _estimate_variance(spectrum, shape) * scale**2


def mdl_rank(values: Array, shape: tuple[int, int]) -> int:
    """Rank by the minimum description length of Wax and Kailath, for real data.

    The shorter side L are channels and the longer M are samples; with l_i = s_i^2 / M,
    `MDL(r) = -M/2 (L - r) log(GM / AM of l_{r+1..L}) + (r (2 L - r + 1) / 2 + 1) / 2 log M`.

    Args:
        values: (min(K, N),), all singular values, not increasing.
        shape: (K, N).

    Returns:
        0 to min(K, N) - 1.

    Raises:
        ValueError: values that are no full spectrum of the shape.

    Source: Wax & Kailath, IEEE Trans. ASSP 33(2), 1985; real data have `r (2 L - r + 1) / 2 + 1`
    free parameters where their complex data have `r (2 L - r) + 1`.
    """
    spectrum, _ = _full_spectrum(values, shape)
    short, long = min(shape), max(shape)
    energies = np.maximum(spectrum, _rounding(shape)) ** 2 / long
    ranks = np.arange(short)
    left = short - ranks
    arithmetic = np.log(np.cumsum(energies[::-1])[::-1] / left)
    geometric = np.cumsum(np.log(energies)[::-1])[::-1] / left
    parameters = ranks * (2 * short - ranks + 1) / 2 + 1
    length = long / 2 * left * (arithmetic - geometric) + parameters / 2 * np.log(long)
    return int(np.argmin(length))


def _estimate_variance(spectrum: Matrix, shape: tuple[int, int]) -> float:
    short, long = min(shape), max(shape)
    ratio = short / long
    energies = spectrum**2
    least_signal = _least_signal(ratio)
    # no more values than this can be signal
    count = min(int(np.ceil(short / (1.0 + ratio))) - 1, short - 1)
    rest = energies[count:]
    upper = float(energies.sum()) / (short * long)
    lower = max(float(rest[0]) / (long * least_signal), float(rest.mean()) / long)
    if lower <= _rounding(shape) ** 2 / long:
        return 0.0  # what is left is rounding: exact low rank
    if lower >= upper:
        return upper

    def free_energy(log_variance: float) -> float:
        x = np.maximum(energies, np.finfo(np.float64).tiny) / (long * np.exp(log_variance))
        signal = x[x > least_signal]
        shift = signal - (1.0 + ratio)
        t = (shift + np.sqrt(shift**2 - 4.0 * ratio)) / 2.0
        gain = np.log1p(t) + ratio * np.log1p(t / ratio) - t
        return float((x - np.log(x)).sum() + gain.sum())

    grid = np.linspace(np.log(lower), np.log(upper), _GRID)
    best = int(np.argmin([free_energy(point) for point in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)])
    found = scipy.optimize.minimize_scalar(free_energy, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def _least_signal(ratio: float) -> float:
    """Squared singular value over `M variance` above which a component is kept."""

    def phi(z: float) -> float:
        return float(np.log1p(z)) / z - 0.5

    root = scipy.optimize.brentq(lambda t: phi(t) + phi(t / ratio), 1e-3 * ratio, 10.0)
    return float((1.0 + root) * (1.0 + ratio / root))


def _full_spectrum(values: Array, shape: tuple[int, int]) -> tuple[Matrix, float]:
    """The values divided by the largest, and the largest."""
    spectrum, scale = check_spectrum(values)
    if len(spectrum) != min(shape):
        raise ValueError(f"found {len(spectrum)} singular values of a matrix of shape {shape}")
    return spectrum, scale


def _rounding(shape: tuple[int, int]) -> float:
    """Singular values below this share of the largest are rounding."""
    return max(shape) * float(np.finfo(np.float64).eps)
