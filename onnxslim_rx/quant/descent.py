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
    Integers,
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
_ROUNDS = 2  # each more lowers the error by less than 1%


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
            descent.round()
        better = descent.errors() < before
        values[part][better] = descent.integers()[better]
        scales[part][better] = descent.scales.T[better]
    return tidy(Blocks(values, scales, blocks.zeros, blocks.format))


class _Descent:
    """Some rows of a weight, a column each, while their error is lowered.

    Attributes:
        steps: (K, n), integers less their zero points.
        scales: (blocks, n), float64.
        lost: (K, n), E, what the blocks lack of the weight.
        gradient: (K, n), `G E`.
    """

    def __init__(self, blocks: Blocks, weight: Array, gram: Floats, part: slice) -> None:
        self.form: BlockFormat = blocks.format
        self.gram = gram
        self.width = self.form.width(len(gram))
        self.scales = blocks.scales[part].T.copy()
        self.zeros = np.full((len(self.scales), 1), float(self.form.middle), np.float32)
        if blocks.zeros is not None:
            self.zeros = blocks.zeros[part].T.astype(np.float32)
        self.steps = blocks.values[part].T.astype(np.float32) - self._spread(self.zeros)
        restored = self._restored(slice(0, len(gram)))
        self.lost: Floats = np.subtract(weight[part].T, restored, dtype=np.float32)
        self.gradient = gram @ self.lost

    def errors(self) -> npt.NDArray[np.float64]:
        """(n,): the squared error of the outputs of each row."""
        return _dots(self.lost, self.gradient)

    def integers(self) -> Integers:
        """(n, K), as blocks have them."""
        found: Integers = (self.steps + self._spread(self.zeros)).astype(np.uint8).T
        return found

    def round(self) -> None:
        """Fit all scales and integers once, some neighbouring blocks at a time."""
        panel = -(-_PANEL // self.width) * self.width
        for start in range(0, len(self.gram), panel):
            place = slice(start, start + panel)
            gradient, before = self.gradient[place].copy(), self._restored(place)
            self._fit_scales(place, gradient)
            self._fit_integers(place, gradient)
            changes = self._restored(place) - before
            self.lost[place] -= changes
            self.gradient -= self.gram[:, place] @ changes

    def _fit_scales(self, place: slice, gradient: Floats) -> None:
        """Each block's scale by least squares, the others given; kept where it lowers the error."""
        steps, gram = self.steps[place], self.gram[place, place]
        for block, scales in enumerate(self.scales[self._blocks(place)]):
            here = slice(block * self.width, (block + 1) * self.width)
            pull = _dots(steps[here], gradient[here])
            stiffness = _dots(steps[here], gram[here, here] @ steps[here])
            best = np.divide(pull, stiffness, out=np.zeros_like(pull), where=stiffness > 0)
            change = self.form.stored(scales + best) - scales
            change[change * (2 * pull - change * stiffness) <= 0] = 0
            scales += change
            gradient -= gram[:, here] @ (steps[here] * change.astype(np.float32))

    def _fit_integers(self, place: slice, gradient: Floats) -> None:
        """Each integer in turn, all others given."""
        steps, gram = self.steps[place], self.gram[place, place]
        scales = self.scales[self._blocks(place)].astype(np.float32)
        low = -self.zeros[self._blocks(place)]
        for start in range(0, len(gram), _PANEL):
            stop = min(start + _PANEL, len(gram))
            changes = np.empty((stop - start, steps.shape[1]), np.float32)
            for j in range(start, stop):
                block = j // self.width
                target = gradient[j] - gram[j, start:j] @ changes[: j - start]
                target /= gram[j, j] * scales[block]
                target += steps[j]
                np.rint(target, out=target)
                np.maximum(target, low[block], out=target)
                np.minimum(target, low[block] + self.form.largest, out=target)
                np.subtract(target, steps[j], out=changes[j - start])
                changes[j - start] *= scales[block]
                steps[j] = target
            gradient[stop:] -= gram[stop:, start:stop] @ changes

    def _blocks(self, place: slice) -> slice:
        return slice(place.start // self.width, -(-place.stop // self.width))

    def _restored(self, place: slice) -> Floats:
        """What the blocks stand for, some whole blocks of each row."""
        scales = self._spread(self.scales[self._blocks(place)].astype(np.float32))
        steps = self.steps[place]
        found: Floats = steps * scales[: len(steps)]
        return found

    def _spread(self, by_block: Floats) -> Floats:
        found: Floats = np.repeat(by_block, self.width, axis=0)[: len(self.gram)]
        return found


def _dots(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """(n,): the dot product of each column of two matrices (K, n)."""
    found: npt.NDArray[np.float64] = np.einsum("kn,kn->n", a, b).astype(np.float64)
    return found
