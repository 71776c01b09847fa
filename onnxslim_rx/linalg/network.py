"""Chains of factors fitted under the activations, by alternating least squares.

What the factors of a chain multiply to is linear in each one of them. So with all others fixed the
best one solves linear equations, and factor by factor the error falls. The equations are large
(rank times channels times taps) and are never written down: conjugate gradients need only the
product of a weight with the Gram matrix, and start where the factor is.

One description serves all structures: an Einstein sum such as "mr,rsxy,sc->mcxy" (Tucker-2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.matrix import Array, Matrix, check_matrix, to_unit_scale
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.linalg.refit import FIT_RIDGE_PER_ROW

__all__ = ["fit_network", "network_product", "network_regression"]

Tensors = list[npt.NDArray[np.float64]]

# Kernels of a trained network: after four sweeps of six steps, errors on other images were within
# 1% of those after eight, and of a joint Gauss-Newton fit that took three times as long.
_SWEEPS, _STEPS = 4, 6
_STALLED = 2e-3  # of the squared error, by a sweep
# From this side on products with the Gram matrix are made in float32: they only give directions.
_WIDE = 512
# Entries of what a product of several factors makes on its way. Without a bound of its own, numpy
# takes the largest factor's size, and makes a CP product of more terms than channels in one loop,
# 10 to 20 times slower.
_ROOM = 1 << 26


def network_product(spec: str, factors: Sequence[npt.NDArray[Any]]) -> Matrix:
    """What the factors of a chain multiply to, float64.

    Args:
        spec: an Einstein sum with an arrow, as `numpy.einsum` takes it.
        factors: its operands.
    """
    operands = (np.asarray(f, dtype=np.float64) for f in factors)
    product: Matrix = np.einsum(spec, *operands, optimize=("greedy", _ROOM))
    return product


def fit_network(
    spec: str,
    factors: Sequence[npt.NDArray[Any]],
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    *,
    rows: int | None = None,
    sweeps: int = _SWEEPS,
) -> Tensors:
    """Factors whose chain changes the outputs of a layer less.

    Args:
        spec: such as "mr,rsxy,sc->mcxy": each index of the result in one operand only, that of the
            filters first in the result.
        factors: where to start.
        weight: the kernel (M, ...) that the chain stands for.
        gram: (K, K), K the product of the other sides of the kernel: `X^T X` of the patches.
        rows: number of patches that `gram` sums over, the fewer, the less it is trusted; None: so
            many that it is trusted fully.
        sweeps: over all factors, at most.

    Returns:
        Factors of the same shapes, float64, with
        `tr((W - W') G (W - W')^T)` no larger than that of `factors` (ridge included).

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, no rows.

    Source: alternating least squares (Kroonenberg & de Leeuw, Psychometrika 45(1), 1980), weighted
    as in Kim, Khan & Kyung, "Efficient Neural Network Compression", CVPR 2019; conjugate gradients
    of Hestenes & Stiefel, 1952.
    """
    w = check_matrix(np.reshape(weight, (len(weight), -1)))
    g, _ = to_unit_scale(check_matrix(gram))
    if g.shape != (w.shape[1], w.shape[1]):
        raise ValueError(f"found a Gram matrix of shape {g.shape} for a kernel of {weight.shape}")
    g = g + np.eye(len(g)) * ridge(g, rows)
    cross = w @ g
    return _Fit(spec, factors, weight.shape, g, cross, float(np.vdot(w, cross))).run(sweeps)


def network_regression(
    spec: str,
    factors: Sequence[npt.NDArray[Any]],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    near: npt.NDArray[Any],
    *,
    rows: int | None = None,
    sweeps: int = _SWEEPS,
) -> Tensors:
    """Factors whose chain comes closer to wanted outputs under the inputs that there really are.

    Args:
        spec: see `fit_network`.
        factors: where to start.
        gram: (K, K), `X'^T X'` of the patches.
        cross: (K, M), `X'^T Y` with the outputs that are wanted.
        near: the kernel (M, ...) to stay near; see `ridge_regression`.
        rows: as there.
        sweeps: see `fit_network`.

    Returns:
        Factors of the same shapes, float64, for which
        `||X' W'^T - Y||_F^2 + lambda ||W' - near||_F^2` is no larger than for `factors`.

    Raises:
        ValueError: as `fit_network`.
    """
    w = check_matrix(np.reshape(near, (len(near), -1)))
    g, c = check_matrix(gram), check_matrix(cross)
    if g.shape != (w.shape[1], w.shape[1]) or c.shape != w.shape[::-1]:
        raise ValueError(
            f"found moments of shapes {g.shape} and {c.shape} for a kernel of {near.shape}"
        )
    scaled, exponent = to_unit_scale(g)
    c = np.ldexp(np.ldexp(c, -exponent // 2), -exponent - (-exponent // 2))
    extra = ridge(scaled, rows, FIT_RIDGE_PER_ROW)
    g = scaled + np.eye(len(scaled)) * extra
    c = c.T + extra * w
    reached = scipy.linalg.solve_triangular(triangular_root(g), c.T, trans="T", check_finite=False)
    return _Fit(spec, factors, near.shape, g, c, float(np.vdot(reached, reached))).run(sweeps)


class _Fit:
    """`tr(W' G W'^T) - 2 tr(W' C^T)` made small; C is `W G`, or a cross moment.

    Args:
        constant: minus the least that this can be: then the sum is a squared error.
    """

    def __init__(
        self,
        spec: str,
        factors: Sequence[npt.NDArray[Any]],
        shape: tuple[int, ...],
        gram: Matrix,
        cross: Matrix,
        constant: float,
    ) -> None:
        operands, self._result = spec.split("->")
        self._operands = operands.split(",")
        self._sides = shape[1:]
        self._gram: Array = gram.astype(np.float32) if len(gram) > _WIDE else gram
        self._exact, self._cross, self._constant = gram, cross, constant
        self._factors = [np.array(factor, dtype=np.float64) for factor in factors]
        found = network_product(spec, self._factors).shape
        if found != shape:
            raise ValueError(f"found factors of a kernel of {found}; expected {shape}")

    def run(self, sweeps: int) -> Tensors:
        """Sweep over the factors, the one of the filters first."""
        first = next(i for i, one in enumerate(self._operands) if self._result[0] in one)
        order = [first, *(i for i in range(len(self._factors)) if i != first)]
        loss = self._loss()
        for _ in range(sweeps):
            before, kept = loss, list(self._factors)
            for number in order:
                self._update(number, first)
            loss = self._loss()
            if not loss < before:  # rounding: nothing is left to gain
                self._factors = kept
                break
            if before - loss < _STALLED * before:
                break
        return self._factors

    def _update(self, number: int, first: int) -> None:
        """The best factor `number`, all others as they are."""
        others = list(self._factors)
        cross = self._cross
        if number != first and len(self._operands[first]) == 2:  # (filters, rank)
            # outputs outside of what the last factor spans cannot be changed by the others
            rank_first = self._operands[first][0] != self._result[0]
            last = others[first].T if rank_first else others[first]
            if last.shape[0] > last.shape[1]:
                basis, triangle = np.linalg.qr(last)
                others[first] = triangle.T if rank_first else triangle
                cross = basis.T @ cross

        def adjoint(error: Matrix) -> Matrix:
            return self._adjoint(others, number, error)

        def normal(factor: Matrix) -> Matrix:
            others[number] = factor
            return adjoint(self._weighed(self._product(others)))

        start = self._factors[number]
        self._factors[number] = _conjugate_gradients(normal, adjoint(cross), start)

    def _product(self, factors: Sequence[Matrix]) -> Matrix:
        spec = f"{','.join(self._operands)}->{self._result}"
        product = network_product(spec, factors)
        return product.reshape(len(product), -1)

    def _adjoint(self, factors: Sequence[Matrix], number: int, error: Matrix) -> Matrix:
        rest = [i for i in range(len(factors)) if i != number]
        spec = ",".join([self._result, *(self._operands[i] for i in rest)])
        operands = [error.reshape(-1, *self._sides), *(factors[i] for i in rest)]
        return network_product(f"{spec}->{self._operands[number]}", operands)

    def _weighed(self, product: Matrix) -> Matrix:
        weighed: Matrix = (product.astype(self._gram.dtype) @ self._gram).astype(np.float64)
        return weighed

    def _loss(self) -> float:
        product = self._product(self._factors)
        quadratic = float(np.vdot(product, product @ self._exact))
        return self._constant + quadratic - 2.0 * float(np.vdot(product, self._cross))


def _conjugate_gradients(
    normal: Callable[[Matrix], Matrix], wanted: Matrix, start: Matrix
) -> Matrix:
    """A few steps towards `normal(x) = wanted`, from `start` on."""
    x = start
    rest = wanted - normal(x)
    direction, energy = rest, float(np.vdot(rest, rest))
    enough = 1e-6 * float(np.vdot(wanted, wanted))
    for _ in range(_STEPS):
        if energy <= enough:
            break
        image = normal(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0.0:  # of rounding: the equations are singular there
            break
        x = x + (energy / curvature) * direction
        rest = rest - (energy / curvature) * image
        before, energy = energy, float(np.vdot(rest, rest))
        direction = rest + (energy / before) * direction
    return x
