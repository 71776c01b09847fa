"""The canonical polyadic (CP) decomposition: a tensor as a sum of rank-one terms.

Alternating least squares, with two changes that make it fast and its terms sound.

*Nesterov's extrapolation.* Each sweep begins ahead of the last point, in the direction of the last
step, and the momentum begins anew where the fit got worse.

*A penalty on the norms of the terms.* Terms that grow and cancel each other ("degenerate") fit a
little better and ruin what is computed in few bits. As Phan et al. do, the sum of the squared norms
of the terms is kept small beside the error, here by a weight: what falls is the squared error e
times `1 + penalty s`, with s the squared norms of the terms by that of the tensor. The weight
shrinks with the error, so that exact decompositions are found exactly. With columns of norm 1
elsewhere, it is a ridge on the normal equations of each factor.

Sources: Carroll & Chang, Psychometrika 35(3), 1970, and Harshman, UCLA Working Papers in Phonetics
16, 1970 (alternating least squares); Mitchell, Ye & De Sterck, Numer. Linear Algebra Appl. 27(4),
2020 (Nesterov's extrapolation of sweeps); Phan et al., ECCV 2020 (degenerate terms); Bro &
Andersson, Chemom. Intell. Lab. Syst. 42, 1998 (compression first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from onnxslim_rx.linalg.cp_start import change_rank, cp_full, khatri_rao, orthogonal_terms
from onnxslim_rx.linalg.matrix import Array, Matrix, to_unit_scale
from onnxslim_rx.linalg.tensor import check_tensor
from onnxslim_rx.linalg.tucker import tucker

__all__ = ["cp", "cp_full"]

# Squared errors below this share of the squared norm are lost in the rounding of their formula.
_ROUNDING = 1e-15
# The least ridge, beside diagonals of 1.
_RIDGE = 1e-13
# A stall is judged over this many sweeps.
_WINDOW = 10
# A mode is compressed first where its side is this many times the rank, and the fit is polished
# with this share of the sweeps.
_COMPRESSED = 1.5
_POLISH = 0.25
# Size of the noise on the first start, beside each column: orthogonal terms may be a saddle.
_NOISE = 0.5


def cp(
    t: Array,
    rank: int,
    *,
    sweeps: int = 200,
    tol: float = 2e-5,
    penalty: float = 1e-2,
    seed: int = 0,
    start: Sequence[Array] | None = None,
) -> list[Matrix]:
    """Factors of a sum of rank-one terms that is near to the tensor.

    Args:
        t: the tensor, 2 or more axes; two: the singular value decomposition.
        rank: number of terms, 1 or more; may exceed any side. From the product of all sides but
            the largest on, the decomposition is exact, and columns that are not needed are zeros.
        sweeps: most sweeps over the factors.
        tol: stop where a sweep lowers the relative error by less than this share of it.
        penalty: weight of the squared norms of the terms, see above; 0 or more.
        seed: of a little noise on the first factors, which leads away from saddles.
        start: factors (n_i, r) to continue from, r of any size: the largest terms are taken, or
            terms of what they leave over are added.

    Returns:
        One factor (n_i, rank) a mode: the norms of column r are equal in all, the terms are sorted
        by norm, largest first, and signs are fixed.

    Raises:
        ValueError: a tensor, a rank, a start or another argument that is none.
    """
    a, exponent = to_unit_scale(check_tensor(t))
    if rank < 1 or sweeps < 0 or not tol >= 0.0 or not penalty >= 0.0:
        raise ValueError(
            f"found rank {rank}, {sweeps} sweeps, tol {tol}, penalty {penalty}; expected a rank of "
            "1 or more and the others at least 0"
        )
    if not a.any():
        return [np.zeros((side, rank)) for side in a.shape]
    fit = _Fit(sweeps, tol, penalty, seed)
    if start is not None:
        scale = 2.0 ** (-exponent / a.ndim)
        factors = fit.run(a, change_rank(a, _checked(start, a.shape, scale), rank))
    elif a.ndim == 2:
        factors = orthogonal_terms(a, rank)
    else:
        factors = _fit_compressed(a, rank, fit)
    return _normal_form([factor * 2.0 ** (exponent / a.ndim) for factor in factors])


def _fit_compressed(a: Matrix, rank: int, fit: _Fit) -> list[Matrix]:
    """A fit of the core of a Tucker decomposition, expanded and polished."""
    ranks = {mode: rank for mode, side in enumerate(a.shape) if side >= _COMPRESSED * rank}
    if not ranks:
        return fit.run(a, orthogonal_terms(a, rank), noise=_NOISE)
    core, bases = tucker(a, ranks)
    factors = fit.run(core, orthogonal_terms(core, rank), noise=_NOISE)
    factors = [bases[mode] @ f if mode in bases else f for mode, f in enumerate(factors)]
    polish = replace(fit, sweeps=math.ceil(_POLISH * fit.sweeps))
    return polish.run(a, factors)


@dataclass(frozen=True)
class _Fit:
    """Accelerated alternating least squares."""

    sweeps: int
    tol: float
    penalty: float
    seed: int

    def run(self, a: Matrix, factors: list[Matrix], *, noise: float = 0.0) -> list[Matrix]:
        """The best factors on the way. Modes are visited from the largest to the smallest.

        With noise, the first sweep starts beside the factors.
        """
        order = sorted(range(a.ndim), key=lambda mode: -a.shape[mode])
        sweep = _Sweep(a.transpose(order))
        best = [factors[mode] for mode in order]
        start = sweep.measure(best)
        rng = np.random.default_rng(self.seed)
        merit = best_merit = self._merit(start)
        ahead = [_shaken(factor, noise, rng) for factor in best]
        ridge, previous, age = self._ridge(start), best, 0
        history = [merit]
        for _ in range(self.sweeps):
            if history[-1] <= _ROUNDING or self._stalled(history):
                break
            current, found = sweep.step(ahead, ridge)
            before, merit = merit, self._merit(found)
            history.append(merit)
            if merit < best_merit:
                best, best_merit = current, merit
            age = 0 if merit > before else age + 1
            momentum = max(age - 1, 0) / (age + 2)
            ahead = [x + momentum * (x - y) for x, y in zip(current, previous, strict=True)]
            previous, ridge = current, self._ridge(found)
        return [best[order.index(mode)] for mode in range(a.ndim)]

    def _ridge(self, found: tuple[float, float]) -> float:
        return max(self.penalty * found[0], _RIDGE)

    def _merit(self, found: tuple[float, float]) -> float:
        error, norms = found
        return error * (1.0 + self.penalty * norms)

    def _stalled(self, history: list[float]) -> bool:
        if len(history) <= 2 * _WINDOW:
            return False
        # the merit is squared
        return history[-1] > history[-1 - _WINDOW] * (1.0 - 2.0 * self.tol * _WINDOW)


def _shaken(factor: Matrix, noise: float, rng: np.random.Generator) -> Matrix:
    """Normal noise of a size relative to that of each column is added."""
    sizes = noise * np.sqrt(np.mean(np.square(factor), axis=0))
    shaken: Matrix = factor + sizes * rng.standard_normal(factor.shape)
    return shaken


class _Sweep:
    """One pass over all factors. Sides must not increase: the small ones are nearly free."""

    def __init__(self, a: Matrix) -> None:
        self.sides = a.shape
        self.rows = np.ascontiguousarray(a.reshape(len(a), -1))
        self.energy = float(np.vdot(self.rows, self.rows))

    def step(self, factors: list[Matrix], ridge: float) -> tuple[list[Matrix], tuple[float, float]]:
        """New factors with columns of equal norms, and what `measure` says of them."""
        units = [_unit(factor)[0] for factor in factors]
        grams = [unit.T @ unit for unit in units]
        # two products with the whole tensor; those of the other modes come from the second
        sums = self.rows @ khatri_rao(units[1:])
        left: Matrix = np.empty(0)
        for mode in range(len(units)):
            if mode:
                left = left.reshape(self.sides[mode], -1, left.shape[-1])
                rest = units[mode + 1 :]
                sums = np.einsum("nkr,kr->nr", left, khatri_rao(rest)) if rest else left[:, 0]
            others = _hadamard([gram for m, gram in enumerate(grams) if m != mode])
            solution = _solve(others, sums, ridge)
            units[mode], norms = _unit(solution)
            grams[mode] = units[mode].T @ units[mode]
            if mode == 0:
                left = self.rows.T @ units[0]
            elif rest:
                left = np.einsum("nkr,nr->kr", left, units[mode])
        error = self.energy - 2.0 * float(np.vdot(solution, sums))
        error += float(np.vdot(solution @ others, solution))
        found = (self._share(error), float(norms @ norms) / self.energy)
        size = norms ** (1.0 / len(units))
        return [unit * size for unit in units], found

    def measure(self, factors: list[Matrix]) -> tuple[float, float]:
        """Squared error, and sum of the squared norms of the terms, by the squared norm."""
        squared = _hadamard([factor.T @ factor for factor in factors])
        rest = factors[0] @ khatri_rao(factors[1:]).T
        error = float(np.sum(np.square(self.rows - rest)))
        return self._share(error), float(np.trace(squared)) / self.energy

    def _share(self, error: float) -> float:
        return max(error / self.energy, 0.0)


def _hadamard(grams: list[Matrix]) -> Matrix:
    product: Matrix = grams[0]
    for gram in grams[1:]:
        product = product * gram
    return product


def _solve(gram: Matrix, sums: Matrix, ridge: float) -> Matrix:
    """`sums (gram + ridge)^-1`, for a positive semi-definite gram with a diagonal of 1 (or 0)."""
    while True:
        shifted = gram.copy()
        shifted.flat[:: len(gram) + 1] += ridge
        try:
            root = scipy.linalg.cho_factor(shifted, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:  # singular to rounding
            ridge *= 10.0
            continue
        solution: Matrix = scipy.linalg.cho_solve(root, sums.T, check_finite=False).T
        return solution


def _unit(factor: Matrix) -> tuple[Matrix, Matrix]:
    """Columns of norm 1 (or 0), and the norms."""
    norms = np.linalg.norm(factor, axis=0)
    return factor / np.where(norms > 0.0, norms, 1.0), norms


def _normal_form(factors: list[Matrix]) -> list[Matrix]:
    """Columns of equal norms, terms sorted, signs fixed in all modes but the last."""
    units, norms = zip(*(_unit(factor) for factor in factors), strict=True)
    columns = np.arange(len(norms[0]))
    found = list(units)
    for mode in range(len(found) - 1):
        largest = found[mode][np.argmax(np.abs(found[mode]), axis=0), columns]
        signs = np.where(largest < 0.0, -1.0, 1.0)
        found[mode], found[-1] = found[mode] * signs, found[-1] * signs
    # the product of roots, not the root of the product, which may be out of range
    sizes = np.prod([norm ** (1.0 / len(found)) for norm in norms], axis=0)
    order = np.argsort(-sizes, kind="stable")
    return [(unit * sizes)[:, order] for unit in found]


def _checked(start: Sequence[Array], shape: tuple[int, ...], scale: float) -> list[Matrix]:
    factors = [np.asarray(factor, dtype=np.float64) * scale for factor in start]
    columns = {factor.shape[1] if factor.ndim == 2 else 0 for factor in factors}
    rows = tuple(len(factor) for factor in factors)
    if rows != shape or len(columns) != 1 or 0 in columns:
        raise ValueError(f"found a start of {[f.shape for f in factors]} for a tensor of {shape}")
    if not all(np.isfinite(factor).all() for factor in factors):
        raise ValueError("found NaN or infinity in the start; expected finite numbers")
    return factors
