"""What the cases of sparse weights share: operands, launch, and the exact product."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import sparse

from tools.kernel_case import Array, Case, Launch
from tools.kernel_families import Values
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["Stored", "case", "compressed", "dimensions"]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A sparse weight.

    Args:
        buffers: as the kernel takes them, in order.
        rows: of each stored entry.
        columns: of each stored entry.
        entries: their values.
    """

    buffers: Mapping[str, Array]
    rows: Array
    columns: Array
    entries: Array


def dimensions(rows: int, k: int, columns: int) -> dict[str, int]:
    """The sizes of a product of W (rows, k) with `columns` dense columns."""
    return {"ROWS": rows, "K": k, "COLUMNS": columns}


def compressed(rows: Array, count: int) -> Array:
    """Where each of `count` rows starts in sorted `rows`, and their end: int32 (count + 1)."""
    return np.searchsorted(rows, np.arange(count + 1)).astype(np.int32)


def case(family: str, values: Values, sizes: Values, weight: Stored) -> Case:
    """The product of `weight` and normal numbers."""
    rows, k, columns = (sizes[name] for name in ("ROWS", "K", "COLUMNS"))
    flipped = bool(values["TRANSPOSED"])
    kind, generator = real(values), np.random.default_rng(9)
    x = draw(generator, (columns, k) if flipped else (k, columns), kind)
    shape = (columns, rows) if flipped else (rows, columns)
    bias, residual = draw(generator, (rows,), kind), draw(generator, shape, kind)

    def expected() -> dict[str, tuple[Array, Array]]:
        # only stored entries are multiplied, as scipy does
        wide = x.astype(np.float64).T if flipped else x.astype(np.float64)
        place = (weight.rows, weight.columns)
        exact = sparse.csr_array((weight.entries.astype(np.float64), place), shape=(rows, k))
        with np.errstate(all="ignore"):
            total, absolute = exact @ wide, abs(exact) @ np.abs(wide)
        if flipped:
            total, absolute = total.T, absolute.T
        added = epilogue_terms(values, bias if flipped else bias[:, None], residual)
        longest = int(np.bincount(weight.rows, minlength=1).max(initial=0))
        return {"y": finished(values, total, absolute, longest + 1, added)}

    buffers = {"x": x, **weight.buffers, "bias": bias, "residual": residual}
    moved = x.nbytes + sum(one.nbytes for one in weight.buffers.values())
    return Case(
        name=f"{rows}x{k}x{columns}",
        family=family,
        values=values,
        sizes=sizes,
        buffers={**buffers, "y": unwritten(shape, kind)},
        launches=(Launch(family, (*scalars(rows, k, columns), *buffers, "y")),),
        expected=expected,
        flops=2 * len(weight.rows) * columns,
        moved=moved + rows * columns * x.itemsize * (1 + values["RESIDUAL"]),
    )
