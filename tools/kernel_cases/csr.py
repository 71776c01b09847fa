"""Cases of the family csr: weights in compressed sparse rows."""

from __future__ import annotations

import numpy as np

from tools.kernel_case import Case, Timing
from tools.kernel_families import Values
from tools.kernel_operands import draw, real
from tools.kernel_sparse import Stored, case, compressed, dimensions

__all__ = ["TIMED", "TRIED", "make"]

_FULL = {"BIAS": 1, "RESIDUAL": 1}
_FLIPPED = {"TRANSPOSED": 1}
TRIED: list[tuple[Values, Values]] = [
    ({}, dimensions(1, 1, 1)),
    ({**_FULL, "ACT": 1}, dimensions(13, 37, 71)),
    ({"WIDE": 4, "BIAS": 1}, dimensions(7, 50, 260)),
    ({"WIDE": 4, "REAL_BITS": 16, **_FULL}, dimensions(5, 33, 12)),
    ({**_FLIPPED, **_FULL, "ACT": 3}, dimensions(37, 45, 7)),
    ({**_FLIPPED, "REAL_BITS": 16, "BIAS": 1}, dimensions(19, 300, 1)),
]
TIMED = [
    Timing("90% zeros 768x768, 3136 columns", {"WIDE": 4}, dimensions(768, 768, 3136)),
    Timing("90% zeros 4096x4096, 1 column", _FLIPPED, dimensions(4096, 4096, 1)),
]


def make(values: Values, sizes: Values) -> Case:
    """A weight of 10% entries, of which every third row has none, times normal numbers."""
    generator = np.random.default_rng(8)
    mask = generator.random((sizes["ROWS"], sizes["K"])) < max(0.1, 1.5 / sizes["K"])
    mask[1::3] = False
    rows, columns = (one.astype(np.int32) for one in np.nonzero(mask))
    entries = draw(generator, (max(1, len(rows)),), real(values))  # a buffer has at least a byte
    indices = np.zeros(len(entries), np.int32)
    indices[: len(rows)] = columns
    buffers = {"starts": compressed(rows, sizes["ROWS"]), "indices": indices, "entries": entries}
    stored = Stored(buffers, rows, columns, entries[: len(rows)])
    return case("csr", values, sizes, stored)
