"""Vector instructions of GCN 3 that compute each lane by itself, as functions of numpy arrays.

Source: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016. Where
the card flushes denormal floats to zero, numpy keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tools.isa_scalar import field, reverse
from tools.isa_state import Array

__all__ = ["TABLE"]

_1, _31, _63 = np.uint32(1), np.uint32(31), np.uint64(63)
_24 = np.uint32(0xFFFFFF)
_16 = np.uint32(0xFFFF)


def _fma(a: Array, b: Array, c: Array) -> Array:
    """Rounded once: the double sum is made odd where it is inexact, then rounding twice is right.

    Source: S. Boldo & G. Melquiond, IEEE Transactions on Computers 57(4), 2008.
    """
    product, add = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = product + add
    back = total - product
    error = (product - (total - back)) + (add - back)
    even = (total.view(np.int64) & 1) == 0
    shift = np.where((error != 0) & even & np.isfinite(total), 1, 0)
    outward = (error > 0) == (total > 0)
    odd = (total.view(np.int64) + np.where(outward, shift, -shift)).view(np.float64)
    return odd.astype(np.float32)


def _exp2(a: Array) -> Array:
    return np.exp2(a, dtype=np.float64).astype(np.float32)


def _whole(a: Array, low: int, high: int) -> Any:
    """Towards zero, NaN to 0, saturating."""
    exact = np.nan_to_num(np.trunc(np.asarray(a, np.float64)), nan=0.0, posinf=high, neginf=low)
    return np.clip(exact, low, high).astype(np.int64).astype(np.uint32)


def _half(a: Array) -> Array:
    return np.asarray(a & _16).astype(np.uint16).view(np.float16).astype(np.float32)


def _to_half(a: Array) -> Array:
    return np.asarray(a).astype(np.float16).view(np.uint16).astype(np.uint32)


def _ldexp(a: Array, n: Array) -> Array:
    return np.ldexp(np.asarray(a, np.float64), n).astype(np.float32)


def _s24(a: Array) -> Array:
    return np.right_shift(np.left_shift(a, 8), 8)


def _long(a: Array) -> Array:
    return np.asarray(a).astype(np.int64 if a.dtype == np.int32 else np.uint64)


def _align(a: Array, b: Array, by: Array) -> Any:
    return ((_long(a) << np.uint64(32) | b) >> _long(by)).astype(np.uint32)


def _perm(a: Array, b: Array, choice: Array) -> Array:
    both = _long(a) << np.uint64(32) | b
    result = np.zeros(np.broadcast(a, b, choice).shape, np.uint32)
    for byte in range(4):
        wanted = choice >> np.uint32(8 * byte) & np.uint32(255)
        value = both >> _long(np.minimum(wanted, 7) * np.uint32(8)) & np.uint64(255)
        # 8 to 11 repeat a sign, which no compiler was seen to use; 12 is 0, above it is 255
        value = np.where(wanted < 8, value, np.where(wanted == 12, 0, 255))
        result |= value.astype(np.uint32) << np.uint32(8 * byte)
    return result


def _median(a: Array, b: Array, c: Array) -> Array:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _ubyte(number: int) -> Callable[[Array], Array]:
    return lambda a: np.asarray(a >> np.uint32(8 * number) & np.uint32(255)).astype(np.float32)


def _rank(half: int) -> Callable[[Array, Array], Array]:
    """Of each lane: bits of half a mask that lie below the lane's, added to a number."""
    bits = np.clip(np.arange(64, dtype=np.int64) - 32 * half, 0, 32)
    below = ((np.int64(1) << bits) - 1).astype(np.uint32)

    def rank(mask: Array, add: Array) -> Array:
        chosen = np.asarray(mask & below)
        octets = np.ascontiguousarray(chosen).view(np.uint8).reshape(*chosen.shape, 4)
        return np.asarray(np.unpackbits(octets, axis=-1).sum(-1, dtype=np.uint32) + add)

    return rank


