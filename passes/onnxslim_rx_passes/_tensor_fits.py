"""The factors of a weight as a tensor, and the errors of that by rank.

What counts is the error of the outputs, `||X (W - W')||`, so that all is done on a matrix A of as
few rows as can be whose columns have the inner products of the outputs: `A^T A = W^T G W`. In all
three forms the last two factors make up a matrix H (R, N), and of all first factors
`P = W H^T (H H^T)^-1` is the best one whatever the inputs are: A alone settles H.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg import (
    balance,
    cp,
    fix_signs,
    hosvd_energies,
    mode_ranks,
    output_energy,
    tucker,
    tucker_error_table,
)
from onnxslim_rx.linalg.exact import leading_eigenvectors
from onnxslim_rx.linalg.matrix import tail, to_unit_scale
from onnxslim_rx.linalg.moments import gram_root, ridge
from onnxslim_rx_passes._memo import Memo, digest
from onnxslim_rx_passes._tensor_forms import Form, Ranks, compose

__all__ = ["Fits"]

Matrix = npt.NDArray[np.float64]

# Fits of CP that tell the errors of all ranks, spread over them as the planner's probes are.
_FITS = 3
_LEAST = 1e-12
# Rows of A that CP is fitted to, by its rank: with all of them, errors were at most 0.3% lower
# (MiniLM, ranks 16 to 128), and fits took up to six times as long.
_ROWS = 1.4
# As in `linalg.cp`: the ridge beside diagonals of 1, as a share of the squared error.
_PENALTY = 1e-2
_KEPT = Memo(128 << 20)


@dataclasses.dataclass(frozen=True, eq=False)
class Fits:
    """The ways to factorize one weight.

    Args:
        weight: (K, N), finite.
        gram: (K, K), `X^T X` of what enters; None: the error of the weight counts.
        rows: of X.
    """

    weight: Matrix
    gram: Matrix | None = None
    rows: int = 1

    def factors(self, form: Form, ranks: Sequence[int]) -> list[Matrix]:
        """The three factors, see `_tensor_forms`; each component balanced.

        Args:
            form: of this weight.
            ranks: of it, that fit.
        """
        key = (self._digest, form, tuple(int(rank) for rank in ranks))
        return _KEPT.get(key, lambda: self._made(form, ranks))

    def error(self, form: Form, ranks: Sequence[int]) -> float:
        """Relative error of a fit."""
        change = self.weight - compose(form.n, self.factors(form, ranks))
        total = self._energy(self.weight)
        return math.sqrt(self._energy(change) / total) if total > 0.0 else 0.0

    def errors(self, form: Form, ranks: Ranks) -> Matrix:
        """Relative errors (N,) of ranks (N, number of ranks) that fit.

        Of "tucker" exact, of "tt" those of the truncated HOSVD, which fits are below, of "cp"
        by a few fits.
        """
        if form.method == "tucker":
            return np.asarray(self.curve[ranks.min(axis=1)])
        if form.method == "tt":
            return np.asarray(self._table(form)[tuple(ranks.T)])
        order = np.argsort(-ranks[:, 0], kind="stable")
        picks = order[np.unique(np.linspace(0, len(order) - 1, _FITS).astype(int))]
        fitted = [self.error(form, ranks[pick]) for pick in picks]
        # fits of few sweeps may err by a little: more terms are not worse
        logs = np.log(np.maximum(np.maximum.accumulate(fitted), _LEAST))
        at = -np.log(ranks[:, 0])
        found: Matrix = np.exp(np.interp(at, at[picks], logs))
        return found

    def floors(self, form: Form, ranks: Ranks) -> Matrix:
        """Errors (N,) of "tt" that no fit is below, at less cost than `errors`."""
        side = self._side(form)
        found: Matrix = np.maximum(self.curve[ranks[:, 0]], side[ranks[:, 1]])
        return found

    def signals(self, form: Form, rule: str) -> tuple[int, ...]:
        """The ranks that keep what stands out of noise in the weight.

        Args:
            form: of this weight.
            rule: "evbmf" or "mdl".
        """
        if form.method == "tucker":
            (rank,) = mode_ranks(self.weight, [0], rule=rule).values()
            return rank, rank
        found = mode_ranks(self._tensor(self.weight, form), [0, 2], rule=rule)
        return (max(found.values()),) if form.method == "cp" else (found[0], found[2])

    @functools.cached_property
    def curve(self) -> Matrix:
        """(min(K, N) + 1,): relative error of the best product of two factors, by rank."""
        return tail(np.einsum("mn,mn->m", self._outputs, self._outputs))

    @functools.cached_property
    def _outputs(self) -> Matrix:
        """A, (min(K, N), N), its rows orthogonal, those of most energy first."""
        w, _ = to_unit_scale(self.weight)
        k, n = w.shape
        g = self._ridged
        if k <= n:
            rows = w if g is None else gram_root(g) @ w
            turned: Matrix = leading_eigenvectors(rows @ rows.T, k).T @ rows
            order = np.argsort(-np.einsum("mn,mn->m", turned, turned), kind="stable")
            return turned[order]
        energies, vectors = np.linalg.eigh(w.T @ w if g is None else w.T @ g @ w)
        made: Matrix = np.sqrt(np.maximum(energies, 0.0))[::-1, None] * vectors.T[::-1]
        return made

    @functools.cached_property
    def _ridged(self) -> Matrix | None:
        """The Gram matrix as it is used, of unit scale."""
        if self.gram is None:
            return None
        g, _ = to_unit_scale(self.gram)
        ridged: Matrix = g + np.eye(len(g)) * ridge(g, max(self.rows, 1))
        return ridged

    def _energy(self, weight: Matrix) -> float:
        if self._ridged is None:
            return float(np.vdot(weight, weight))
        return output_energy(weight, self._ridged)

    @functools.cached_property
    def _tables(self) -> dict[Form, Matrix]:
        return {}

    def _table(self, form: Form) -> Matrix:
        """Relative errors by both ranks."""
        if form not in self._tables:
            self._tables[form] = tucker_error_table(self._tensor(self._outputs, form), (0, 2))
        return self._tables[form]

    def _side(self, form: Form) -> Matrix:
        """Relative errors by the last rank alone."""
        return tail(hosvd_energies(self._tensor(self._outputs, form), [2])[2])

    @functools.cached_property
    def _digest(self) -> str:
        gram = () if self.gram is None else (self.gram, np.array([self.rows]))
        return digest([self.weight, *gram])

    def _tensor(self, matrix: Matrix, form: Form) -> Matrix:
        tensor: Matrix = matrix.reshape(len(matrix), form.split, form.rest)
        return tensor

    def _made(self, form: Form, ranks: Sequence[int]) -> list[Matrix]:
        if not self.weight.any():  # of a layer that is only timed
            return [np.zeros(shape) for shape in form.shapes(ranks)]
        if form.method == "cp":
            return self._cp(form, ranks[0])
        made = self._tucker if form.method == "tucker" else self._tt
        return made(form, ranks[0], ranks[1])

    def _tucker(self, form: Form, rank_in: int, rank_out: int) -> list[Matrix]:
        """A product of two; what one rank exceeds the other by is zeros."""
        rank = min(rank_in, rank_out)
        q = np.linalg.qr(self._outputs[:rank].T)[0].T
        p, q = fix_signs(*balance(self.weight @ q.T, q))
        first, last = np.zeros((form.k, rank_in)), np.zeros((rank_out, form.n))
        first[:, :rank], last[:rank] = p, q
        return [first, np.eye(rank_in, rank_out), last]

    def _tt(self, form: Form, rank_in: int, rank_out: int) -> list[Matrix]:
        """The Tucker decomposition along the first and the last axis, as a train."""
        tensor = self._tensor(self._outputs, form)
        core, bases = tucker(tensor, {0: rank_in, 2: rank_out})
        last = bases[2].T
        # orthonormal rows with the span of the core's: the best product with them is as good
        middle = np.linalg.qr(core.reshape(rank_in, -1).T)[0].T
        p = self.weight @ _rows(form, middle, last).T
        p, middle = fix_signs(*balance(p, middle))
        return [p, middle, last]

    def _cp(self, form: Form, rank: int) -> list[Matrix]:
        # images of terms hardly leave what the first rows span, and P is free to
        outputs = self._outputs[: math.ceil(_ROWS * rank)]
        images, middle, last = cp(self._tensor(outputs, form), rank)
        lost = np.linalg.norm(outputs - images @ _rows(form, middle, last.T))
        share = float(lost / np.linalg.norm(outputs)) ** 2
        middle, last = _unit(middle), _unit(last)
        rows = _rows(form, middle, last.T)
        gram = rows @ rows.T + np.eye(rank) * max(_PENALTY * share, _LEAST)
        p = scipy.linalg.solve(gram, rows @ self.weight.T, assume_a="pos", check_finite=False).T
        sizes = np.cbrt(np.linalg.norm(p, axis=0))
        p, middle = fix_signs(_unit(p), middle.T)
        return [p * sizes, middle.T * sizes, last.T * sizes[:, None]]


def _rows(form: Form, middle: Matrix, last: Matrix) -> Matrix:
    """H (R, N): what the last two factors make up."""
    if form.method == "tucker":
        return middle @ last
    if form.method == "cp":
        product = middle.T[:, :, None] * last[:, None, :]
    else:
        product = middle.reshape(len(middle), form.split, -1) @ last
    found: Matrix = product.reshape(len(product), form.n)
    return found


def _unit(factor: Matrix) -> Matrix:
    """Columns of norm 1, or 0."""
    norms = np.linalg.norm(factor, axis=0)
    unit: Matrix = factor / np.where(norms > 0.0, norms, 1.0)
    return unit
