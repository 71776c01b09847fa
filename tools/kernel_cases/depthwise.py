"""Cases of the family depthwise: convolutions of single channels."""

from __future__ import annotations

import numpy as np

from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_cases.conv import convolved, shape_of
from tools.kernel_families import Values, family
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["TIMED", "TRIED", "make"]


def _sizes(
    x: tuple[int, int, int, int],
    multiplier: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> dict[str, int]:
    found = shape_of(
        x, x[1] * multiplier, kernel, stride=stride, pads=pads, dilation=dilation, group=x[1]
    )
    dropped = ("COUT", "GROUP", "BLOCK")
    return {name: one for name, one in found.items() if name not in dropped} | {"MULT": multiplier}


_FULL = {"BIAS": 1, "RESIDUAL": 1}
_SAME = {3: (1, 1, 1, 1), 5: (2, 2, 2, 2), 7: (3, 3, 3, 3)}
TRIED: list[tuple[Values, Values]] = [
    ({}, _sizes((1, 1, 1, 1), 1, (1, 1))),
    (
        _FULL,
        _sizes((2, 3, 9, 7), 2, (2, 3), stride=(2, 1), pads=(1, 2, 0, 1), dilation=(1, 2)),
    ),
    ({"ACT": 3, "REAL_BITS": 16}, _sizes((3, 5, 1, 40), 1, (1, 9), pads=(0, 4, 0, 4))),
    ({"KSIZE": 3, **_FULL, "ACT": 1}, _sizes((2, 5, 7, 9), 1, (3, 3), pads=_SAME[3])),
    ({"KSIZE": 3, "STRIDE": 2, "BIAS": 1, "ACT": 2},
     _sizes((1, 3, 67, 65), 1, (3, 3), stride=(2, 2), pads=(0, 0, 1, 1))),
    ({"KSIZE": 5, "REAL_BITS": 16}, _sizes((1, 4, 11, 6), 3, (5, 5), pads=(2, 1, 2, 2))),
    ({"KSIZE": 5, "STRIDE": 2, "ACT": 5},
     _sizes((1, 2, 15, 14), 1, (5, 5), stride=(2, 2), pads=_SAME[5])),
    ({"KSIZE": 7, "ACT": 4, "BIAS": 1}, _sizes((1, 2, 8, 12), 1, (7, 7), pads=_SAME[7])),
    ({"KSIZE": 3, "WIDE": 4, "BIAS": 1}, _sizes((1, 3, 35, 36), 1, (3, 3), pads=_SAME[3])),
    ({"KSIZE": 3, "WIDE": 2, **_FULL}, _sizes((2, 3, 5, 14), 2, (3, 3), pads=_SAME[3])),
    ({"KSIZE": 5, "WIDE": 4, "REAL_BITS": 16}, _sizes((1, 2, 9, 4), 1, (5, 5), pads=_SAME[5])),
    ({"KSIZE": 7, "WIDE": 2, "RESIDUAL": 1}, _sizes((1, 1, 9, 6), 1, (7, 7), pads=_SAME[7])),
]  # fmt: skip
TIMED = [
    Timing(
        "mobilenet 56x56x128 3x3",
        {"KSIZE": 3, "WIDE": 4, "BIAS": 1, "ACT": 2},
        _sizes((1, 128, 56, 56), 1, (3, 3), pads=_SAME[3]),
    ),
    Timing(
        "mobilenet 14x14x512 3x3",
        {"KSIZE": 3, "WIDE": 2, "BIAS": 1, "ACT": 2},
        _sizes((1, 512, 14, 14), 1, (3, 3), pads=_SAME[3]),
    ),
    Timing(
        "mobilenet 112x112x64 3x3 stride 2",
        {"KSIZE": 3, "STRIDE": 2, "BIAS": 1, "ACT": 2},
        _sizes((1, 64, 112, 112), 1, (3, 3), stride=(2, 2), pads=(0, 0, 1, 1)),
    ),
    Timing(
        "convnext 56x56x96 7x7",
        {"KSIZE": 7, "WIDE": 4, "BIAS": 1},
        _sizes((1, 96, 56, 56), 1, (7, 7), pads=_SAME[7]),
    ),
]


def make(values: Values, sizes: Values) -> Case:
    """A depthwise convolution of normal numbers with weights that keep Y near 1."""
    names = family("depthwise").table["sizes"]
    channels = sizes["CIN"] * sizes["MULT"]
    shape = (sizes["BATCH"], channels, sizes["OH"], sizes["OW"])
    taps = sizes["KH"] * sizes["KW"]
    generator, kind = np.random.default_rng(8), real(values)
    x = draw(generator, tuple(sizes[name] for name in ("BATCH", "CIN", "H", "W")), kind)
    weight = draw(generator, (channels, 1, sizes["KH"], sizes["KW"]), kind)
    weight = (weight / kind(taps**0.5)).astype(kind)
    bias, residual = draw(generator, (channels,), kind), draw(generator, shape, kind)

    def expected() -> dict[str, tuple[Array, Array]]:
        wide, held = x.astype(np.float64), weight.astype(np.float64)
        grouped = {**sizes, "GROUP": sizes["CIN"]}
        with np.errstate(all="ignore"):
            total = convolved(wide, held, grouped)
            absolute = convolved(np.abs(wide), np.abs(held), grouped)
        added = epilogue_terms(values, bias[:, None, None], residual)
        return {"y": finished(values, total, absolute, taps, added)}

    inputs = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    y = int(np.prod(shape))
    return Case(
        name="x".join(str(sizes[name]) for name in ("BATCH", "CIN", "H", "W", "MULT", "KH", "KW")),
        family="depthwise",
        values=values,
        sizes=sizes,
        buffers={**inputs, "y": unwritten(shape, kind)},
        launches=(Launch("depthwise", (*scalars(*(sizes[n] for n in names)), *inputs, "y")),),
        expected=expected,
        flops=2 * y * taps,
        moved=(x.size + weight.size + y * (1 + values["RESIDUAL"])) * x.itemsize,
    )
