"""Cases of the family nm: weights that keep N of each 4."""

from __future__ import annotations

import numpy as np

from tools.kernel_case import Case, Timing
from tools.kernel_families import Values
from tools.kernel_operands import draw, real
from tools.kernel_sparse import Stored, case, dimensions

__all__ = ["TIMED", "TRIED", "make"]

_FULL = {"BIAS": 1, "RESIDUAL": 1}
_UPRIGHT = {"TRANSPOSED": 0}
TRIED: list[tuple[Values, Values]] = [
    ({}, dimensions(1, 1, 1)),
    ({**_FULL, "ACT": 1}, dimensions(13, 301, 7)),
    ({"WIDE": 4, "BIAS": 1}, dimensions(7, 520, 5)),
    ({"KEEP": 1, "REAL_BITS": 16, "WIDE": 4}, dimensions(70, 144, 3)),
    ({"KEEP": 1, **_FULL}, dimensions(3, 67, 1)),
    ({**_UPRIGHT, **_FULL, "ACT": 4}, dimensions(11, 46, 70)),
    ({**_UPRIGHT, "WIDE": 4, "KEEP": 1, "BIAS": 1}, dimensions(5, 131, 12)),
    ({**_UPRIGHT, "WIDE": 4, "REAL_BITS": 16}, dimensions(6, 33, 516)),
]
TIMED = [
    Timing("2:4 4096x4096, 1 column", {"WIDE": 4}, dimensions(4096, 4096, 1)),
    Timing("1:4 4096x4096, 1 column", {"WIDE": 4, "KEEP": 1}, dimensions(4096, 4096, 1)),
]


def make(values: Values, sizes: Values) -> Case:
    """A weight of normal numbers at random places of each four."""
    generator = np.random.default_rng(8)
    rows, k, keep = sizes["ROWS"], sizes["K"], values["KEEP"]
    fours = -(-k // 4)
    entries = draw(generator, (rows, fours, keep), real(values))
    places = np.argsort(generator.random((rows, fours, 4)), axis=-1)[..., :keep].astype(np.uint32)
    padded = np.zeros((rows, -(-fours * keep // 16) * 16), np.uint32)
    padded[:, : fours * keep] = places.reshape(rows, -1)
    shifts = np.arange(16, dtype=np.uint32) * np.uint32(2)
    words = (padded.reshape(rows, -1, 16) << shifts).sum(-1, dtype=np.uint32)
    columns = np.arange(fours)[:, None] * 4 + places.astype(np.int64)
    inside = columns < k
    numbers = np.broadcast_to(np.arange(rows)[:, None, None], columns.shape)
    buffers = {"entries": entries, "places": words}
    stored = Stored(buffers, numbers[inside], columns[inside], entries[inside])
    return case("nm", values, sizes, stored)
