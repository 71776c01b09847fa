"""What rounding in blocks knows of what a weight meets, and the errors that it makes there."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx.quant import error
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._block_rounding import Rounded, rounded
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._tables import table_statistics

__all__ = ["Errors", "Known", "errors_of", "known_of", "settled"]

Matrix = npt.NDArray[np.float64]

_PART = 1 << 20  # entries that are in memory in float64 at a time
_SEEN = 2  # reads by calibration from which on a row counts as known


class Known(NamedTuple):
    """Of one weight (rows, K): what it is multiplied with, and which rows are read.

    Args:
        gram: (K, K) sum of second moments, or None.
        counts: (rows,) how often calibration read each row of a table, or None.
        samples: how many rows of inputs were summed up.
        table: whether rows of the weight are looked up.
        cut: whether the weight has another K than it had when statistics were taken.
    """

    gram: Matrix | None = None
    counts: Array | None = None
    samples: int = 1
    table: bool = False
    cut: bool = False

    def rounded(self, rows: Array, options: BlockOptions) -> Rounded:
        """Round a weight (rows, K); see `_block_rounding.rounded`."""
        # rows that are looked up count as they are, whatever a product would make of them
        unused = self.table and not options.uses_statistics
        return rounded(rows, options, None if unused else self.gram, self.samples)

    def fits(self, factor: Array) -> bool:
        """Whether a factor (K, R) multiplies inputs that something is known of."""
        return factor.ndim == 2 and self.gram is not None and len(self.gram) == len(factor)

    def behind(self, factor: Array, *, table: bool) -> Known:
        """What is known of the inputs of the next factor.

        Args:
            factor: (K, R) of a product, or (V, R) of a table.
            table: whether rows of it are looked up.
        """
        if table and self.counts is not None:
            samples = max(int(self.counts.sum()), 1)
            return Known((factor.T * self.counts) @ factor, None, samples)
        if table or self.gram is None or not self.fits(factor):
            return Known()
        return Known(factor.T @ self.gram @ factor, None, self.samples)


class Errors(NamedTuple):
    """What a rounding does.

    Args:
        output: relative error of what the layer gives, the largest of what holds for a table: of
            its rows, of those that were read, and of the products.
        row: largest relative error of a row that calibration hardly read; 0 where there is none.
    """

    output: float
    row: float


def known_of(weight: BlockWeight, stats: LayerStatistics | None) -> Known:
    """What is known of a weight; where treatments of others cut it since, nothing of its inputs.

    Raises:
        InputError: the statistics are of another table.
    """
    table = weight.is_looked_up
    if stats is None:
        return Known(table=table)
    if table:
        counts, gram = table_statistics(weight.layer.name, weight.shape, stats)
        products = (one.rows for one in stats.members if one is not None and one.gram is not None)
        return Known(gram, counts, max(sum(products), 1), table)
    if stats.gram is not None and len(stats.gram) != weight.shape[1]:
        return Known(cut=True)
    return Known(stats.gram, None, max(stats.rows, 1))


def settled(options: BlockOptions, known: Known, name: str, *, factor: bool) -> BlockOptions:
    """The options that can be carried out.

    A factor, or what is left of a weight, of whose inputs nothing is known does without.

    Raises:
        InputError: the options need statistics that there are not.
    """
    if not options.uses_statistics or known.gram is not None:
        return options
    if factor or known.cut:
        return dataclasses.replace(options, method="clip", rank=0)
    raise InputError(
        f"{name} is to be rounded by {options.method} with rank {options.rank},"
        " and there are no statistics of its inputs",
        advice="give calibration data (a plan: those it was made with), or use method hqq",
    )


def errors_of(rows: Array, made: Rounded, options: BlockOptions, known: Known) -> Errors:
    """Relative errors of a rounding.

    Args:
        rows: (rows, K), the weight.
        made: what stands for it.
        options: how.
        known: of its inputs.
    """
    k = rows.shape[1]
    plain = not (made.inputs.size or options.rank)
    stands = made.blocks(k, options) if plain else made.dense(k, options)
    found = [error(rows, stands, known.gram)]
    if not known.table:
        return Errors(found[0], 0.0)
    lost, total = _by_row(rows, made, options)
    found.append(_ratio(lost.sum(), total.sum()))
    rare = np.ones(len(rows), bool)
    if known.counts is not None:
        counts = known.counts.astype(np.float64)
        found.append(_ratio(float(counts @ lost), float(counts @ total)))
        rare = known.counts < _SEEN
    alone = np.sqrt(np.divide(lost, total, out=np.zeros_like(lost), where=total > 0))
    return Errors(max(found), float(alone[rare].max(initial=0.0)))


def _by_row(rows: Array, made: Rounded, options: BlockOptions) -> tuple[Matrix, Matrix]:
    """Squared errors and squares of each row."""
    lost, total = np.zeros(len(rows)), np.zeros(len(rows))
    step = max(1, _PART // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        exact = rows[part].astype(np.float64)
        wrong = made.dense(rows.shape[1], options, part=part) - exact
        lost[part] = np.einsum("rk,rk->r", wrong, wrong)
        total[part] = np.einsum("rk,rk->r", exact, exact)
    return lost, total


def _ratio(lost: float, total: float) -> float:
    return float(np.sqrt(max(lost, 0.0) / total)) if total > 0 else 0.0
