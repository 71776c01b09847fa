"""What rounding in blocks knows of what a weight meets, and the errors that it makes there."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.linalg import output_energy
from onnxslim_rx.passbase import Array, LayerStatistics
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._block_rounding import Rounded
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._tables import table_statistics

__all__ = ["Errors", "Known", "errors_of", "known_of", "settled"]

Matrix = npt.NDArray[np.float64]

_SEEN = 2  # reads by calibration from which on a row counts as known


class Known(NamedTuple):
    """Of one weight (rows, K): what it is multiplied with, and which rows are read.

    Args:
        gram: (K, K) second moments, or None.
        counts: (rows,) how often calibration read each row of a table, or None.
    """

    gram: Matrix | None
    counts: Array | None


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
    """What is known of a weight.

    Raises:
        InputError: the statistics are of another layer.
    """
    if stats is None:
        return Known(None, None)
    if weight.is_looked_up:
        counts, gram = table_statistics(weight.layer.name, weight.shape, stats)
        return Known(gram, counts)
    if stats.gram is not None and len(stats.gram) != weight.shape[1]:
        raise InputError(f"the statistics of {weight.layer.name} are of another layer")
    return Known(stats.gram, None)


def settled(options: BlockOptions, known: Known, name: str, *, factor: bool) -> BlockOptions:
    """The options that can be carried out: a factor of whose inputs nothing is known does without.

    Raises:
        InputError: the options need statistics that there are not.
    """
    if not options.uses_statistics or known.gram is not None:
        return options
    if factor:
        return dataclasses.replace(options, method="hqq", rank=0)
    raise InputError(
        f"{name} is to be rounded by {options.method} with rank {options.rank},"
        " and there are no statistics of its inputs",
        advice="give calibration data (a plan: those it was made with), or use method hqq",
    )


def errors_of(
    rows: Array, rounded: Rounded, options: BlockOptions, known: Known, *, table: bool
) -> Errors:
    """Relative errors of a rounding.

    Args:
        rows: (rows, K), the weight.
        rounded: what stands for it.
        options: how.
        known: of its inputs.
        table: whether rows of it are looked up.
    """
    k = rows.shape[1]
    lost, total = np.zeros(len(rows)), np.zeros(len(rows))
    products = np.zeros(2)
    for part, dense in rounded.parts(k, options):
        exact = rows[part].astype(np.float64)
        dense -= exact
        lost[part] = np.einsum("rk,rk->r", dense, dense)
        total[part] = np.einsum("rk,rk->r", exact, exact)
        if known.gram is not None:
            products += [output_energy(one.T, known.gram) for one in (dense, exact)]
    found = [_ratio(products[0], products[1])] if known.gram is not None else []
    if table or not found:
        found.append(_ratio(lost.sum(), total.sum()))
    if not table:
        return Errors(max(found), 0.0)
    rare = np.ones(len(rows), bool)
    if known.counts is not None:
        counts = known.counts.astype(np.float64)
        found.append(_ratio(float(counts @ lost), float(counts @ total)))
        rare = known.counts < _SEEN
    alone = np.sqrt(np.divide(lost, total, out=np.zeros_like(lost), where=total > 0))
    return Errors(max(found), float(alone[rare].max(initial=0.0)))


def _ratio(lost: float, total: float) -> float:
    return float(np.sqrt(max(lost, 0.0) / total)) if total > 0 else 0.0
