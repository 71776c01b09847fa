"""Where the fit of a canonical polyadic decomposition begins.

Rank-one terms that are orthogonal to each other: the tensor is turned along its small modes by the
bases of the HOSVD, each slice across the two largest modes is decomposed, and of all singular
triplets of all slices the largest are taken. The error is known in advance, no two terms cancel,
and with all triplets (at most the product of all sides but the largest) the tensor is exact. For
two axes this is the truncated singular value decomposition.
"""

from __future__ import annotations

import numpy as np

from onnxslim_rx.linalg.exact import gram_svd, leading_eigenvectors
from onnxslim_rx.linalg.matrix import Matrix
from onnxslim_rx.linalg.tensor import mode_products, unfold

__all__ = ["change_rank", "cp_full", "khatri_rao", "orthogonal_terms"]

# Squared singular values below this share of their sum are rounding.
_ROUNDING = 1e-28


def orthogonal_terms(a: Matrix, rank: int) -> list[Matrix]:
    """The start of a fit: one factor (n_i, rank) a mode; columns are zeros where none are left.

    Args:
        a: the tensor, of unit scale.
        rank: 1 or more.
    """
    order = sorted(range(a.ndim), key=lambda mode: -a.shape[mode])
    left, right, small = order[0], order[1], order[2:]
    bases = {mode: leading_eigenvectors(_gram(a, mode), a.shape[mode]) for mode in small}
    turned = mode_products(a, bases, transposed=True).transpose(*order)
    slices = np.moveaxis(turned.reshape(*turned.shape[:2], -1), 2, 0)
    count = min(rank, *slices.shape[1:])
    triples = [gram_svd(part, count) for part in slices]
    values = np.concatenate([s for _, s, _ in triples])
    kept = np.argsort(-values, kind="stable")[:rank]
    kept = kept[np.square(values[kept]) > _ROUNDING * np.sum(np.square(values))]
    factors = [np.zeros((side, rank)) for side in a.shape]
    for column, index in enumerate(kept):
        part, triplet = divmod(int(index), count)
        u, s, vt = triples[part]
        factors[left][:, column] = u[:, triplet] * s[triplet]
        factors[right][:, column] = vt[triplet]
        places = np.unravel_index(part, turned.shape[2:]) if small else ()
        for mode, place in zip(small, places, strict=True):
            factors[mode][:, column] = bases[mode][:, place]
    return factors


def change_rank(a: Matrix, factors: list[Matrix], rank: int) -> list[Matrix]:
    """Factors of another rank: the terms of largest norm, or more terms from what is left over."""
    have = factors[0].shape[1]
    if have < rank:
        more = orthogonal_terms(a - cp_full(factors), rank - have)
        return [np.hstack(pair) for pair in zip(factors, more, strict=True)]
    norms = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    kept = np.sort(np.argsort(-norms, kind="stable")[:rank])
    return [factor[:, kept] for factor in factors]


def cp_full(factors: list[Matrix]) -> Matrix:
    """The tensor: the sum over r of the outer products of columns r."""
    first, *rest = factors
    product: Matrix = first @ khatri_rao(rest).T
    return product.reshape([len(factor) for factor in factors])


def khatri_rao(factors: list[Matrix]) -> Matrix:
    """(product of the sides, R): the Kronecker products of columns, the last side fastest."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, None] * factor).reshape(-1, factor.shape[1])
    return product


def _gram(a: Matrix, mode: int) -> Matrix:
    unfolded = unfold(a, mode)
    gram: Matrix = unfolded @ unfolded.T
    return gram
