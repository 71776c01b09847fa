"""A kernel into the kernels of a chain, and the error of that by rank.

Weighted by channels, the kernel is multiplied by a root of their Gram matrix, cut, and the part
that reads the channels is divided by the root again: that keeps every structure, and the error of
what is cut is the weighted one. Weighted by patches, one structure has a closed form
(channel-output); the others start from the cut by channels and are fitted.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg import (
    cp,
    mode_ranks,
    output_energy,
    tt_svd,
    tucker,
    tucker_error_table,
    whitened_error_curve,
    whitened_svd,
)
from onnxslim_rx.linalg.matrix import to_unit_scale
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.linalg.network import fit_network, network_product
from onnxslim_rx_passes._conv_geometry import Convolution, Kernels
from onnxslim_rx_passes._conv_inputs import Inputs
from onnxslim_rx_passes._conv_structures import PAIRS, Structure
from onnxslim_rx_passes._factors import factorize, plain_curve
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["Decomposition", "cp_sweeps"]

Matrix = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
_FITS = Memo(128 << 20)

# Sweeps of a CP decomposition: 200, and fewer where entries times terms times sweeps would exceed
# this, some 4 s in one thread. 100 in place of 200 cost 3% of the error, 50 cost 8%.
_CP_WORK, _CP_SWEEPS = 1 << 33, (50, 200)

Factors = list[Matrix]
"""Kernels of the parts of a chain, of one group."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """The ways to cut one kernel.

    Args:
        conv: the layer.
        kernels: (G, M, C, *k), finite.
        inputs: what enters.
    """

    conv: Convolution
    kernels: Kernels
    inputs: Inputs

    def factors(self, structure: Structure, ranks: Sequence[int]) -> Factors:
        """The kernels of a chain, each (G, ...), see `_conv_chains`.

        Args:
            structure: the chain.
            ranks: of it, at most `structure.largest`.
        """
        groups = [self._of_group(structure, ranks, g) for g in range(self.conv.groups)]
        return [np.stack(parts) for parts in zip(*groups, strict=True)]

    def is_fitted(self, structure: Structure) -> bool:
        """Whether a chain has no closed form, so that only its factors tell the error."""
        closed = structure.method == "channel-output" or not self.inputs.patches
        return structure.is_cp or not closed

    def signals(self, structure: Structure, rule: str) -> tuple[int, ...]:
        """The ranks of a chain that keep what stands out of noise in the kernel, in any group.

        Args:
            structure: the chain.
            rule: "evbmf" or "mdl".
        """
        if len(structure.parts) == 2:
            first = structure.parts[0].axes
            matrices = [_matrix(kernel, first) for kernel in self.kernels]
            return (max(mode_ranks(matrix, [0], rule=rule)[0] for matrix in matrices),)
        found = [mode_ranks(_three(kernel), [0, 2], rule=rule) for kernel in self.kernels]
        ranks = tuple(max(one[mode] for one in found) for mode in (0, 2))
        return (max(ranks),) if structure.is_cp else ranks

    def error(self, structure: Structure, factors: Sequence[Matrix]) -> float:
        """Relative error of a chain under the weighting; without one, that of the kernel."""
        spec = structure.spec(self.conv)
        lost = total = 0.0
        for g, kernel in enumerate(self.kernels):
            change = network_product(spec, [f[g] for f in reversed(factors)]) - kernel
            lost += self._energy(change, g)
            total += self._energy(kernel, g)
        return float(np.sqrt(lost / total)) if total > 0.0 else 0.0

    def errors(self, structure: Structure, ranks: Ranks) -> Matrix:
        """What `error` gives, (N,), from closed forms, for ranks (N, number of ranks).

        Of tucker and tt, that of the truncated HOSVD: fits are below.
        """
        squares = np.zeros(len(ranks))
        totals = self._totals
        for table, total in zip(self._tables(structure), totals, strict=True):
            squares += total * np.square(table[tuple(ranks.T)])
        everything = float(sum(totals))
        return np.sqrt(squares / everything) if everything > 0.0 else squares

    @functools.cached_property
    def _roots(self) -> tuple[Matrix, ...]:
        """(C, C), upper triangular, of the channels' Gram matrices with a ridge."""
        found = []
        for gram in self.inputs.channels:
            unit, _ = to_unit_scale(gram)
            extra = ridge(unit, self.inputs.channel_rows)
            found.append(triangular_root(unit + np.eye(len(unit)) * extra))
        return tuple(found)

    @functools.cached_property
    def _weighed(self) -> Kernels:
        """(G, M, C, *k): the kernels times the roots."""
        if not self._roots:
            return self.kernels
        return np.stack(
            [
                np.moveaxis(np.tensordot(root, kernel, (1, 1)), 0, 1)
                for root, kernel in zip(self._roots, self.kernels, strict=True)
            ]
        )

    @functools.cached_property
    def _totals(self) -> Matrix:
        """(G,): the weighted energies of the kernels."""
        squares: Matrix = np.square(self._weighed).reshape(self.conv.groups, -1).sum(axis=1)
        return squares

    def _energy(self, change: Kernels, g: int) -> float:
        flat = change.reshape(len(change), -1)
        if self.inputs.patches:
            return output_energy(flat.T, self.inputs.patches[g])
        if self._roots:
            change = np.tensordot(self._roots[g], change, (1, 1))
        return float(np.vdot(change, change))

    def _tables(self, structure: Structure) -> list[Matrix]:
        """Relative errors of each group by rank, or by both ranks."""
        if structure.method in PAIRS:
            return [tucker_error_table(_three(kernel), (0, 2)) for kernel in self._weighed]
        if structure.method == "channel-output" and self.inputs.patches:
            rows = self.inputs.rows
            pairs = zip(self.kernels, self.inputs.patches, strict=True)
            return [
                whitened_error_curve(kernel.reshape(len(kernel), -1).T, gram, rows=rows)
                for kernel, gram in pairs
            ]
        first = structure.parts[0].axes
        return [plain_curve(_matrix(kernel, first)) for kernel in self._weighed]

    @functools.cached_property
    def _digests(self) -> tuple[str, ...]:
        """Of all that a fit depends on but the chain, by group."""
        own = self.inputs
        counts = np.array([own.rows, own.channel_rows])
        return tuple(
            digest([kernel, *own.channels[g : g + 1], *own.patches[g : g + 1], counts])
            for g, kernel in enumerate(self.kernels)
        )

    def _of_group(self, structure: Structure, ranks: Sequence[int], g: int) -> Factors:
        if not self.is_fitted(structure):
            return self._made(structure, ranks, g)
        key = (self._digests[g], structure, tuple(int(rank) for rank in ranks))
        return _FITS.get(key, lambda: self._made(structure, ranks, g))

    def _made(self, structure: Structure, ranks: Sequence[int], g: int) -> Factors:
        kernel = self.kernels[g]
        if not kernel.any():  # of a layer that is only timed
            return [np.zeros(shape) for shape in structure.shapes(self.conv, ranks)]
        if structure.method == "channel-output" and self.inputs.patches:
            matrix = kernel.reshape(len(kernel), -1).T
            p, q = whitened_svd(matrix, self.inputs.patches[g], ranks[0], rows=self.inputs.rows)
            return [p.T.reshape(-1, *kernel.shape[1:]), q.T]
        shapes = structure.shapes(self.conv, ranks)
        found = list(map(_padded, _cut(structure, ranks, self._weighed[g]), shapes))
        if self._roots:
            found[0] = _solved(self._roots[g], found[0])
        found = _balanced(structure, found)
        if not self.inputs.patches:
            return found
        spec, gram = structure.spec(self.conv), self.inputs.patches[g]
        fitted = fit_network(spec, found[::-1], kernel, gram, rows=self.inputs.rows)
        return _balanced(structure, fitted[::-1])


