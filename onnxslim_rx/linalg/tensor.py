"""Tensors as matrices: unfoldings and products along one axis ("mode").

Conventions of Kolda & Bader (SIAM Review 51(3), 2009), but for the order of the columns of an
unfolding: the axes that are left keep their order, and the last varies fastest, as in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxslim_rx.linalg.matrix import Array, Matrix

__all__ = ["check_mode", "check_tensor", "fold", "mode_product", "mode_products", "unfold"]


def check_tensor(t: Array) -> Matrix:
    """The tensor in float64.

    Raises:
        ValueError: fewer than two axes, an empty one, or an entry that is not finite.
    """
    found = np.asarray(t, dtype=np.float64)
    if found.ndim < 2 or 0 in found.shape:
        raise ValueError(
            f"found an array of shape {found.shape}; expected a tensor of 2 or more axes"
        )
    if not np.isfinite(found).all():
        raise ValueError("found NaN or infinity in the tensor; expected finite numbers")
    return found


def check_mode(mode: int, axes: int) -> None:
    """Raise ValueError unless 0 <= mode < axes."""
    if not 0 <= mode < axes:
        raise ValueError(f"found mode {mode}; expected 0 to {axes - 1}")


def unfold(t: Array, mode: int) -> Array:
    """(n_mode, product of the other sides): the fibres along `mode` are the columns.

    Raises:
        ValueError: no such mode.
    """
    check_mode(mode, t.ndim)
    return np.moveaxis(t, mode, 0).reshape(t.shape[mode], -1)


def fold(matrix: Array, mode: int, shape: tuple[int, ...]) -> Array:
    """The tensor of `shape` whose unfolding along `mode` is the matrix.

    Raises:
        ValueError: no such mode, or a matrix that does not fit the shape.
    """
    check_mode(mode, len(shape))
    moved = (shape[mode], *shape[:mode], *shape[mode + 1 :])
    if matrix.ndim != 2 or matrix.shape[0] != shape[mode] or matrix.size != np.prod(shape):
        raise ValueError(f"found a matrix of {matrix.shape} for mode {mode} of shape {shape}")
    return np.moveaxis(matrix.reshape(moved), 0, mode)


def mode_product(t: Array, matrix: Array, mode: int) -> Array:
    """The matrix (m, n_mode) times each fibre along `mode`: that side becomes m.

    Raises:
        ValueError: no such mode, or a matrix that does not fit it.
    """
    check_mode(mode, t.ndim)
    if matrix.ndim != 2 or matrix.shape[1] != t.shape[mode]:
        raise ValueError(f"found a matrix of {matrix.shape} for mode {mode} of shape {t.shape}")
    product: Array = np.moveaxis(np.tensordot(matrix, t, axes=(1, mode)), 0, mode)
    return product


def mode_products(t: Array, matrices: Mapping[int, Array], *, transposed: bool = False) -> Array:
    """`mode_product` with each matrix (or with its transpose), one mode after the other.

    Args:
        t: the tensor.
        matrices: by mode, (m, n_mode), or (n_mode, m) where `transposed`.
        transposed: multiply by the transposes: basis vectors to coordinates.
    """
    for mode, matrix in matrices.items():
        t = mode_product(t, matrix.T if transposed else matrix, mode)
    return t
