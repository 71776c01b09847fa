"""Chains of factors of a matrix, the first of which alone reads the inputs, fitted to outputs.

`W = P H`, and H is made of the other factors: a tensor train or a CP decomposition of (K, n1, n2).
With the Gram matrix `G = R^T R`, ridge included, the error is `||R (P H - V)||`, V the weight of
full rank that comes closest to what is wanted. So `R V` is a tensor to be fitted with no inputs at
all, and whatever H comes out, `P = V H^T (H H^T)^-1` is the best first factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.matrix import Matrix, balance, to_unit_scale
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.linalg.network import fit_network, network_product
from onnxslim_rx.linalg.refit import FIT_RIDGE_PER_ROW, ridge_regression

__all__ = ["row_network_regression"]

# A ridge beside diagonals of 1, for terms of H that are nearly the same.
_RIDGE = 1e-9
_SWEEPS = 12


def row_network_regression(
    spec: str,
    factors: Sequence[npt.NDArray[Any]],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    near: npt.NDArray[Any],
    *,
    rows: int | None = None,
    sweeps: int = _SWEEPS,
) -> list[Matrix]:
    """Factors whose product comes closer to wanted outputs under the inputs that there really are.

    Args:
        spec: such as "kr,ris,sj->kij", see `fit_network`; the first operand is P, (K, R), and the
            first index of the result the one of the inputs.
        factors: where to start.
        gram: (K, K), `X'^T X'`.
        cross: (K, N), `X'^T Y` with the outputs that are wanted.
        near: (K, ...), the weight to stay near, with the sides of the result; see
            `ridge_regression`.
        rows: as there.
        sweeps: over all factors, at most.

    Returns:
        Factors of the same shapes, float64; the first two balanced.

    Raises:
        ValueError: as `fit_network` and `ridge_regression`.

    Source: alternating least squares, see `fit_network`.
    """
    k = len(near)
    best = ridge_regression(gram, cross, near.reshape(k, -1), rows=rows)
    g, _ = to_unit_scale(np.asarray(gram, dtype=np.float64))
    root = triangular_root(g + np.eye(k) * ridge(g, rows, FIT_RIDGE_PER_ROW))
    target = root @ best
    first = root @ np.asarray(factors[0], dtype=np.float64)
    if k > target.shape[1]:  # a basis of the images is enough
        basis, target = np.linalg.qr(target)
        first = basis.T @ first
    tensor = target.reshape(-1, *near.shape[1:])
    others = np.eye(target.shape[1])
    _, *rest = fit_network(spec, [first, *factors[1:]], tensor, others, sweeps=sweeps)
    h = _product(spec, rest)
    sizes = np.linalg.norm(h, axis=1)
    unit = h / np.where(sizes > 0.0, sizes, 1.0)[:, None]
    normal = unit @ unit.T + np.eye(len(unit)) * _RIDGE
    p = scipy.linalg.solve(normal, unit @ best.T, assume_a="pos", check_finite=False).T
    p = p / np.where(sizes > 0.0, sizes, 1.0)
    return _balanced(spec, p, rest)


def _product(spec: str, rest: Sequence[Matrix]) -> Matrix:
    """H (R, N)."""
    operands, result = spec.split("->")
    first, *others = operands.split(",")
    made = network_product(f"{','.join(others)}->{first[1]}{result[1:]}", rest)
    return made.reshape(len(made), -1)


def _balanced(spec: str, p: Matrix, rest: Sequence[Matrix]) -> list[Matrix]:
    """P and the factor after it with components of equal norms."""
    _, following = spec.split("->")[0].split(",")[:2]
    axis = following.index(spec.split(",")[0][1])
    moved = np.moveaxis(rest[0], axis, 0)
    p, flat = balance(p, moved.reshape(len(moved), -1))
    return [p, np.moveaxis(flat.reshape(moved.shape), 0, axis), *rest[1:]]
