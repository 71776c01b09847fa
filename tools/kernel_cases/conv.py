"""Cases of the family conv: 2D convolution, plain and quantized weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.kernel_case import Array, Case, Launch, Timing
from tools.kernel_families import Values, family
from tools.kernel_operands import draw, epilogue_terms, finished, real, scalars, unwritten

__all__ = ["TIMED", "TRIED", "convolved", "make", "shape_of"]


def shape_of(
    x: tuple[int, int, int, int],
    cout: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    group: int = 1,
    block: int = 32,
) -> dict[str, int]:
    """The sizes of a convolution.

    Args:
        x: batch, channels, height, width.
        cout: output channels.
        kernel: height, width.
        stride: of both axes.
        pads: top, left, bottom, right.
        dilation: of both axes.
        group: groups of channels.
        block: integers that share a scale.
    """
    (batch, cin, h, w), (kh, kw), (sh, sw), (dh, dw) = x, kernel, stride, dilation
    oh = (h + pads[0] + pads[2] - dh * (kh - 1) - 1) // sh + 1
    ow = (w + pads[1] + pads[3] - dw * (kw - 1) - 1) // sw + 1
    return {
        "BATCH": batch, "CIN": cin, "COUT": cout, "H": h, "W": w, "OH": oh, "OW": ow,
        "KH": kh, "KW": kw, "SH": sh, "SW": sw, "PT": pads[0], "PL": pads[1],
        "DH": dh, "DW": dw, "GROUP": group, "BLOCK": block,
    }  # fmt: skip


_FULL = {"BIAS": 1, "RESIDUAL": 1}
_ODD = shape_of(
    (2, 6, 9, 11), 10, (3, 2), stride=(2, 1), pads=(1, 0, 2, 1), dilation=(1, 2), group=2, block=8
)
_SMALL = shape_of((1, 64, 7, 7), 32, (3, 3), pads=(1, 1, 1, 1))
_LINE = shape_of((3, 5, 1, 50), 9, (1, 7), stride=(1, 3), pads=(0, 3, 0, 2))
_POINT = {"POINTWISE": 1}
TRIED: list[tuple[Values, Values]] = [
    ({}, shape_of((1, 1, 1, 1), 1, (1, 1))),
    (_FULL, _ODD),
    ({"ACT": 1, "WIDE_K": 4}, _SMALL),
    ({"REAL_BITS": 16, "WEIGHT_BITS": 16, "BIAS": 1, "ACT": 3}, _LINE),
    ({"BIAS": 1, "WIDE": 4, "ACT": 4}, shape_of((2, 3, 9, 9), 35, (2, 2))),
    ({**_POINT, **_FULL, "ACT": 2}, shape_of((3, 21, 5, 7), 18, (1, 1), group=3)),
    ({**_POINT, "WIDE": 4, "WIDE_K": 4}, shape_of((2, 36, 6, 10), 65, (1, 1))),
    ({"WEIGHT_BITS": 8, **_FULL}, _ODD),
    ({"WEIGHT_BITS": 4, "ZEROS": 1, "BIAS": 1}, shape_of((1, 13, 6, 7), 33, (3, 3), block=16)),
    ({"WEIGHT_BITS": 2, "ZEROS": 1, "REAL_BITS": 16}, _SMALL),
    ({**_POINT, "WEIGHT_BITS": 4, "WIDE": 4}, shape_of((1, 75, 4, 6), 17, (1, 1), block=24)),
]
TIMED = [
    Timing(
        "resnet 56x56x64 3x3",
        {"WIDE": 4, "WIDE_K": 4, "BIAS": 1, "ACT": 1},
        shape_of((1, 64, 56, 56), 64, (3, 3), pads=(1, 1, 1, 1)),
    ),
    Timing(
        "resnet 14x14x256 3x3",
        {"WIDE": 4, "WIDE_K": 4, "BIAS": 1, "ACT": 1},
        shape_of((1, 256, 14, 14), 256, (3, 3), pads=(1, 1, 1, 1)),
    ),
    Timing(
        "resnet 7x7x512 3x3",
        {"WIDE_K": 4, "BIAS": 1, "ACT": 1},
        shape_of((1, 512, 7, 7), 512, (3, 3), pads=(1, 1, 1, 1)),
    ),
    Timing(
        "resnet 28x28x512 1x1",
        {"POINTWISE": 1, "WIDE": 4, "WIDE_K": 4, "BIAS": 1},
        shape_of((1, 512, 28, 28), 128, (1, 1)),
    ),
    Timing(
        "int4 14x14x256 3x3",
        {"WEIGHT_BITS": 4, "WIDE": 4, "BIAS": 1},
        shape_of((1, 256, 14, 14), 256, (3, 3), pads=(1, 1, 1, 1)),
    ),
]


def convolved(x: Array, weight: Array, sizes: Values) -> Array:
    """The convolution in the type of `x`: x (B,C,H,W), weight (Cout,C/group,KH,KW), all groups."""
    g, oh, ow, sh, sw = (sizes[name] for name in ("GROUP", "OH", "OW", "SH", "SW"))
    pt, pl, dh, dw = (sizes[name] for name in ("PT", "PL", "DH", "DW"))
    batch, cin, h, w = x.shape
    kh, kw = weight.shape[2:]
    below = max(0, (oh - 1) * sh + (kh - 1) * dh + 1 - h - pt)
    right = max(0, (ow - 1) * sw + (kw - 1) * dw + 1 - w - pl)
    padded = np.pad(x, ((0, 0), (0, 0), (pt, below), (pl, right)))
    parted = padded.reshape(batch, g, cin // g, *padded.shape[2:])
    grouped = weight.reshape(g, -1, *weight.shape[1:])
    total = np.zeros((batch, g, grouped.shape[1], oh, ow), x.dtype)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
            total += np.einsum("bgchw,gmc->bgmhw", parted[..., rows, columns], grouped[..., i, j])
    return total.reshape(batch, -1, oh, ow)


def _quantized(
    generator: np.random.Generator, values: Values, rows: int, k: int, block: int
) -> tuple[Array, dict[str, Array]]:
    """The weight (rows, k) in float64, and the buffers that hold it."""
    bits = values["WEIGHT_BITS"]
    blocks = -(-k // block)
    integers = generator.integers(0, 2**bits, (rows, k), dtype=np.uint8)
    zeros = generator.integers(0, 2**bits, (rows, blocks), dtype=np.uint8)
    if not values["ZEROS"]:
        zeros[:] = 2 ** (bits - 1)
    scales = (generator.uniform(0.5, 1.5, (rows, blocks)) / 2**bits).astype(real(values))
    filled = np.full((rows, blocks * block), 2 ** (bits - 1), np.uint8)
    filled[:, :k] = integers
    held = _packed(filled, bits)
    at = np.arange(k) // block
    weight = (integers.astype(np.float64) - zeros[:, at]) * scales[:, at].astype(np.float64)
    return weight, {"weight": held, "scales": scales, "zeros": _packed(zeros, bits)}


def _packed(integers: Array, bits: int) -> Array:
    """Bytes of rows of integers, the first in the lowest bits."""
    each = 8 // bits
    rows, count = integers.shape
    filled = np.zeros((rows, -(-count // each) * each), np.uint8)
    filled[:, :count] = integers
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    return np.asarray((filled.reshape(rows, -1, each) << shifts).sum(-1, dtype=np.uint8))


def _weights(
    generator: np.random.Generator, values: Values, sizes: Values
) -> tuple[Array, dict[str, Array]]:
    rows, c = sizes["COUT"], sizes["CIN"] // sizes["GROUP"]
    k = c * sizes["KH"] * sizes["KW"]
    if values["WEIGHT_BITS"] < 16:
        weight, held = _quantized(generator, values, rows, k, sizes["BLOCK"])
    else:
        kind = np.float32 if values["WEIGHT_BITS"] == 32 else np.float16
        plain = (draw(generator, (rows, k), kind) / kind(k**0.5)).astype(kind)
        nothing: dict[str, Any] = {"scales": np.zeros(1, real(values)), "zeros": np.zeros(1, "u1")}
        weight, held = plain.astype(np.float64), {"weight": plain, **nothing}
    return weight.reshape(rows, c, sizes["KH"], sizes["KW"]), held


def make(values: Values, sizes: Values) -> Case:
    """A convolution of normal numbers with weights that keep Y near 1."""
    names = family("conv").table["sizes"]
    shape = tuple(sizes[name] for name in ("BATCH", "COUT", "OH", "OW"))
    generator, kind = np.random.default_rng(8), real(values)
    weight, held = _weights(generator, values, sizes)
    x = draw(generator, tuple(sizes[name] for name in ("BATCH", "CIN", "H", "W")), kind)
    bias, residual = draw(generator, (shape[1],), kind), draw(generator, shape, kind)
    k = weight[0].size

    def expected() -> dict[str, tuple[Array, Array]]:
        wide = x.astype(np.float64)
        with np.errstate(all="ignore"):
            total = convolved(wide, weight, sizes)
            absolute = convolved(np.abs(wide), np.abs(weight), sizes)
        added = epilogue_terms(values, bias[:, None, None], residual)
        # K products and sums, SPLIT sums, and 1 for a weight from its integer
        return {"y": finished(values, total, absolute, k + values["SPLIT"] + 1, added)}

    split = values["SPLIT"] > 1
    inputs = {"x": x, "table": np.full((-(-k // 32) * 32, 4), 0x7F7F7F7F, np.int32), **held}
    buffers = {**inputs, "bias": bias, "residual": residual, "y": unwritten(shape, kind)}
    buffers["work"] = unwritten((values["SPLIT"], *shape) if split else (1,), np.float32)
    first = scalars(*(sizes[name] for name in names))
    launches = [
        Launch("conv_table", (*first[:-2], "table")),
        Launch("conv", (*first, *buffers)),
        Launch("conv_sum", (*first, "work", "bias", "residual", "y")),
    ]
    y = int(np.prod(shape))
    bits = x.size * 8 * x.itemsize + 8 * held["weight"].nbytes
    return Case(
        name="x".join(str(sizes[name]) for name in ("BATCH", "CIN", "H", "W", "COUT", "KH", "KW")),
        family="conv",
        values=values,
        sizes=sizes,
        buffers=buffers,
        launches=tuple(launches[values["POINTWISE"] : 2 + split]),
        expected=expected,
        flops=2 * y * k,
        moved=bits // 8 + y * x.itemsize * (1 + values["RESIDUAL"]),
    )
