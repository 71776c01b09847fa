"""The exact allocation: an integer program with one choice for each layer.

`min sum c_ij x_ij` subject to `sum_j x_ij = 1` for each layer i, x binary, and one row for each
bound: a multiple-choice knapsack. HiGHS (Huangfu & Hall, Mathematical Programming Computation
10(1), 2018) solves it by branch and cut; where the Lagrangian relaxation (`ladder`) leaves a part
of the budget unspent, the program fills the gap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.sparse

__all__ = ["Bound", "allocate"]

# Within this share of the best cost the search for a better plan ends: predictions are not so good.
_GAP = 1e-4
_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Bound:
    """`sum of values[i][j]` over the options chosen is at most `limit`.

    Args:
        values: for each layer a number for each of its options; an infinite one is never chosen.
        limit: the same unit as `values`.
    """

    values: Sequence[Sequence[float]]
    limit: float


def allocate(costs: Sequence[Sequence[float]], bounds: Sequence[Bound]) -> list[int] | None:
    """One option for each layer, at the least sum of costs within all bounds.

    Args:
        costs: for each layer the cost of each option; an infinite one is never chosen.
        bounds: what must hold.

    Returns:
        The number of the option of each layer, or None where no choice is within all bounds (or
        none was found in ten seconds).
    """
    lengths = [len(options) for options in costs]
    total = sum(lengths)
    if not total:
        return []
    flat = np.array([cost for options in costs for cost in options], dtype=np.float64)
    wide = [
        np.array([v for options in bound.values for v in options], dtype=np.float64)
        for bound in bounds
    ]
    open_ = np.logical_and.reduce([np.isfinite(flat), *map(np.isfinite, wide)])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    one_each = scipy.sparse.csr_matrix(
        (np.ones(total), (rows, np.arange(total))), shape=(len(lengths), total)
    )
    constraints = [scipy.optimize.LinearConstraint(one_each, 1.0, 1.0)]
    for bound, row in zip(bounds, wide, strict=True):
        if bound.limit == np.inf:
            continue
        # a program in numbers around 1: tolerances of the solver are absolute
        scale = max(float(np.abs(row[open_]).max(initial=0.0)), abs(bound.limit), 1e-300)
        row = np.where(open_, row, 0.0) / scale
        constraints.append(scipy.optimize.LinearConstraint(row[None], -np.inf, bound.limit / scale))
    objective = np.where(open_, flat, 0.0)
    largest = float(np.abs(objective).max(initial=0.0)) or 1.0
    found = scipy.optimize.milp(
        objective / largest,
        constraints=constraints,
        integrality=np.ones(total),
        bounds=scipy.optimize.Bounds(0.0, open_.astype(np.float64)),
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if found.x is None:
        return None
    ends = np.cumsum(lengths)
    return [
        int(np.argmax(found.x[end - length : end]))
        for end, length in zip(ends, lengths, strict=True)
    ]
