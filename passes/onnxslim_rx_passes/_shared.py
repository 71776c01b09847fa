"""One factor that many experts share, and the error of that by rank.

- "second": `W_e ~= P_e Q`. Q holds the leading right singular vectors of all outputs one below the
  other, each under the inputs of its own expert.
- "first": `W_e ~= P Q_e`. P is the first factor of the weights side by side, under the inputs of
  all experts together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.linalg import balance, joint_left_svd, output_energy, shared_output_basis
from onnxslim_rx.linalg.moments import ridge
from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx_passes._factors import curve_of_factors, output_curve, spectra

__all__ = ["Routing", "factors_of", "routing_of", "shared_curve", "shared_spectra", "sides_of"]

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Routing:
    """What the experts see.

    Args:
        grams: (E, K, K), `X_e^T X_e` of each with its ridge, or None.
        counts: (E,), rows of each; None: not known.
        together: statistics of all rows; with a Gram matrix where `grams` is given.
    """

    grams: Matrix | None
    counts: Matrix | None
    together: LayerStatistics | None

    @property
    def is_known(self) -> bool:
        """Whether there are Gram matrices."""
        return self.grams is not None


def routing_of(number: int, stats: LayerStatistics | None) -> Routing:
    """What is known of the inputs of `number` experts.

    Of experts that are layers of their own (`stats.members`) each has its own rows; experts in one
    constant are counted as reading the same ones.
    """
    if stats is None:
        return Routing(None, None, None)
    if not stats.members:
        if stats.gram is None:
            return Routing(None, None, stats)
        shared = _ridged(stats.gram, stats.rows)
        grams = np.broadcast_to(shared, (number, *shared.shape))
        return Routing(grams, None, stats)
    rows = [0 if one is None else one.rows for one in stats.members]
    counts = np.asarray(rows, dtype=np.float64)
    seen = [one for one in stats.members if one is not None and one.gram is not None and one.rows]
    if not seen:
        return Routing(None, counts if counts.any() else None, None)
    total = np.zeros_like(seen[0].gram)
    for one in seen:
        total += one.gram
    rows_seen = sum(one.rows for one in seen)
    together = dataclasses.replace(seen[0], gram=total, rows=rows_seen, members=())
    # one row more that is like all others: an expert that saw none is not given up
    typical = _ridged(total, together.rows) / max(together.rows, 1)
    grams = np.stack(
        [
            typical + (0.0 if one is None or one.gram is None else _ridged(one.gram, one.rows))
            for one in stats.members
        ]
    )
    return Routing(grams, None, together)


def _ridged(gram: Matrix, rows: int) -> Matrix:
    ridged: Matrix = gram + np.eye(len(gram)) * ridge(gram, max(rows, 1))
    return ridged


def sides_of(experts: tuple[int, ...], share: str) -> tuple[int, int]:
    """Rows and columns of the matrix that is factorized, of experts (E, K, N)."""
    number, k, n = experts
    return (number * k, n) if share == "second" else (k, number * n)


def factors_of(experts: Array, share: str, rank: int, routing: Routing) -> tuple[Matrix, Matrix]:
    """`P (E, K, R), Q (R, N)` or `P (K, R), Q (E, R, N)`, float64.

    Args:
        experts: (E, K, N), finite.
        share: "second" or "first": the factor that there is one of.
        rank: 1 to the shorter of `sides_of`.
        routing: what the experts see.
    """
    if share == "second":
        grams, counts = routing.grams, routing.counts
        ps, q = shared_output_basis(experts, rank, grams=grams, counts=counts)
        p, q = balance(ps.reshape(-1, rank), q)
        return p.reshape(ps.shape), q
    stats = routing.together if routing.is_known else None
    p, qs = joint_left_svd(
        list(experts),
        rank,
        gram=None if stats is None else stats.gram,
        rows=None if stats is None else max(stats.rows, 1),
    )
    return p, np.stack(qs)


def shared_curve(experts: Array, share: str, top: int, routing: Routing) -> Matrix:
    """Relative error by rank, of all outputs together or of all weights; see `output_curve`."""
    if share == "first":
        method = "whitened-svd" if routing.is_known else "svd"
        stats = routing.together if routing.is_known else None
        return output_curve(_side_by_side(experts), method, top, stats)
    p, q = factors_of(experts, share, top, routing)
    images, total = np.zeros(top), 0.0
    for index, w in enumerate(experts):
        if routing.grams is not None:
            gram = routing.grams[index]
            images += np.einsum("kr,kr->r", p[index], gram @ p[index])
            total += output_energy(w, gram)
        else:
            count = 1.0 if routing.counts is None else routing.counts[index] + 1.0
            images += count * np.einsum("kr,kr->r", p[index], p[index])
            total += count * float(np.einsum("kn,kn->", w, w, dtype=np.float64))
    return curve_of_factors(images, q, total)


def shared_spectra(experts: Array, share: str) -> Callable[[], Iterator[Matrix]]:
    """Singular values of the matrix that is factorized, when asked for."""
    stacked = experts.reshape(-1, experts.shape[-1]) if share == "second" else None
    return spectra(_side_by_side(experts) if stacked is None else stacked)


def _side_by_side(experts: Array | Sequence[Array]) -> Array:
    joined: Array = np.concatenate(list(experts), axis=1)
    return joined
