"""Lower ranks of a chain, with the least error of what it computes.

The first and the last part are brought to orthonormal bases, under the Gram matrix of what enters,
so that the ranks of what is left between them, a small core, can be cut as those of any tensor: by
SVD (two parts), Tucker decomposition (three) or CP (with depthwise parts). New parts lie in the
spaces of the old ones. A bias of the first part counts as a channel that is always one, also where
a later part pads.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg import cp, cp_full, error_curve, truncated_svd, tucker, tucker_error_table
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx_passes._chain_parts import Chain, read, write
from onnxslim_rx_passes._conv_decompose import cp_sweeps
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["ChainFits"]

Matrix = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
_FITS = Memo(32 << 20)
_PROBES = 3  # of the ranks of a CP decomposition; the others are interpolated
_LEAST = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class _Core:
    """A chain of one group in orthonormal bases.

    Args:
        tensor: (A, B) of two parts, (A, taps, B) of three, (A, taps, ..., B) with depthwise ones.
        left: (inputs taps, A): times a factor of the core, the first part, its inputs last.
        bias: (A,): the same of the bias, or None.
        right: (B, outputs taps): the last part.
        terms: of the core where it is a sum of rank-one terms: factors (side, R).
    """

    tensor: Matrix
    left: Matrix
    bias: Matrix | None
    right: Matrix
    terms: tuple[Matrix, ...] = ()


class ChainFits:
    """The ways to cut one chain.

    Args:
        chain: the unit.
        constants: its contents, finite.
        stats: of the input of the first part; None: all inputs count alike.
    """

    def __init__(
        self, chain: Chain, constants: Sequence[Array], stats: LayerStatistics | None
    ) -> None:
        self._chain, self._stats = chain, stats
        self._kernels, self._bias = read(chain, constants)

    @property
    def largest(self) -> tuple[int, ...]:
        """The ranks that the product of the parts has at most, none above those that there are."""
        shape = self._cores[0].tensor.shape
        if self._chain.method == "cp":
            return self._chain.ranks
        ends = (min(shape),) if len(shape) == 2 else (shape[0], shape[-1])
        return tuple(min(a, b) for a, b in zip(ends, self._chain.ranks, strict=True))

    def guesses(self, ranks: Ranks) -> Matrix:
        """What tells ranks of one share apart, (N,), at little cost: see `errors`."""
        return 1.0 / ranks[:, 0] if self._chain.method == "cp" else self.errors(ranks)

    def errors(self, ranks: Ranks) -> Matrix:
        """Relative errors (N,) of what the chain computes, for ranks (N, number of ranks)."""
        if self._chain.method == "cp":
            return self._probed(ranks)
        squares = np.zeros(len(ranks))
        for core, total in zip(self._cores, self._totals, strict=True):
            table = (
                error_curve(core.tensor)
                if core.tensor.ndim == 2
                else tucker_error_table(core.tensor, (0, 2))
            )
            squares += total * np.square(table[tuple(ranks.T)])
        return self._relative(squares)

    def cut(self, ranks: Sequence[int]) -> list[Matrix]:
        """The chain's constants at lower ranks, as stored, in float64."""
        found = [self._group(core, ranks) for core in self._cores]
        kernels = [np.stack(parts) for parts in zip(*(one for one, _ in found), strict=True)]
        biases = [bias for _, bias in found if bias is not None]
        return write(self._chain, kernels, np.stack(biases) if biases else None)

    @functools.cached_property
    def _totals(self) -> Matrix:
        return np.array([float(np.vdot(core.tensor, core.tensor)) for core in self._cores])

    def _relative(self, squares: Matrix) -> Matrix:
        total = float(self._totals.sum())
        found: Matrix = np.sqrt(squares / total) if total > 0.0 else np.zeros_like(squares)
        return found

    def _probed(self, ranks: Ranks) -> Matrix:
        """Errors from a few fits; a milder cut counts as no worse."""
        if not len(ranks):
            return np.zeros(0)
        order = np.argsort(-ranks[:, 0], kind="stable")
        picks = order[np.unique(np.linspace(0, len(order) - 1, _PROBES).astype(int))]
        squares = np.zeros(len(picks))
        for i, pick in enumerate(picks):
            for core in self._cores:
                change = cp_full(_terms(core, int(ranks[pick, 0]))) - core.tensor
                squares[i] += float(np.vdot(change, change))
        fitted = np.maximum.accumulate(np.maximum(self._relative(squares), _LEAST))
        at, known = -ranks[:, 0], -ranks[picks, 0]
        errors: Matrix = np.exp(np.interp(at, known, np.log(fitted)))
        return errors

    @functools.cached_property
    def _cores(self) -> tuple[_Core, ...]:
        return tuple(map(self._core, range(self._chain.groups)))

    def _core(self, g: int) -> _Core:
        first, *inner, last = (kernel[g] for kernel in self._kernels)
        columns = first.reshape(len(first), -1).T  # (inputs taps, R)
        rows = np.swapaxes(last, 0, 1).reshape(last.shape[1], -1)  # (S, outputs taps)
        if self._bias is not None:
            columns = np.vstack([columns, self._bias[g]])
        basis, left = np.linalg.qr(columns)
        if self._stats is not None and self._stats.gram is not None:
            root = triangular_root(self._inner(basis, g))
            left = root @ left
            basis = scipy.linalg.solve_triangular(root, basis.T, trans="T", check_finite=False).T
        turned, right = np.linalg.qr(rows.T)
        bias = None
        if self._bias is not None:
            basis, bias = basis[:-1], basis[-1]
        if self._chain.method == "cp":
            terms = [left, *(kernel.T for kernel in inner), right]
            return _Core(cp_full(terms), basis, bias, turned.T, tuple(terms))
        if not inner:
            return _Core(left @ right.T, basis, bias, turned.T)
        (middle,) = inner  # (S, R, taps)
        tensor = np.tensordot(np.tensordot(left, middle, (1, 1)), right, (1, 1))
        return _Core(tensor, basis, bias, turned.T)

    def _inner(self, basis: Matrix, g: int) -> Matrix:
        """The inner products of what the columns of a basis make of the inputs, on average."""
        stats, part = self._stats, self._chain.parts[0]
        assert stats is not None  # the caller looked
        assert stats.gram is not None  # likewise
        rows, taps = max(stats.rows, 1), part.taps
        side = part.reads * (taps if stats.patches else 1)
        own = slice(g * side, (g + 1) * side)
        gram = stats.gram[own, own]
        if gram.shape != (side, side) or len(stats.gram) != side * self._chain.groups:
            raise ValueError(f"the Gram matrix is {stats.gram.shape} for {part.layer.name}")
        gram = (gram + np.eye(side) * ridge(gram, rows)) / rows
        reading = basis if self._bias is None else basis[:-1]
        blocks = reading.reshape(side, -1, basis.shape[1])  # one block, or one for each tap
        found: Matrix = np.einsum(
            "ctx,cty->xy", blocks, np.tensordot(gram, blocks, 1), optimize=True
        )
        if self._bias is not None:
            mean = np.zeros(stats.gram.shape[0]) if stats.mean is None else stats.mean
            across = np.outer(mean[own] @ blocks.sum(axis=1), basis[-1])
            found = found + across + across.T + np.outer(basis[-1], basis[-1])
        return found

    def _group(self, core: _Core, ranks: Sequence[int]) -> tuple[list[Matrix], Matrix | None]:
        """The canonical kernels of one group at lower ranks, and the bias."""
        first, *inner, last = _factors(core, ranks, self._chain.method)
        columns = core.left @ first  # (inputs taps, R)
        bias = None if core.bias is None else core.bias @ first
        head, tail = self._chain.parts[0], self._chain.parts[-1]
        kernels = [
            columns.T.reshape(-1, head.reads, head.taps),
            *inner,
            np.swapaxes((last.T @ core.right).reshape(-1, tail.makes, tail.taps), 0, 1),
        ]
        return _balanced(kernels, bias)


