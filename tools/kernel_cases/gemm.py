"""Cases of the family gemm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values, evaluate, family
from tools.kernel_reference import activation, half_or_float, sum_bound

__all__ = ["TIMED", "TRIED", "make"]

CLIP = (-0.75, 0.5)


def _tried(m: int, n: int, k: int, batch: int = 1, **options: int) -> tuple[Values, Values]:
    sizes = {"M": m, "N": n, "K": k, "BATCH": batch}
    return _fitting(options, sizes), sizes


def _fitting(options: Values, sizes: Values) -> dict[str, int]:
    """`options` and those that the sizes allow, by the descriptor's rules."""
    known = family("gemm")
    names = {**known.defaults, **options, **sizes}
    rules: Mapping[str, str] = known.table["from_sizes"]
    return {**{name: evaluate(rule, names) for name, rule in rules.items()}, **options}


TRIED = [
    _tried(1, 1, 1),
    _tried(7, 5, 3, TA=1, BIAS=1, ACT=1),
    _tried(33, 17, 20, TB=1, RESIDUAL=1, ACT=2),
    _tried(67, 129, 33, 2, TA=1, TB=1, BIAS=1, RESIDUAL=1, ACT=3),
    _tried(20, 36, 64, 3, ACT=4, REAL_BITS=16),
    _tried(36, 20, 24, TA=1, ACT=5, REAL_BITS=16, BIAS=1),
    _tried(12, 68, 52, TB=1, ACT=1, RESIDUAL=1),
    _tried(64, 64, 32, 2, TA=1, TB=1),
    _tried(5, 31, 1031, REAL_BITS=16, TB=1, BIAS=1, ACT=1),
    _tried(49, 64, 1056, BIAS=1, RESIDUAL=1, ACT=3),
    _tried(64, 64, 32, VEC=1, EDGE=1),
    _tried(9, 20, 100, SPLIT=4, BIAS=1, ACT=1),
]
TIMED = [
    Timing("1024 cubed", *_tried(1024, 1024, 1024)),
    Timing("2048 cubed", *_tried(2048, 2048, 2048)),
    Timing("2048 cubed, halves", *_tried(2048, 2048, 2048, REAL_BITS=16)),
    Timing("2048 cubed, B transposed", *_tried(2048, 2048, 2048, TB=1)),
    Timing("BERT, 128x3072x768", *_tried(128, 3072, 768, BIAS=1, ACT=3)),
    Timing("ResNet, 49x512x4608", *_tried(49, 512, 4608, BIAS=1, ACT=1)),
    Timing("ResNet, 196x256x2304", *_tried(196, 256, 2304, BIAS=1, ACT=1)),
    Timing("tiny, 32x64x64", *_tried(32, 64, 64)),
    # the two products that a launch of lowrank stands for
    Timing("pair 50176x64x32x64, first", *_tried(50176, 32, 64)),
    Timing("pair 50176x64x32x64, second", *_tried(50176, 64, 32, BIAS=1)),
    Timing("pair 50176x64x16x64, first", *_tried(50176, 16, 64)),
    Timing("pair 50176x64x16x64, second", *_tried(50176, 64, 16, BIAS=1)),
    Timing("pair 4096x256x32x256, first", *_tried(4096, 32, 256)),
    Timing("pair 4096x256x32x256, second", *_tried(4096, 256, 32, BIAS=1)),
]


def make(values: Values, sizes: Values) -> Case:
    """The case: random A and B, the second A shared by the batch where there is one."""
    m, n, k, batch = (sizes[name] for name in ("M", "N", "K", "BATCH"))
    rng = np.random.default_rng(0)
    real = half_or_float(values)

    def drawn(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32).astype(real)

    a = drawn(1, *((k, m) if values["TA"] else (m, k)))
    b = drawn(batch, *((n, k) if values["TB"] else (k, n)))
    bias, residual = drawn(n), drawn(batch, m, n)
    split = values["SPLIT"]
    parts = (split, batch, m, n) if split > 1 else (1,)
    buffers = {"A": a, "B": b, "bias": bias, "residual": residual}
    buffers["Y"] = np.full((batch, m, n), np.nan, real)
    buffers["work"] = np.full(parts, np.nan, np.float32)

    def expected() -> dict[str, tuple[Array, Array | float]]:
        return {"Y": _expected(values, a, b, bias, residual)}

    moved = a.nbytes + b.nbytes + buffers["Y"].nbytes
    return Case(
        f"{m}x{n}x{k}x{batch}",
        "gemm",
        values,
        sizes,
        buffers,
        tuple(_launches(split, sizes, b.size // batch)),
        expected,
        2 * m * n * k * batch,
        moved + values["BIAS"] * bias.nbytes + values["RESIDUAL"] * residual.nbytes,
    )


def _launches(split: int, sizes: Values, stride: int) -> list[Launch]:
    m, n, k, batch = (np.int32(sizes[name]) for name in ("M", "N", "K", "BATCH"))
    limits = [np.float32(one) for one in CLIP]
    strides = (np.int64(0), np.int64(stride))
    inputs = ("A", "B", "bias", "residual", "Y", "work")
    launches = [Launch("gemm", (m, n, k, batch, *strides, *limits, *inputs))]
    if split > 1:
        given = (m, n, batch, *limits, "work", "bias", "residual", "Y")
        launches.append(Launch("gemm_sum", given))
    return launches


def _expected(
    values: Values, a: Array, b: Array, bias: Array, residual: Array
) -> tuple[Array, Array]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    x = x.swapaxes(1, 2) if values["TA"] else x
    y = y.swapaxes(1, 2) if values["TB"] else y
    total, size = x @ y, np.abs(x) @ np.abs(y)
    for name, array in (("BIAS", bias), ("RESIDUAL", residual)):
        if values[name]:
            total, size = total + array, size + np.abs(array)
    error = sum_bound(x.shape[2] + values["SPLIT"] + 3) * size
    return activation(values, total, error, *CLIP)
