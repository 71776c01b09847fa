"""Cases of the family quant_gemm: many rows times a weight of few bits."""

from __future__ import annotations

import numpy as np

from tools.kernel_blocks import drawn
from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values, evaluate, family
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["TIMED", "TRIED", "make"]


def _tried(m: int, n: int, k: int, block: int, **options: int) -> tuple[Values, Values]:
    """Sizes, and the options with those that the sizes allow by the descriptor's rules."""
    known, sizes = family("quant_gemm"), {"M": m, "N": n, "K": k, "BLOCK": block}
    names = {**known.defaults, **options, **sizes}
    rules: Values = known.table["from_sizes"]
    return {**{name: evaluate(str(rule), names) for name, rule in rules.items()}, **options}, sizes


def _timing(name: str, m: int, n: int, k: int, **options: int) -> Timing:
    return Timing(name, *_tried(m, n, k, 32, **options))


TRIED = [
    _tried(1, 1, 1, 8),
    _tried(17, 33, 100, 32, ZEROS=1, BIAS=1, ACT=1),
    _tried(40, 68, 96, 16, REAL_BITS=16, SCALE_BITS=16, RESIDUAL=1),
    _tried(65, 19, 77, 24, ZEROS=1, SCALE_BITS=16, ACT=2),
    _tried(33, 130, 257, 128, BITS=8, BIAS=1, RESIDUAL=1, ACT=3),
    _tried(20, 36, 52, 8, BITS=8, ZEROS=1, REAL_BITS=16, ACT=5),
    _tried(50, 21, 90, 40, BITS=8),
    _tried(19, 64, 128, 64, BITS=2, BIAS=1, ACT=4),
    _tried(70, 35, 63, 8, BITS=2, ZEROS=1, RESIDUAL=1),
    _tried(9, 70, 1100, 32, ZEROS=1, BIAS=1),
    _tried(130, 129, 64, 256, BITS=4),
]
TIMED = [
    _timing("INT4 1024x4096x4096", 1024, 4096, 4096, BITS=4),
    _timing("INT8 1024x4096x4096", 1024, 4096, 4096, BITS=8),
    _timing("2 bits 1024x4096x4096", 1024, 4096, 4096, BITS=2),
    _timing("INT4 BERT, 128x3072x768", 128, 3072, 768, BITS=4, BIAS=1, ACT=3),
    _timing("INT4 16x4096x4096", 16, 4096, 4096, BITS=4),
]


def make(values: Values, sizes: Values) -> Case:
    """Normal activations times a drawn weight."""
    m, n, k, block = (sizes[name] for name in ("M", "N", "K", "BLOCK"))
    rng, kind, split = np.random.default_rng(6), real(values), values["SPLIT"]
    form = (values["BITS"], block)
    held = drawn(rng, (n, k), form, values["SCALE_BITS"], bool(values["ZEROS"]))
    a, bias, residual = (draw(rng, shape, kind) for shape in ((m, k), (n,), (m, n)))
    buffers = {"a": a, "b": held.data, "scales": held.scales, "zeros": held.zeros}
    buffers |= {"bias": bias, "residual": residual, "y": unwritten((m, n), kind)}
    buffers["work"] = unwritten((split, m, n) if split > 1 else (1,), np.float32)
    first, second = scalars(m, n, k, block), scalars(m, n)
    launches = [Launch("quant_gemm", (*first, *buffers))]
    if split > 1:
        launches.append(Launch("quant_gemm_sum", (*second, "work", "bias", "residual", "y")))

    def expected() -> dict[str, tuple[Array, Array]]:
        wide, added = a.astype(np.float64), epilogue_terms(values, bias, residual)
        with np.errstate(all="ignore"):
            total, absolute = wide @ held.weight.T, np.abs(wide) @ np.abs(held.weight).T
        return {"y": finished(values, total, absolute, k + split + 2, added)}

    return Case(
        f"{m}x{n}x{k} of {form[0]} bits, blocks of {block}",
        "quant_gemm",
        values,
        sizes,
        buffers,
        tuple(launches),
        expected,
        2 * m * n * k,
        held.nbytes + a.nbytes + buffers["y"].nbytes * (1 + values["RESIDUAL"]),
    )
