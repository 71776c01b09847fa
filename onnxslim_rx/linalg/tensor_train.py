"""The tensor train: a tensor as a chain of cores, each (rank before, side, rank after).

Entry (i, j, k) is the product `G1[:, i] G2[:, j] G3[:, k]` of matrices; the first and the last rank
are 1. All cores but the last are orthonormal as matrices (rank before * side, rank after).

Source: Oseledets, SIAM J. Sci. Comput. 33(5), 2011: algorithm 1 (TT-SVD), algorithm 2 (rounding),
theorem 2.2 (the bound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxslim_rx.linalg.exact import full_svd, gram_svd, orthonormal_with_triangle
from onnxslim_rx.linalg.matrix import Array, Matrix, fix_signs, to_unit_scale
from onnxslim_rx.linalg.tensor import check_tensor

__all__ = ["tt_full", "tt_round", "tt_svd"]


def tt_svd(
    t: Array, ranks: int | Sequence[int] | None = None, *, tol: float | None = None
) -> list[Matrix]:
    """The cores of a tensor, by truncated singular value decompositions from the first axis on.

    Args:
        t: the tensor, n axes, 2 or more.
        ranks: the n - 1 ranks between the cores, 1 or more, or one for all; clamped to what is
            possible. The error is at most sqrt(n - 1) times the least one at these ranks.
        tol: in their place, the largest relative error (Frobenius), in [0, 1).

    Returns:
        n cores; cores but the last are orthonormal, signs are fixed.

    Raises:
        ValueError: a tensor that is none, ranks or tol out of range, or both or none of them.
    """
    a, exponent = to_unit_scale(check_tensor(t))
    wanted, share = _checked(ranks, tol, a.ndim)
    bound = share * float(np.linalg.norm(a))
    cores, rest = [], a.reshape(1, -1)
    for side, rank in zip(a.shape[:-1], wanted, strict=True):
        before = len(rest)
        left, rest = _split(rest.reshape(before * side, -1), rank, bound)
        cores.append(left.reshape(before, side, -1))
    cores.append(rest.reshape(len(rest), -1, 1))
    if any(c.shape[0] > c.shape[1] * c.shape[2] for c in cores):  # more than the cores after use
        cores = _orthogonal_from_right(cores)
        cores = _truncated_from_left(cores, wanted, 0.0)
    cores[-1] = np.ldexp(cores[-1], exponent)
    return cores


def tt_round(
    cores: Sequence[Array], ranks: int | Sequence[int] | None = None, *, tol: float | None = None
) -> list[Matrix]:
    """A tensor train of lower ranks, without the tensor.

    Args:
        cores: of 2 or more axes, see above.
        ranks: as for `tt_svd`.
        tol: as for `tt_svd`.

    Returns:
        As `tt_svd`.

    Raises:
        ValueError: cores that are no chain, or as `tt_svd`.
    """
    given = _checked_cores(cores)
    wanted, share = _checked(ranks, tol, len(given))
    scaled, exponents = zip(*(to_unit_scale(core) for core in given), strict=True)
    turned = _orthogonal_from_right(list(scaled))
    found = _truncated_from_left(turned, wanted, share * float(np.linalg.norm(turned[0])))
    found[-1] = np.ldexp(found[-1], sum(exponents))
    return found


def tt_full(cores: Sequence[Array]) -> Matrix:
    """The tensor that the cores stand for.

    Raises:
        ValueError: cores that are no chain.
    """
    given = _checked_cores(cores)
    product = given[0].reshape(-1, given[0].shape[2])
    for core in given[1:]:
        product = (product @ core.reshape(len(core), -1)).reshape(-1, core.shape[2])
    return product.reshape([core.shape[1] for core in given])


def _split(a: Matrix, rank: int, bound: float) -> tuple[Matrix, Matrix]:
    """An orthonormal left factor and the rest, at most so many columns, at most this error."""
    rank = min(rank, *a.shape)
    # singular values are wanted to the last digit where a bound decides on them
    u, s, vt = full_svd(a, rank) if bound > 0.0 else gram_svd(a, rank)
    tails = np.sqrt(np.cumsum(np.square(s[::-1])))[::-1]
    kept = max(int(np.count_nonzero(tails > bound)), 1)
    left, rest = fix_signs(u[:, :kept], s[:kept, None] * vt[:kept])
    return left, rest


def _orthogonal_from_right(cores: list[Matrix]) -> list[Matrix]:
    """The same tensor; all cores but the first are orthonormal as (rank before, side * after)."""
    found = list(cores)
    for place in range(len(found) - 1, 0, -1):
        core = found[place]
        basis, triangle = orthonormal_with_triangle(core.reshape(len(core), -1).T)
        found[place] = basis.T.reshape(-1, *core.shape[1:])
        found[place - 1] = found[place - 1] @ triangle.T
    return found


def _truncated_from_left(cores: list[Matrix], ranks: list[int], bound: float) -> list[Matrix]:
    """Each rank cut in turn, of cores that are orthogonal from the right."""
    found = list(cores)
    for place, rank in enumerate(ranks):
        before, side, after = found[place].shape
        left, rest = _split(found[place].reshape(before * side, after), rank, bound)
        found[place] = left.reshape(before, side, -1)
        found[place + 1] = np.tensordot(rest, found[place + 1], axes=1)
    return found


def _checked(
    ranks: int | Sequence[int] | None, tol: float | None, axes: int
) -> tuple[list[int], float]:
    """The ranks, huge where tol decides, and the share of the norm that each cut may take."""
    if ranks is None and tol is not None:
        if not 0.0 <= tol < 1.0:
            raise ValueError(f"found tol {tol}; expected 0 or more and less than 1")
        return [2**62] * (axes - 1), tol / math.sqrt(axes - 1)
    if ranks is None or tol is not None:
        raise ValueError(f"found ranks {ranks} and tol {tol}; expected one of the two")
    wanted = [ranks] * (axes - 1) if isinstance(ranks, int | np.integer) else list(ranks)
    if len(wanted) != axes - 1 or any(rank < 1 for rank in wanted):
        raise ValueError(f"found ranks {wanted}; expected {axes - 1} of 1 or more")
    return wanted, 0.0


def _checked_cores(cores: Sequence[Array]) -> list[Matrix]:
    shapes = [np.shape(core) for core in cores]
    chained = len(shapes) > 1 and all(len(shape) == 3 and 0 not in shape for shape in shapes)
    if chained:
        ends = [1, *(shape[2] for shape in shapes)]
        chained = ends[-1] == 1 and ends[:-1] == [shape[0] for shape in shapes]
    if not chained:
        raise ValueError(f"found cores of {shapes}; expected a chain (1, n, r), (r, m, s) ... 1")
    return [check_tensor(core) for core in cores]
