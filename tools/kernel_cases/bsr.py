"""Cases of the family bsr: weights in blocks."""

from __future__ import annotations

import numpy as np

from tools.kernel_case import Case, Timing
from tools.kernel_families import Values
from tools.kernel_operands import draw, real
from tools.kernel_sparse import Stored, case, compressed, dimensions

__all__ = ["TIMED", "TRIED", "make"]

_FULL = {"BIAS": 1, "RESIDUAL": 1}
_FLIPPED = {"TRANSPOSED": 1}


def _block(height: int, width: int) -> dict[str, int]:
    return {"BH": height, "BW": width}


TRIED: list[tuple[Values, Values]] = [
    ({}, dimensions(1, 1, 1)),
    ({**_FULL, "ACT": 1}, dimensions(13, 37, 71)),
    ({"WIDE": 4, "BIAS": 1, **_block(16, 16)}, dimensions(70, 85, 68)),
    ({"REAL_BITS": 16, **_FULL, **_block(8, 8)}, dimensions(33, 40, 19)),
    ({**_block(32, 1)}, dimensions(65, 9, 5)),
    ({**_FLIPPED, **_FULL, "ACT": 5, **_block(8, 4)}, dimensions(37, 45, 7)),
    ({**_FLIPPED, "WIDE": 4, "BIAS": 1, **_block(16, 16)}, dimensions(50, 100, 40)),
    ({**_FLIPPED, "REAL_BITS": 16, "RESIDUAL": 1, **_block(4, 8)}, dimensions(19, 300, 1)),
    ({**_FLIPPED, **_block(1, 2)}, dimensions(11, 21, 66)),
]
TIMED = [
    Timing(
        "16x16, 75% zeros 768x768, 3136 columns",
        {"WIDE": 4, **_block(16, 16)},
        dimensions(768, 768, 3136),
    ),
    Timing(
        "16x16, 75% zeros 768x768, 512 rows of X",
        {**_FLIPPED, "WIDE": 4, **_block(16, 16)},
        dimensions(768, 768, 512),
    ),
]


def make(values: Values, sizes: Values) -> Case:
    """A weight with a quarter of its blocks; every third row of blocks has none."""
    generator = np.random.default_rng(8)
    height, width = values["BH"], values["BW"]
    bands, across = -(-sizes["ROWS"] // height), -(-sizes["K"] // width)
    mask = generator.random((bands, across)) < max(0.25, 1.5 / across)
    mask[1::3] = False
    rows, columns = (one.astype(np.int32) for one in np.nonzero(mask))
    many = len(rows)
    entries = draw(generator, (max(1, many), height, width), real(values))
    indices = np.zeros(len(entries), np.int32)
    indices[:many] = columns
    at = np.broadcast_arrays(
        rows[:, None, None] * height + np.arange(height)[:, None],
        columns[:, None, None] * width + np.arange(width),
    )
    inside = (at[0] < sizes["ROWS"]) & (at[1] < sizes["K"])
    buffers = {"starts": compressed(rows, bands), "indices": indices, "entries": entries}
    stored = Stored(buffers, at[0][inside], at[1][inside], entries[:many][inside])
    return case("bsr", values, sizes, stored)
