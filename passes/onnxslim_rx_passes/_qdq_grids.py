"""Grids of activations: what QuantizeLinear and DequantizeLinear around a tensor say."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.quant import Histogram, RangeMethod, affine, expected_error, find_range

__all__ = [
    "ACTIVATIONS",
    "CLAMPS",
    "METHODS",
    "Grid",
    "bounds_of",
    "grid_of",
    "grid_read",
    "range_method",
]

ACTIVATIONS = {"u8": ir.DataType.UINT8, "s8": ir.DataType.INT8, "u16": ir.DataType.UINT16}
"""Types of quantized activations, by how options name them."""

METHODS: tuple[RangeMethod, ...] = ("minmax", "percentile", "entropy", "mse")

CLAMPS = ("Relu", "Clip")


_PERCENT = 99.99


def range_method(method: str) -> tuple[RangeMethod, float]:
    """One of `METHODS`, and percent of the values where it is "percentile" or "percentile-99.9".

    Raises:
        ValueError: something else.
    """
    name, _, percent = method.partition("-")
    known = {one: one for one in METHODS}
    if name not in known or (percent and name != "percentile"):
        raise ValueError(f"found {method!r}")
    number = float(percent or _PERCENT)
    if not 50 < number <= 100:
        raise ValueError(f"found {number} percent")
    return known[name], number


class Grid(NamedTuple):
    """The integers `q` that stand for `scale * (q - zero)`; one scale for the whole tensor.

    Args:
        scale: above 0, exact in single precision.
        zero: which integer stands for 0.
        dtype: of the integers.
    """

    scale: float
    zero: int
    dtype: ir.DataType

    @property
    def lowest(self) -> int:
        """The least integer."""
        return int(np.iinfo(self.dtype.numpy()).min)

    @property
    def highest(self) -> int:
        """The largest integer."""
        return int(np.iinfo(self.dtype.numpy()).max)

    def error(self, histogram: Histogram) -> float:
        """Mean squared error of values that are rounded to the grid."""
        bits, signed = self.dtype.bitwidth, self.lowest < 0
        return expected_error(histogram, self.scale, self.zero, bits=bits, signed=signed)

    def saturates(self, node: ir.Node) -> bool:
        """Whether Relu or Clip is what the grid cuts off anyway, so that runtimes drop it."""
        low, high = bounds_of(node)
        return self._integer(low) <= self.lowest and self._integer(high) >= self.highest

    def _integer(self, bound: float) -> float:
        steps = bound / self.scale
        return steps if math.isinf(steps) else float(np.rint(steps)) + self.zero


def grid_of(histogram: Histogram, method: str, dtype: ir.DataType) -> Grid:
    """The grid that suits the values of a tensor; see `range_method` and `find_range`."""
    bits, signed = dtype.bitwidth, bool(dtype.is_signed())
    name, percentile = range_method(method)
    low, high = find_range(histogram, name, levels=2**bits, percentile=percentile)
    return Grid(*affine(low, high, bits=bits, signed=signed), dtype)


def grid_read(node: ir.Node) -> Grid | None:
    """That of a QuantizeLinear or DequantizeLinear with one constant scale and zero point."""
    tensors = [constant(value) for value in node.inputs[1:]]
    if len(tensors) != 2 or tensors[0] is None or tensors[1] is None or tensors[0].size != 1:
        return None
    scale, zero = (tensor.numpy().item() for tensor in tensors if tensor is not None)
    return Grid(float(scale), int(zero), tensors[1].dtype)


def bounds_of(node: ir.Node) -> tuple[float, float]:
    """Between what Relu or Clip leaves values; NaN for a bound that is computed."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    found = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            tensor = constant(value)
            found[index] = math.nan if tensor is None else float(tensor.numpy().item())
    return found[0], found[1]
