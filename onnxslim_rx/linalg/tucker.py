"""Tucker decompositions along some of the modes: a smaller core and one orthonormal basis a mode.

Bases come from the eigenvectors of Gram matrices of unfoldings: their sides are those of the
tensor (channels), their squares small beside it. What is lost with the squares are parts below
1e-8 of the norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxslim_rx.linalg.exact import leading_eigenvectors
from onnxslim_rx.linalg.matrix import Array, Matrix, to_unit_scale
from onnxslim_rx.linalg.noise import evbmf_rank, mdl_rank
from onnxslim_rx.linalg.tensor import (
    check_mode,
    check_tensor,
    mode_products,
    unfold,
)

__all__ = ["hosvd_energies", "mode_ranks", "tucker", "tucker_error_table", "tucker_full"]

# A sweep that takes less than this share of the squared error away is the last.
_STALL = 1e-4
# Squared errors below this share of the squared norm are rounding.
_ROUNDING = 1e-15
_TINY = np.finfo(np.float64).tiny


def tucker(
    t: Array, ranks: Mapping[int, int], *, sweeps: int = 30
) -> tuple[Matrix, dict[int, Matrix]]:
    """The decomposition `core x_i U_i` of least error that alternation finds.

    The truncated HOSVD, then sweeps of HOOI (higher-order orthogonal iteration) until they stall.
    The error is never above that of the truncated HOSVD.

    Args:
        t: the tensor, 2 or more axes.
        ranks: by mode, 1 to its side; modes that are not named stay as they are.
        sweeps: most sweeps of HOOI; 0: the truncated HOSVD.

    Returns:
        The core and, by mode, U (n_mode, rank): orthonormal, signs fixed.

    Raises:
        ValueError: a tensor, a mode or a rank that is none.

    Sources: De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix Anal. Appl. 21(4), 2000: pages
    1253 (HOSVD) and 1324 (HOOI). Two modes of a kernel: Kim et al., ICLR 2016.
    """
    a, exponent = to_unit_scale(check_tensor(t))
    _check_ranks(a.shape, ranks)
    # what is kept whole needs no sweeps, and its basis is that of the HOSVD
    bases = {mode: leading_eigenvectors(_gram(a, mode), rank) for mode, rank in ranks.items()}
    cut = [mode for mode, rank in ranks.items() if rank < a.shape[mode]]
    if len(cut) > 1:
        _iterate(a, bases, cut, sweeps)
    bases = {mode: _fix_columns(basis) for mode, basis in bases.items()}
    return np.ldexp(mode_products(a, bases, transposed=True), exponent), bases


def tucker_full(core: Matrix, bases: Mapping[int, Matrix]) -> Matrix:
    """The tensor that a decomposition stands for."""
    return mode_products(core, bases)


def hosvd_energies(t: Array, modes: Iterable[int]) -> dict[int, Matrix]:
    """Squared singular values of the unfoldings, as shares of the squared norm, by mode.

    Each has `n_mode` entries, not increasing, with sum 1 (0 for a tensor of zeros). Entries below
    1e-15 are rounding.

    Raises:
        ValueError: a tensor or a mode that is none.
    """
    a, _ = to_unit_scale(check_tensor(t))
    found = {mode: _energies(a, mode) for mode in _checked(modes, a.ndim)}
    return {mode: energies / max(energies.sum(), _TINY) for mode, energies in found.items()}


def mode_ranks(t: Array, modes: Iterable[int], *, rule: str = "evbmf") -> dict[int, int]:
    """How many singular values of each unfolding stand out of noise, at least 1, by mode.

    Args:
        t: the tensor.
        modes: which unfoldings.
        rule: "evbmf" or "mdl", see `evbmf_rank` and `mdl_rank`.

    Raises:
        ValueError: a tensor, a mode or a rule that is none.
    """
    rules = {"evbmf": evbmf_rank, "mdl": mdl_rank}
    if rule not in rules:
        raise ValueError(f"found the rule {rule!r}; expected one of {', '.join(rules)}")
    a, _ = to_unit_scale(check_tensor(t))
    found = {}
    for mode in _checked(modes, a.ndim):
        shape = (a.shape[mode], a.size // a.shape[mode])
        values = np.sqrt(_energies(a, mode)[: min(shape)])
        found[mode] = max(rules[rule](values, shape), 1) if values[0] > 0 else 1
    return found


def tucker_error_table(t: Array, modes: tuple[int, int]) -> Matrix:
    """Relative error of the truncated HOSVD along two modes, for all pairs of ranks.

    Args:
        t: the tensor.
        modes: two different modes, sides n and m.

    Returns:
        (n + 1, m + 1): entry [i, j] is the relative error (Frobenius) at ranks i and j, exact, not
        increasing along either axis; zeros for a tensor of zeros. HOOI's errors are below.

    Raises:
        ValueError: a tensor or modes that are none.
    """
    a, _ = to_unit_scale(check_tensor(t))
    first, second = _checked(modes, a.ndim)
    if first == second:
        raise ValueError(f"found modes {modes}; expected two different ones")
    bases = {mode: leading_eigenvectors(_gram(a, mode), a.shape[mode]) for mode in modes}
    core = np.moveaxis(mode_products(a, bases, transposed=True), (first, second), (0, 1))
    energies = np.square(core.reshape(*core.shape[:2], -1)).sum(axis=2)
    # what is cut: rows from i on, and of the rows above, columns from j on; no differences
    rows = np.append(np.cumsum(energies.sum(axis=1)[::-1])[::-1], 0.0)
    columns = np.zeros((len(energies) + 1, energies.shape[1] + 1))
    columns[1:, :-1] = np.cumsum(np.cumsum(energies[:, ::-1], axis=1)[:, ::-1], axis=0)
    table = rows[:, None] + columns
    for axis in (0, 1):  # equal entries differ by rounding
        table = np.minimum.accumulate(table, axis=axis)
    errors: Matrix = np.sqrt(table / table[0, 0]) if rows[0] > 0 else np.zeros_like(table)
    return errors


def _iterate(a: Matrix, bases: dict[int, Matrix], cut: list[int], sweeps: int) -> None:
    """HOOI on the modes that are cut, in place."""
    total = float(np.vdot(a, a))
    kept = float(np.sum(np.square(mode_products(a, bases, transposed=True))))
    for _ in range(sweeps):
        for mode in cut:
            others = {m: basis for m, basis in bases.items() if m != mode and m in cut}
            projected = mode_products(a, others, transposed=True)
            gram = _gram(projected, mode)
            bases[mode] = leading_eigenvectors(gram, bases[mode].shape[1])
        before, kept = kept, float(np.vdot(bases[cut[-1]], gram @ bases[cut[-1]]))
        if kept - before <= _STALL * (total - kept) + _ROUNDING * total:
            return


def _gram(a: Matrix, mode: int) -> Matrix:
    """(n_mode, n_mode): of the unfolding along the mode."""
    unfolded = unfold(a, mode)
    gram: Matrix = unfolded @ unfolded.T
    return gram


def _energies(a: Matrix, mode: int) -> Matrix:
    energies: Matrix = np.maximum(np.linalg.eigvalsh(_gram(a, mode))[::-1], 0.0)
    return energies


def _fix_columns(basis: Matrix) -> Matrix:
    """The entry of largest size of each column is made positive."""
    largest = basis[np.argmax(np.abs(basis), axis=0), np.arange(basis.shape[1])]
    fixed: Matrix = basis * np.where(largest < 0, -1.0, 1.0)
    return fixed


def _checked(modes: Iterable[int], axes: int) -> list[int]:
    found = list(modes)
    for mode in found:
        check_mode(mode, axes)
    return found


def _check_ranks(shape: tuple[int, ...], ranks: Mapping[int, int]) -> None:
    for mode, rank in ranks.items():
        check_mode(mode, len(shape))
        if not 1 <= rank <= shape[mode]:
            raise ValueError(
                f"found rank {rank} for mode {mode}; expected 1 to {shape[mode]} for shape {shape}"
            )