def _factors(core: _Core, ranks: Sequence[int], method: str) -> list[Matrix]:
    """Factors of a core: (A, R), those between as kernels, and (B, S)."""
    if method == "cp":
        first, *inner, last = _terms(core, int(ranks[0]))
        return [first, *(one.T for one in inner), last]
    if method == "svd":
        left, right = truncated_svd(core.tensor, int(ranks[0]))
        return [left, right.T]
    small, bases = tucker(core.tensor, dict(zip((0, 2), map(int, ranks), strict=True)))
    return [bases[0], small.transpose(2, 0, 1), bases[2]]


def _terms(core: _Core, rank: int) -> list[Matrix]:
    """The factors (side, rank) of a CP decomposition of a core."""
    if not core.tensor.any():  # of a chain that is only timed
        return [np.zeros((side, rank)) for side in core.tensor.shape]
    key = digest([core.tensor, *core.terms]), rank
    sweeps = cp_sweeps(core.tensor.size, rank)
    return _FITS.get(key, lambda: cp(core.tensor, rank, sweeps=sweeps, start=core.terms))


def _balanced(kernels: list[Matrix], bias: Matrix | None) -> tuple[list[Matrix], Matrix | None]:
    """The same chain, the channels between two parts as large in one as in the other.

    Kernels are (outputs, inputs, taps), or (R, taps).
    """
    found = list(kernels)
    for place in range(1, len(found)):
        before, after = found[place - 1], found[place]
        axis = 0 if after.ndim == 2 else 1
        norms = [_norms(before, 0), _norms(after, axis)]
        live = (norms[0] > 0.0) & (norms[1] > 0.0)
        change = np.sqrt(np.where(live, norms[1], 1.0) / np.where(live, norms[0], 1.0))
        found[place - 1] = before * change.reshape(-1, *[1] * (before.ndim - 1))
        found[place] = np.moveaxis(np.moveaxis(after, axis, -1) / change, -1, axis)
        if place == 1 and bias is not None:
            bias = bias * change
    return found, bias


def _norms(kernel: Matrix, axis: int) -> Matrix:
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    norms: Matrix = np.sqrt(np.sum(np.square(kernel), axis=others))
    return norms
