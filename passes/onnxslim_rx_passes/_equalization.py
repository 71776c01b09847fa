"""Powers of two between linear layers in a row that make the ranges of their channels alike.

Dividing the outputs of one layer by s, and multiplying what the next reads, changes nothing where
what lies between scales with its input. A channel is balanced where the largest weight that makes
it is as large as the one that reads it; in a row of layers each pair is balanced in turn, until all
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["exponents_between", "imbalance"]

Matrix = npt.NDArray[np.float64]
Exponents = npt.NDArray[np.int64]

_SWEEPS = 20
_SETTLED = 1e-3  # binary orders of magnitude
_MOST = 24  # more would be for channels that are all but dead


def exponents_between(sizes: Sequence[Matrix]) -> list[Exponents]:
    """For each two neighbours the e of each channel between: times `2**-e` before, `2**e` behind.

    Args:
        sizes: of each layer, (groups, outputs, inputs) of one group, the largest absolute weight.
            The outputs of one layer, all groups, are the inputs of the next.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019; scales rounded to powers of two, so that nothing is rounded but their exponents.
    """
    found = [np.zeros(size.shape[0] * size.shape[2]) for size in sizes[1:]]
    for _ in range(_SWEEPS):
        change = 0.0
        for place in range(len(found)):
            step = _unbalanced(_scaled(sizes, found), place) / 2
            found[place] += step
            change = max(change, float(np.abs(step).max(initial=0.0)))
        if change < _SETTLED:
            break
    return [np.rint(np.clip(one, -_MOST, _MOST)).astype(np.int64) for one in found]


def imbalance(sizes: Sequence[Matrix], exponents: Sequence[Exponents]) -> float:
    """Binary orders of magnitude between the two sides of channels, summed over all of a row."""
    scaled = _scaled(sizes, exponents)
    return sum(float(np.abs(_unbalanced(scaled, i)).sum()) for i in range(len(exponents)))


def _scaled(sizes: Sequence[Matrix], exponents: Sequence[npt.NDArray[Any]]) -> list[Matrix]:
    found = []
    for number, size in enumerate(sizes):
        groups, outputs, inputs = size.shape
        own = size
        if number < len(exponents):
            own = own * np.exp2(-1.0 * exponents[number].reshape(groups, outputs, 1))
        if number > 0:
            own = own * np.exp2(1.0 * exponents[number - 1].reshape(groups, 1, inputs))
        found.append(own)
    return found


def _unbalanced(scaled: Sequence[Matrix], place: int) -> Matrix:
    """Per channel, by how many powers of two the side that makes it is the larger; 0 for zeros."""
    made = scaled[place].max(axis=2).reshape(-1)
    read = scaled[place + 1].max(axis=1).reshape(-1)
    alive = (made > 0) & (read > 0)
    ratio = np.divide(made, read, out=np.ones_like(made), where=alive)
    found: Matrix = np.log2(ratio)
    return found
