"""What the float64 references of the kernels share: activations, and bounds of rounding errors.

Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from tools.kernel_families import Values

__all__ = ["UNIT", "activation", "half_or_float", "rounded", "sum_bound"]

UNIT = 2.0**-24  # of a float

Array = np.ndarray[Any, Any]

# |computed - exact| <= this * u * |x|, as kernels/cl/epilogue.clh states; by ACT
_ERROR = (0.0, 0.0, 0.0, 6.0, 8.0, 8.0)
_SLOPE = 1.14  # the derivatives' greatest absolute value


def half_or_float(values: Values) -> type[np.float16] | type[np.float32]:
    """The type of the elements under the option REAL_BITS."""
    return np.float16 if values["REAL_BITS"] == 16 else np.float32


def sum_bound(n: int) -> float:
    """The g = n u / (1 - n u) of a sum of products: n operations err by g * sum |a b| at most."""
    return n * UNIT / (1 - n * UNIT)


def activation(values: Values, x: Array, error: Array, lo: float, hi: float) -> tuple[Array, Array]:
    """The epilogue's activation of `x`, which the kernel knows within `error`, as it is stored.

    Args:
        values: with ACT and REAL_BITS.
        x: exact sums, bias and residual included; float64.
        error: bound of their errors.
        lo: lower bound of Clip.
        hi: upper bound of Clip.

    Returns:
        The value, and a bound of the error of what the kernel stores.
    """
    act = values["ACT"]
    slope = 1.0 if act < 3 else _SLOPE
    bound = slope * error + _ERROR[act] * UNIT * (np.abs(x) + error)
    return _value(act, x, lo, hi), rounded(values, _value(act, x, lo, hi), bound)


def rounded(values: Values, y: Array, bound: Array) -> Array:
    """`bound` and the rounding to the type that is stored (of halves, denormals included)."""
    if values["REAL_BITS"] != 16:
        return bound
    return bound + (np.abs(y) + bound) * 2.0**-11 + 2.0**-25


def _value(act: int, x: Array, lo: float, hi: float) -> Array:
    if act == 1:
        return np.where(x < 0, 0.0, x)
    if act == 2:
        return np.where(np.isnan(x), x, np.clip(x, lo, hi))
    factor: Array | float = 1.0
    if act == 3:
        factor = special.ndtr(x)
    elif act == 4:
        factor = special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    elif act == 5:
        factor = special.expit(x)
    return np.multiply(x, factor)
