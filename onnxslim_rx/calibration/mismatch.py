"""How far the outputs of a layer are from those wanted, against what enters it.

Of rows X' that enter a layer, outputs Y' that there are and outputs Y that are wanted, the sums
`X'^T X'`, `X'^T (Y - Y')` and `||Y - Y'||^2` tell how well any other weight would do: one that is
larger by V leaves `||X' V - (Y - Y')||^2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.moments import CHUNK, CrossMoment, GramMatrix
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.rows import Chunks, rows_of

__all__ = ["Mismatch", "mismatch_bytes"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


def mismatch_bytes(reading: Reading) -> int:
    """Bytes that a `Mismatch` of `reading` holds at most."""
    size, columns = reading.size, reading.other_size
    return 8 * (size * (size + columns) + CHUNK * (size + 2 * columns))


class Mismatch:
    """Sums over rows; see the head of the module.

    Args:
        reading: of the kind "tandem".

    Attributes:
        rows: rows seen.
        shape: shape of the tensor in the sample with the most rows.
        why: why the sums mean nothing, or "".
        missing: `||Y - Y'||^2`.
        wanted: `||Y||^2`.
    """

    def __init__(self, reading: Reading) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()
        self.why = ""
        self.missing = self.wanted = 0.0
        self._reading = reading
        self._most = -1
        self._gram = GramMatrix(reading.size)
        self._cross = CrossMoment(0, reading.size, reading.other_size)
        self._chunks = Chunks(reading.size, reading.other_size, reading.other_size)

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in X', Y and Y' of one sample; see `Observer`."""
        if self.why:
            return
        reading = self._reading
        of_x, of_y = reading.strides, None
        if of_x is not None:
            of_y = (1,) * len(of_x)
        x = rows_of(
            found[0], reading.size, transposed=reading.transposed, strides=of_x, masks=masks
        )
        wanted, now = (
            rows_of(
                one,
                reading.other_size,
                transposed=reading.other_transposed,
                strides=of_y,
                masks=masks,
            )
            for one in found[1:]
        )
        if not len(x) == len(wanted) == len(now):
            self.why = f"{len(x)} rows enter and {len(wanted)} leave on {where}"
            return
        if len(x) > self._most:
            self._most, self.shape = len(x), found[0].shape
        self.rows += len(x)
        for chunk in self._chunks.add(x, wanted, now):
            self._take(*chunk)

    def arrays(self) -> dict[str, Array]:
        """`gram` (K, K) and `cross` (K, N), float64."""
        for chunk in self._chunks.rest():
            self._take(*chunk)
        gram = self._gram.total()
        if not np.isfinite([self.wanted, self.missing, np.trace(gram)]).all():
            self.why = "NaN or infinity is computed there"
        return {"gram": gram, "cross": self._cross.total()}

    def _take(self, x: Matrix, wanted: Matrix, now: Matrix) -> None:
        self.wanted += float(np.einsum("ij,ij->", wanted, wanted))
        wanted -= now
        self.missing += float(np.einsum("ij,ij->", wanted, wanted))
        self._gram.add(x, x)
        self._cross.add(x, wanted)
