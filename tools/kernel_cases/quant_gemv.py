"""Cases of the family quant_gemv: few rows times a weight of few bits."""

from __future__ import annotations

import numpy as np

from tools.kernel_blocks import Stored, drawn, stored_plainly
from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values, evaluate, family
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["TIMED", "TRIED", "make"]


def _tried(m: int, n: int, k: int, block: int, **options: int) -> tuple[Values, Values]:
    """Sizes, and the options with those that the sizes allow by the descriptor's rules."""
    known, sizes = family("quant_gemv"), {"M": m, "N": n, "K": k, "BLOCK": block}
    names = {**known.defaults, **options, **sizes}
    rules: Values = known.table["from_sizes"]
    return {**{name: evaluate(str(rule), names) for name, rule in rules.items()}, **options}, sizes


def _timing(name: str, m: int, n: int, k: int, **options: int) -> Timing:
    return Timing(name, *_tried(m, n, k, 32, **options))


TRIED = [
    _tried(1, 1, 1, 32),
    _tried(1, 33, 97, 32, ZEROS=1, BIAS=1, ACT=1),
    _tried(2, 7, 80, 16, BITS=4, REAL_BITS=16, SCALE_BITS=16, RESIDUAL=1),
    _tried(3, 19, 130, 8, BITS=4, ZEROS=1, SCALE_BITS=16),
    _tried(5, 9, 200, 64, BITS=4, BIAS=1, RESIDUAL=1, ACT=3),
    _tried(1, 5, 1031, 128, BITS=8),
    _tried(9, 11, 75, 24, BITS=8, ZEROS=1, REAL_BITS=16, ACT=2),
    _tried(4, 6, 41, 8, BITS=8, BIAS=1, ACT=5),
    _tried(1, 35, 300, 32, BITS=2, ZEROS=1),
    _tried(6, 13, 60, 8, BITS=2, RESIDUAL=1, ACT=4),
    _tried(8, 18, 513, 256, BITS=2, ZEROS=1, SCALE_BITS=16),
    _tried(1, 37, 96, 1, BITS=16, BIAS=1),
    _tried(3, 8, 77, 1, BITS=16, REAL_BITS=16),
    _tried(7, 10, 34, 1, BITS=16, RESIDUAL=1),
    _tried(2, 21, 100, 1, BITS=32, ACT=1),
    _tried(1, 4, 51, 1, BITS=32, BIAS=1),
    _tried(1, 2, 4100, 32, BITS=4),
    _tried(1, 40, 64, 32, BITS=4, PIECE=8, PER_BLOCK=4, ALIGNED=0),
]
TIMED = [
    _timing("INT4 4096 squared", 1, 4096, 4096, BITS=4),
    _timing("INT8 4096 squared", 1, 4096, 4096, BITS=8),
    _timing("2 bits 4096 squared", 1, 4096, 4096, BITS=2),
    _timing("fp16 4096 squared", 1, 4096, 4096, BITS=16),
    _timing("INT4 4096 squared, zeros", 1, 4096, 4096, BITS=4, ZEROS=1),
    _timing("INT4 4096 squared, halves", 1, 4096, 4096, BITS=4, REAL_BITS=16, SCALE_BITS=16),
    _timing("INT4 4096 squared, 4 rows", 4, 4096, 4096, BITS=4),
    _timing("INT4 4096 squared, 8 rows", 8, 4096, 4096, BITS=4),
    _timing("INT4 512x4096", 1, 512, 4096, BITS=4),
]


def make(values: Values, sizes: Values) -> Case:
    """Normal activations times a drawn weight."""
    m, n, k, block = (sizes[name] for name in ("M", "N", "K", "BLOCK"))
    rng, kind, split = np.random.default_rng(5), real(values), values["SPLIT"]
    bits = values["BITS"]
    if bits > 8:
        held = stored_plainly(rng, (n, k), bits)
    else:
        held = drawn(rng, (n, k), (bits, block), values["SCALE_BITS"], bool(values["ZEROS"]))
    a, bias, residual = (draw(rng, shape, kind) for shape in ((m, k), (n,), (m, n)))
    buffers = {"a": a, "b": held.data, "scales": _scales(held, values), "zeros": held.zeros}
    buffers |= {"bias": bias, "residual": residual, "y": unwritten((m, n), kind)}
    buffers["partial"] = unwritten((split, m, n) if split > 1 else (1,), np.float32)
    first, second = scalars(m, n, k, block), scalars(m, n)
    launches = [Launch("quant_gemv", (*first, *buffers))]
    if split > 1:
        launches.append(Launch("quant_gemv_sum", (*second, "partial", "bias", "residual", "y")))

    def expected() -> dict[str, tuple[Array, Array]]:
        wide, added = a.astype(np.float64), epilogue_terms(values, bias, residual)
        with np.errstate(all="ignore"):
            total, absolute = wide @ held.weight.T, np.abs(wide) @ np.abs(held.weight).T
        return {"y": finished(values, total, absolute, _roundings(values, k), added)}

    return Case(
        f"{m}x{n}x{k} of {bits} bits, blocks of {block}",
        "quant_gemv",
        values,
        sizes,
        buffers,
        tuple(launches),
        expected,
        2 * m * n * k,
        held.nbytes + a.nbytes + buffers["y"].nbytes * (1 + values["RESIDUAL"]),
    )


def _scales(held: Stored, values: Values) -> Array:
    if values["BITS"] <= 8:
        return held.scales
    return held.scales.astype(np.float16 if values["SCALE_BITS"] == 16 else np.float32)


def _roundings(values: Values, k: int) -> int:
    """The header's n: a lane's pieces, the sums over lanes and splits."""
    steps = -(-k // (values["LANES"] * values["PIECE"])) + values["STEPS"]
    in_lane = values["PIECE"] + steps if values["BITS"] <= 8 else values["PIECE"] * steps
    return in_lane + values["LANES"] + values["SPLIT"] + 4
