"""Errors of the ranks of a chain, true ones where there is a closed form, else by a few fits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim_rx_passes._conv_decompose import Decomposition
from onnxslim_rx_passes._conv_ranks import Judge
from onnxslim_rx_passes._conv_structures import Structure

__all__ = ["judge_of"]

Matrix = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_FITS = 3  # of each chain, spread over its ranks, as the planner's probes are
_LEAST = 1e-12


def judge_of(found: Decomposition) -> Judge:
    """What tells the ranks of a decomposition apart."""

    def guess(structure: Structure, ranks: Ranks) -> Matrix:
        # more components of a CP decomposition are better: which of several is not asked
        return 1.0 / ranks[:, 0] if structure.is_cp else found.errors(structure, ranks)

    def refine(structure: Structure, ranks: Ranks, guesses: Matrix) -> Matrix:
        if not found.is_fitted(structure):
            return guesses
        order = np.argsort(guesses, kind="stable")
        picks = order[np.unique(np.linspace(0, len(order) - 1, _FITS).astype(int))]
        fitted = [found.error(structure, found.factors(structure, ranks[pick])) for pick in picks]
        # fits of few sweeps may err by a little: a milder cut is not worse
        logs = np.log(np.maximum(np.maximum.accumulate(fitted), _LEAST))
        at = np.log(np.maximum(guesses, _LEAST))
        errors: Matrix = np.exp(np.interp(at, at[picks], logs))
        return errors

    return Judge(guess, refine, found.signals)
