"""Cases of the family lowrank: Y = act((X P) Q + bias + residual)."""

from __future__ import annotations

import numpy as np

from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["TIMED", "TRIED", "make"]


def _sizes(m: int, k: int, r: int, n: int) -> dict[str, int]:
    return {"M": m, "K": k, "R": r, "N": n}


_FULL = {"BIAS": 1, "RESIDUAL": 1}
TRIED: list[tuple[Values, Values]] = [
    ({}, _sizes(1, 1, 1, 1)),
    ({}, _sizes(37, 29, 11, 53)),
    ({"WIDE": 4, **_FULL}, _sizes(67, 36, 20, 132)),
    ({"REAL_BITS": 16, **_FULL, "ACT": 1}, _sizes(33, 41, 17, 65)),
    ({"REAL_BITS": 16, "WIDE": 4, "BIAS": 1, "ACT": 2}, _sizes(5, 64, 64, 72)),
    ({"ACT": 3, "BIAS": 1}, _sizes(3, 130, 96, 31)),
    ({"ACT": 4, "RESIDUAL": 1}, _sizes(65, 7, 100, 9)),
    ({"WIDE": 4, "ACT": 5}, _sizes(18, 24, 160, 140)),
    ({**_FULL, "ACT": 1}, _sizes(17, 33, 255, 40)),
]
TIMED = [
    Timing("50176x64x32x64", {"WIDE": 4, "BIAS": 1}, _sizes(50176, 64, 32, 64)),
    Timing("50176x64x16x64", {"WIDE": 4, "BIAS": 1}, _sizes(50176, 64, 16, 64)),
    Timing("4096x256x32x256", {"WIDE": 4, "BIAS": 1}, _sizes(4096, 256, 32, 256)),
    Timing("9216x256x64x256", {"WIDE": 4, "BIAS": 1}, _sizes(9216, 256, 64, 256)),
]


def make(values: Values, sizes: Values) -> Case:
    """A low-rank product of normal numbers that keeps Y near 1; R is cut to what RMAX holds."""
    m, k, n = (sizes[name] for name in ("M", "K", "N"))
    r = min(sizes["R"], values["RMAX"])
    generator, kind = np.random.default_rng(8), real(values)
    x = draw(generator, (m, k), kind)
    p = (draw(generator, (k, r), kind) / kind(k**0.5)).astype(kind)
    q = (draw(generator, (r, n), kind) / kind(r**0.5)).astype(kind)
    bias, residual = draw(generator, (n,), kind), draw(generator, (m, n), kind)

    def expected() -> dict[str, tuple[Array, Array]]:
        wide = [one.astype(np.float64) for one in (x, p, q)]
        with np.errstate(all="ignore"):
            total = wide[0] @ wide[1] @ wide[2]
            absolute = np.abs(wide[0]) @ np.abs(wide[1]) @ np.abs(wide[2])
        added = epilogue_terms(values, bias, residual)
        return {"y": finished(values, total, absolute, k + r + 1, added)}

    buffers = {"x": x, "p": p, "q": q, "bias": bias, "residual": residual}
    moved = (m * k + k * r + r * n + m * n * (1 + values["RESIDUAL"])) * x.itemsize
    return Case(
        name=f"{m}x{k}x{r}x{n}",
        family="lowrank",
        values=values,
        sizes={**sizes, "R": r},
        buffers={**buffers, "y": unwritten((m, n), kind)},
        launches=(Launch("lowrank", (*scalars(m, k, r, n), *buffers, "y")),),
        expected=expected,
        flops=2 * m * r * (k + n),
        moved=moved,
    )