def cp_sweeps(entries: int, rank: int) -> int:
    """Sweeps that a CP decomposition of a tensor of so many entries may take."""
    least, most = _CP_SWEEPS
    return min(max(_CP_WORK // (entries * rank), least), most)


def _cut(structure: Structure, ranks: Sequence[int], kernel: Kernels) -> Factors:
    """The parts of a chain whose product is nearest to a kernel (M, C, *k)."""
    inner = structure.parts[1:-1]
    if structure.method == "tucker":
        core, bases = tucker(_three(kernel), dict(zip((0, 2), ranks, strict=True)))
        middle = core.transpose(2, 0, 1)
        middle = middle.reshape(*middle.shape[:2], *kernel.shape[2:])
        return [bases[0].T, middle, bases[2]]
    if structure.method == "tt":
        left, core, right = tt_svd(_three(kernel), ranks)
        middle = core.transpose(2, 0, 1)
        middle = middle.reshape(*middle.shape[:2], *kernel.shape[2:])
        return [left[0].T, middle, right[:, :, 0].T]
    if structure.is_cp:
        sides = [int(np.prod([kernel.shape[2 + axis] for axis in part.axes])) for part in inner]
        merged = _three(kernel).reshape(kernel.shape[1], *sides, len(kernel))
        sweeps = cp_sweeps(kernel.size, int(ranks[0]))
        left, *inside, right = cp(merged, ranks[0], sweeps=sweeps)
        shapes = [[-1, *(kernel.shape[2 + axis] for axis in part.axes)] for part in inner]
        return [left.T, *(k.T.reshape(s) for k, s in zip(inside, shapes, strict=True)), right]
    first, second = (part.axes for part in structure.parts)
    p, q = factorize(_matrix(kernel, first), "svd", ranks[0], None)
    m, c, *sizes = kernel.shape
    return [
        p.T.reshape(-1, c, *(sizes[axis] for axis in first)),
        np.swapaxes(q.reshape(-1, m, *(sizes[axis] for axis in second)), 0, 1),
    ]


def _padded(part: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The part with zeros for components that a kernel of low rank does without."""
    if part.shape == shape:
        return part
    full = np.zeros(shape)
    full[tuple(map(slice, part.shape))] = part
    return full


def _matrix(kernel: Kernels, first: Sequence[int]) -> Matrix:
    """(C k, M k'), k along the axes of the first part, k' along all others."""
    own = [2 + axis for axis in first]
    others = [axis for axis in range(2, kernel.ndim) if axis not in own]
    rows = kernel.shape[1] * int(np.prod([kernel.shape[axis] for axis in own], dtype=int))
    matrix: Matrix = kernel.transpose(1, *own, 0, *others).reshape(rows, -1)
    return matrix


def _three(kernel: Kernels) -> Matrix:
    """(C, prod k, M)."""
    merged: Matrix = kernel.reshape(*kernel.shape[:2], -1).transpose(1, 2, 0)
    return merged


def _solved(root: Matrix, part: Matrix) -> Matrix:
    """The part that reads channels, (R, C, *k), with the root taken off them."""
    columns = np.moveaxis(part, 1, 0)
    flat = columns.reshape(len(root), -1)
    solved = scipy.linalg.solve_triangular(root, flat, check_finite=False)
    return np.moveaxis(solved.reshape(columns.shape), 0, 1)


def _balanced(structure: Structure, factors: Sequence[Matrix]) -> Factors:
    """The same product, each component of a rank as large in one part as in the others."""
    found = list(factors)
    for letter in "rs":
        places = {
            i: part.letters.index(letter)
            for i, part in enumerate(structure.parts)
            if letter in part.letters
        }
        norms = [
            np.linalg.norm(np.moveaxis(found[i], axis, 0).reshape(found[i].shape[axis], -1), axis=1)
            for i, axis in places.items()
        ]
        if not norms:
            continue
        live = np.all(np.asarray(norms) > 0.0, axis=0)
        logs = np.log(np.where(live, norms, 1.0))
        for (i, axis), change in zip(places.items(), np.exp(logs.mean(axis=0) - logs), strict=True):
            found[i] = np.moveaxis(np.moveaxis(found[i], axis, -1) * change, -1, axis)
    return found
