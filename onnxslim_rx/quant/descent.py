"""Better integers and scales for a weight in blocks, under the Gram matrix of its inputs.

Coordinate descent on the error of the outputs, `tr(E G E^T)`: each block's scale becomes what is
best for its integers and all the rest, then each integer in turn. No step lets the error rise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import (
    Array,
    BlockFormat,
    Blocks,
    check_weight,
    parts,
)
from onnxslim_rx.quant.gptq import round_gptq
from onnxslim_rx.quant.gram import damped
from onnxslim_rx.quant.search import tidy

__all__ = ["refine", "round_refined"]

Floats = npt.NDArray[np.float32]

_PANEL = 128  # columns between two updates of all gradients
_ENTRIES = 1 << 22  # of the rows treated at once
_ROUNDS = 3  # each more lowers the error by less than 0.5%


def round_refined(
    weight: Array,
    block_format: BlockFormat,
    gram: Array,
    *,
    rows: int | None = None,
    damping: float | None = None,
    rounds: int = _ROUNDS,
) -> Blocks:
    """`round_gptq`, then `refine`."""
    blocks = round_gptq(weight, block_format, gram, rows=rows, damping=damping)
    return refine(blocks, weight, gram, rows=rows, damping=damping, rounds=rounds)


def refine(
    blocks: Blocks,
    weight: Array,
    gram: Array,
    *,
    rows: int | None = None,
    damping: float | None = None,
    rounds: int = _ROUNDS,
) -> Blocks:
    """Lower the error of the outputs by better scales and integers.

    Args:
        blocks: a weight in blocks; not changed. Its zero points stay.
        weight: (rows of the weight, K), what the blocks stand for, finite.
        gram: as `round_gptq`.
        rows: as `round_gptq`.
        damping: as `round_gptq`.
        rounds: how often all scales and integers are gone through, at least 0.

    Returns:
        Blocks of the same format. No row has more error under the damped Gram matrix than it had.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, rows or damping out of
            range.

    Source: QuantEase (Behdin et al., 2023) for the integers; scales by least squares.
    """
    w = check_weight(weight)
    if w.shape != blocks.values.shape:
        raise ValueError(f"found a weight of shape {w.shape} for blocks of {blocks.values.shape}")
    g = damped(gram, w.shape[1], rows, damping).astype(np.float32)
    values, scales = blocks.values.copy(), blocks.scales.copy()
    for part in parts(w, _ENTRIES):
        descent = _Descent(blocks, w, g, part)
        before = descent.errors()
        for _ in range(rounds):
            descent.fit_scales()
            descent.fit_integers()
        better = descent.errors() < before
        values[part][better] = descent.integers()[better]
        scales[part][better] = descent.scales.T[better]
    return tidy(Blocks(values, scales, blocks.zeros, blocks.format))


class _Descent:
    """Some rows of a weight, a column each, while their error is lowered.

    Attributes:
        steps: (K, n), integers less their zero points.
        scales: (blocks, n), float64.
        gradient: (K, n), `G E`: half of what lowers the error, E the error of the weight.
    """

    def __init__(self, blocks: Blocks, weight: Array, gram: Floats, part: slice) -> None:
        self.form: BlockFormat = blocks.format
        self.gram = gram
        self.wanted = np.ascontiguousarray(weight[part].T, dtype=np.float32)
        self.width = self.form.width(len(gram))
        self.scales = blocks.scales[part].T.copy()
        self.zeros = np.full((len(self.scales), 1), float(self.form.middle), np.float32)
        if blocks.zeros is not None:
            self.zeros = blocks.zeros[part].T.astype(np.float32)
        self.steps = blocks.values[part].T.astype(np.float32) - self._spread(self.zeros)
        self.gradient = gram @ self._error()

    def errors(self) -> npt.NDArray[np.float64]:
        """(n,): the squared error of the outputs of each row."""
        return _dots(self._error(), self.gradient)

    def integers(self) -> Array:
        """(n, K), as blocks have them."""
        found: Array = (self.steps + self._spread(self.zeros)).astype(np.uint8).T
        return found

    def fit_scales(self) -> None:
        """Each block's scale by least squares, the others given; kept where it lowers the error."""
        for block, scales in enumerate(self.scales):
            place = slice(block * self.width, (block + 1) * self.width)
            steps = self.steps[place]
            pull = _dots(steps, self.gradient[place])
            stiffness = _dots(steps, self.gram[place, place] @ steps)
            best = np.divide(pull, stiffness, out=np.zeros_like(pull), where=stiffness > 0)
            change = self.form.stored(scales + best) - scales
            change[change * (2 * pull - change * stiffness) <= 0] = 0
            scales += change
            self.gradient -= self.gram[:, place] @ (steps * change.astype(np.float32))

    def fit_integers(self) -> None:
        """Each integer in turn, all others given."""
        stiffness = np.diagonal(self.gram)
        scales = self.scales.astype(np.float32)
        for start in range(0, len(self.gram), _PANEL):
            stop = min(start + _PANEL, len(self.gram))
            changes = np.empty((stop - start, self.steps.shape[1]), np.float32)
            for j in range(start, stop):
                block, done = j // self.width, changes[: j - start]
                target = self.gradient[j] - self.gram[j, start:j] @ done
                target /= stiffness[j] * scales[block]
                target += self.steps[j]
                np.rint(target, out=target)
                zero = self.zeros[block]
                np.maximum(target, -zero, out=target)
                np.minimum(target, self.form.largest - zero, out=target)
                np.subtract(target, self.steps[j], out=changes[j - start])
                changes[j - start] *= scales[block]
                self.steps[j] = target
            self.gradient -= self.gram[:, start:stop] @ changes

    def _error(self) -> Floats:
        found: Floats = self.wanted - self.steps * self._spread(self.scales.astype(np.float32))
        return found

    def _spread(self, by_block: Array) -> Array:
        found: Array = np.repeat(by_block, self.width, axis=0)[: len(self.gram)]
        return found


def _dots(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """(n,): the dot product of each column of two matrices (K, n)."""
    found: npt.NDArray[np.float64] = np.einsum("kn,kn->n", a, b).astype(np.float64)
    return found
