"""How far the outputs of a layer are from those wanted, against what enters it.

Of rows X' that enter a layer, outputs Y' that there are and outputs Y that are wanted, the sums
`X'^T X'`, `X'^T (Y - Y')` and `||Y - Y'||^2` tell how well any other weight would do: one that is
larger by V leaves `||X' V - (Y - Y')||^2`. The sums of X' and of Y - Y' tell what a bias would do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.moments import CHUNK, CrossMoment, GramMatrix
from onnxslim_rx.calibration.patches import Draw, Patches
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.rows import Chunks, RowSample, as_rows

__all__ = ["Mismatch", "Moments", "mismatch_bytes"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What a stop found, with T for the target of the original, T' for that of the compressed.

    Args:
        gram: (K, K), `X'^T X'`.
        cross: (K, N), `X'^T (T - T')`.
        total: (K,), sum of the rows of X'.
        gap: (N,), sum of the rows of T - T'.
        missing: `||T - T'||_F^2`.
        wanted: `||T||_F^2`.
        rows: rows that these sum over: of a convolution, those of the positions that were drawn.
        sample: (R, K), (R, N) and (R, N), some rows of X', T and T', float32; R is 0 where none are
            wanted.
    """

    gram: Matrix
    cross: Matrix
    total: Matrix
    gap: Matrix
    missing: float
    wanted: float
    rows: int
    sample: Sequence[Array]


def mismatch_bytes(reading: Reading) -> int:
    """Bytes that a `Mismatch` of `reading` holds at most."""
    size, columns = reading.size, reading.other_size
    rows = 8 * CHUNK + 4 * reading.kept
    return 8 * size * (size + columns) + rows * (size + 2 * columns)


class Mismatch:
    """Sums over rows; see the head of the module.

    Args:
        reading: of the kind "tandem".
        seed: of the positions that are drawn where a convolution has many.

    Attributes:
        rows: rows seen.
        positions: as many as would have been seen had nothing been left out.
        shape: shape of the tensor in the sample with the most rows.
        why: why the sums mean nothing, or "".
        missing: `||Y - Y'||^2`.
        wanted: `||Y||^2`.
    """

    def __init__(self, reading: Reading, seed: int) -> None:
        self.rows = self.positions = 0
        self.shape: tuple[int, ...] = ()
        self.why = ""
        self.missing = self.wanted = 0.0
        self._reading = reading
        self._most = -1
        self._gram = GramMatrix(reading.size)
        self._cross = CrossMoment(0, reading.size, reading.other_size)
        self._total, self._gap = np.zeros(reading.size), np.zeros(reading.other_size)
        self._chunks = Chunks(reading.size, reading.other_size, reading.other_size)
        self._draw = Draw(reading.most, seed)
        self._sample = RowSample(reading.size + 2 * reading.other_size, reading.kept, seed)

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in X', Y and Y' of one sample; see `Observer`."""
        if self.why:
            return
        before = self.positions
        by_rows = self._of_rows if self._reading.patches is None else self._of_patches
        for tensors in by_rows(found, masks, where):
            self.rows += len(tensors[0])
            if self._reading.kept:
                self._sample.see(np.hstack(tensors))
            for chunk in self._chunks.add(*tensors):
                self._take(*chunk)
        if self.positions - before > self._most:
            self._most, self.shape = self.positions - before, found[0].shape

    def moments(self) -> Moments:
        """All that was summed up; nothing may be seen after it."""
        arrays = self.arrays()
        return Moments(
            **arrays,
            missing=self.missing,
            wanted=self.wanted,
            rows=self.rows,
            sample=self.sample(),
        )

    def sample(self) -> list[Array]:
        """Rows of X', Y and Y' that were drawn, (R, K), (R, N) and (R, N), float32."""
        size, columns = self._reading.size, self._reading.other_size
        return np.split(self._sample.rows, [size, size + columns], axis=1)

    def arrays(self) -> dict[str, Array]:
        """`gram` (K, K), `cross` (K, N), and the sums `total` (K,) and `gap` (N,); float64."""
        for chunk in self._chunks.rest():
            self._take(*chunk)
        gram = self._gram.total()
        if not np.isfinite([self.wanted, self.missing, np.trace(gram)]).all():
            self.why = "NaN or infinity is computed there"
        sums = {"total": self._total, "gap": self._gap}
        return {"gram": gram, "cross": self._cross.total()} | sums

    def _of_rows(
        self, found: Sequence[Array], masks: Sequence[Array], where: str
    ) -> Iterator[list[Array]]:
        """The rows of X', Y and Y' of one sample; none, and why, where they do not match."""
        reading = self._reading
        rows = [as_rows(found[0], reading.size, transposed=reading.transposed, masks=masks)]
        rows += [
            as_rows(one, reading.other_size, transposed=reading.other_transposed, masks=masks)
            for one in found[1:]
        ]
        if len({len(one) for one in rows}) > 1:
            self.why = f"{len(rows[0])} rows enter and {len(rows[1])} leave on {where}"
            return
        self.positions += len(rows[0])
        yield rows

    def _of_patches(
        self, found: Sequence[Array], masks: Sequence[Array], where: str
    ) -> Iterator[list[Array]]:
        """As `_of_rows`, of a convolution, some positions at a time."""
        reading, patches = self._reading, self._reading.patches
        assert patches is not None
        places = patches.positions(found[0].shape)
        due = (places[0], reading.other_size, *places[1:])
        if any(one.shape != due for one in found[1:]):
            self.why = f"{due} would leave and {found[1].shape} do on {where}"
            return
        self.positions += math.prod(places)
        alone = Patches.pointwise(len(patches.kernel))
        for part in patches.parts(self._draw.of(math.prod(places))):
            rows = [as_rows(patches.read(found[0], part), reading.size, transposed=False, masks=())]
            rows += [
                as_rows(alone.read(one, part), reading.other_size, transposed=False, masks=())
                for one in found[1:]
            ]
            yield rows

    def _take(self, x: Matrix, wanted: Matrix, now: Matrix) -> None:
        self.wanted += float(np.einsum("ij,ij->", wanted, wanted))
        wanted -= now
        self.missing += float(np.einsum("ij,ij->", wanted, wanted))
        self._total += x.sum(axis=0)
        self._gap += wanted.sum(axis=0)
        self._gram.add(x, x)
        self._cross.add(x, wanted)