Function = Callable[..., Any]
# what it gives and takes: f float32, u uint32, i int32, w uint64, l int64
_FLOAT: Mapping[str, tuple[str, Function]] = {
    "v_add_f32": ("fff", np.add),
    "v_sub_f32": ("fff", np.subtract),
    "v_subrev_f32": ("fff", lambda a, b: b - a),
    "v_mul_f32": ("fff", np.multiply),
    "v_mac_f32": ("ffff", lambda a, b, c: a * b + c),
    "v_mad_f32": ("ffff", lambda a, b, c: a * b + c),
    "v_madak_f32": ("ffff", lambda a, b, c: a * b + c),
    "v_madmk_f32": ("ffff", lambda a, b, c: a * b + c),
    "v_fma_f32": ("ffff", _fma),
    "v_max_f32": ("fff", np.fmax),
    "v_min_f32": ("fff", np.fmin),
    "v_max3_f32": ("ffff", lambda a, b, c: np.fmax(np.fmax(a, b), c)),
    "v_min3_f32": ("ffff", lambda a, b, c: np.fmin(np.fmin(a, b), c)),
    "v_med3_f32": ("ffff", lambda a, b, c: np.fmax(np.fmin(a, b), np.fmin(np.fmax(a, b), c))),
    "v_rcp_f32": ("ff", lambda a: np.float32(1) / a),
    "v_rcp_iflag_f32": ("ff", lambda a: np.float32(1) / a),
    "v_rsq_f32": ("ff", lambda a: (1 / np.sqrt(a, dtype=np.float64)).astype(np.float32)),
    "v_sqrt_f32": ("ff", np.sqrt),
    "v_exp_f32": ("ff", _exp2),
    "v_log_f32": ("ff", lambda a: np.log2(a, dtype=np.float64).astype(np.float32)),
    "v_floor_f32": ("ff", np.floor),
    "v_ceil_f32": ("ff", np.ceil),
    "v_trunc_f32": ("ff", np.trunc),
    "v_rndne_f32": ("ff", np.rint),
    "v_fract_f32": ("ff", lambda a: a - np.floor(a)),
    "v_ldexp_f32": ("ffi", _ldexp),
    "v_cvt_f32_u32": ("fu", lambda a: np.asarray(a).astype(np.float32)),
    "v_cvt_f32_i32": ("fi", lambda a: np.asarray(a).astype(np.float32)),
    "v_cvt_u32_f32": ("uf", lambda a: _whole(a, 0, 2**32 - 1)),
    "v_cvt_i32_f32": ("uf", lambda a: _whole(a, -(2**31), 2**31 - 1)),
    "v_cvt_f32_f16": ("fu", _half),
    "v_cvt_f16_f32": ("uf", _to_half),
    **{f"v_cvt_f32_ubyte{n}": ("fu", _ubyte(n)) for n in range(4)},
}
_WHOLE: Mapping[str, tuple[str, Function]] = {
    "v_mov_b32": ("uu", lambda a: a),
    "v_not_b32": ("uu", np.bitwise_not),
    "v_and_b32": ("uuu", np.bitwise_and),
    "v_or_b32": ("uuu", np.bitwise_or),
    "v_xor_b32": ("uuu", np.bitwise_xor),
    "v_mbcnt_lo_u32_b32": ("uuu", _rank(0)),
    "v_mbcnt_hi_u32_b32": ("uuu", _rank(1)),
    "v_bfi_b32": ("uuuu", lambda a, b, c: a & b | ~a & c),
    "v_bfrev_b32": ("uu", lambda a: reverse(np.asarray(a))),
    "v_bfe_u32": ("uuuu", lambda a, o, n: field(np.asarray(a), o & _31, n & _31, False)),
    "v_bfe_i32": ("uuuu", lambda a, o, n: field(np.asarray(a), o & _31, n & _31, True)),
    "v_lshlrev_b32": ("uuu", lambda a, b: b << (a & _31)),
    "v_lshrrev_b32": ("uuu", lambda a, b: b >> (a & _31)),
    "v_ashrrev_i32": ("iii", lambda a, b: b >> (a & 31)),
    "v_lshlrev_b64": ("wuw", lambda a, b: b << (_long(a) & _63)),
    "v_lshrrev_b64": ("wuw", lambda a, b: b >> (_long(a) & _63)),
    "v_ashrrev_i64": ("lil", lambda a, b: b >> (_long(a) & 63)),
    "v_alignbit_b32": ("uuuu", lambda a, b, c: _align(a, b, c & _31)),
    "v_alignbyte_b32": ("uuuu", lambda a, b, c: _align(a, b, np.uint32(8) * (c & np.uint32(3)))),
    "v_perm_b32": ("uuuu", _perm),
    "v_mul_lo_u32": ("uuu", np.multiply),
    "v_mul_lo_i32": ("uuu", np.multiply),
    "v_mul_hi_u32": ("uuu", lambda a, b: (_long(a) * _long(b) >> np.uint64(32)).astype("u4")),
    "v_mul_hi_i32": ("iii", lambda a, b: (_long(a) * _long(b) >> 32).astype("i4")),
    "v_mul_u32_u24": ("uuu", lambda a, b: (a & _24) * (b & _24)),
    "v_mul_hi_u32_u24": (
        "uuu",
        lambda a, b: (_long(a & _24) * _long(b & _24) >> np.uint64(32)).astype("u4"),
    ),
    "v_mul_i32_i24": ("iii", lambda a, b: _s24(a) * _s24(b)),
    "v_mad_u32_u24": ("uuuu", lambda a, b, c: (a & _24) * (b & _24) + c),
    "v_mad_i32_i24": ("iiii", lambda a, b, c: _s24(a) * _s24(b) + c),
    "v_min_u32": ("uuu", np.minimum),
    "v_max_u32": ("uuu", np.maximum),
    "v_min_i32": ("iii", np.minimum),
    "v_max_i32": ("iii", np.maximum),
    "v_min3_i32": ("iiii", lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_i32": ("iiii", lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_min3_u32": ("uuuu", lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_u32": ("uuuu", lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_med3_i32": ("iiii", _median),
    "v_med3_u32": ("uuuu", _median),
    "v_add_u16": ("uuu", lambda a, b: a + b & _16),
    "v_sub_u16": ("uuu", lambda a, b: a - b & _16),
    "v_subrev_u16": ("uuu", lambda a, b: b - a & _16),
    "v_mul_lo_u16": ("uuu", lambda a, b: a * b & _16),
    "v_mad_u16": ("uuuu", lambda a, b, c: a * b + c & _16),
    "v_min_u16": ("uuu", lambda a, b: np.minimum(a & _16, b & _16)),
    "v_max_u16": ("uuu", lambda a, b: np.maximum(a & _16, b & _16)),
    "v_lshlrev_b16": ("uuu", lambda a, b: b << (a & np.uint32(15)) & _16),
    "v_lshrrev_b16": ("uuu", lambda a, b: (b & _16) >> (a & np.uint32(15))),
}
TABLE: Mapping[str, tuple[str, Function]] = {**_FLOAT, **_WHOLE}
