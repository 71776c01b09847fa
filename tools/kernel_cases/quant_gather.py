"""Cases of the family quant_gather: look-ups in an embedding of few bits."""

from __future__ import annotations

import numpy as np

from tools.kernel_blocks import drawn
from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values, evaluate, family
from tools.kernel_operands import real, unwritten
from tools.kernel_reference import UNIT, rounded

__all__ = ["TIMED", "TRIED", "make"]

UNTOUCHED = np.iinfo(np.int32).max


def _tried(
    count: int, rows: int, columns: int, block: int, **options: int
) -> tuple[Values, Values]:
    """Sizes, and the options with those that the sizes allow by the descriptor's rules."""
    known = family("quant_gather")
    sizes = {"COUNT": count, "ROWS": rows, "COLUMNS": columns, "BLOCK": block}
    names = {**known.defaults, **options, **sizes}
    rules: Values = known.table["from_sizes"]
    return {**{name: evaluate(str(rule), names) for name, rule in rules.items()}, **options}, sizes


TRIED = [
    _tried(1, 1, 1, 8),
    _tried(9, 50, 384, 32, ZEROS=1),
    _tried(17, 11, 77, 16, INDEX_BITS=32, REAL_BITS=16, SCALE_BITS=16),
    _tried(5, 30, 250, 64, BITS=8, ZEROS=1, INDEX_BITS=32),
    _tried(33, 7, 41, 24, BITS=8, SCALE_BITS=16),
    _tried(8, 20, 520, 128, BITS=2, ZEROS=1, REAL_BITS=16),
    _tried(12, 9, 35, 8, BITS=2, INDEX_BITS=32),
]
TIMED = [Timing("MiniLM, 128 words", *_tried(128, 30522, 384, 32))]


def make(values: Values, sizes: Values) -> Case:
    """Drawn rows by drawn indices; every third counts from the end, one in 16 lies outside."""
    count, rows, columns, block = (sizes[name] for name in ("COUNT", "ROWS", "COLUMNS", "BLOCK"))
    rng, bits = np.random.default_rng(7), values["BITS"]
    held = drawn(rng, (rows, columns), (bits, block), values["SCALE_BITS"], bool(values["ZEROS"]))
    indices = rng.integers(0, rows, count)
    indices[::3] -= rows
    bad = np.flatnonzero(np.arange(count) % 16 == 8)
    indices[bad] = np.where(bad % 32 == 8, rows, -rows - 1)
    buffers = {
        "data": held.data,
        "indices": indices.astype(np.int32 if values["INDEX_BITS"] == 32 else np.int64),
        "scales": held.scales,
        "zeros": held.zeros,
        "y": unwritten((count, columns), real(values)),
        "fault": np.full(1, UNTOUCHED, np.int32),
    }

    def expected() -> dict[str, tuple[Array, Array | float]]:
        value = held.weight[np.clip(indices, -rows, rows - 1)]
        bound = rounded(values, value, UNIT * np.abs(value)) + 2.0**-126
        value[bad] = np.nan
        place = bad[0] if bad.size else UNTOUCHED
        return {"y": (value, bound), "fault": (np.full(1, float(place)), 0.0)}

    first = [np.int32(one) for one in (count, rows, columns, block)]
    read = count * (held.nbytes // rows)
    return Case(
        f"{count} of {rows}x{columns}, {bits} bits, blocks of {block}",
        "quant_gather",
        values,
        sizes,
        buffers,
        (Launch("quant_gather", (*first, *buffers)),),
        expected,
        count * columns,
        read + buffers["y"].nbytes + buffers["indices"].nbytes,
    )
