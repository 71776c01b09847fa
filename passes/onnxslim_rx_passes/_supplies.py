"""Operators whose form depends on the opset, and constants that are made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["Supplies"]


class Supplies:
    """What nodes of one graph and of the bodies in it are made of.

    Args:
        opset: of the graph.
        tape: of the graph: gets all constants, those that bodies read included.
        dtype: type of the numbers that are computed with.
        name: prefix of names, unique in the model.
    """

    def __init__(self, opset: int, tape: ir.tape.Tape, dtype: ir.DataType, name: str) -> None:
        self.tape, self.dtype, self.name = tape, dtype, name
        self._opset = opset
        self._known: dict[str, ir.Value] = {}

    def split(
        self, tape: ir.tape.Tape, x: ir.Value, sizes: Sequence[int], axis: int
    ) -> Sequence[ir.Value]:
        """Parts of `x` along an axis."""
        if len(sizes) == 1:
            return [x]
        if self._opset < 13:
            given: Mapping[str, int | list[int]] = {"axis": axis, "split": list(sizes)}
            return tape.op_multi_out("Split", [x], given, num_outputs=len(sizes))
        split = self.integers("-".join(map(str, sizes)), list(sizes))
        return tape.op_multi_out("Split", [x, split], {"axis": axis}, num_outputs=len(sizes))

    def unsqueeze(self, x: ir.Value, axis: int) -> ir.Value:
        """`x` with a new axis."""
        if self._opset < 13:
            return self.tape.op("Unsqueeze", [x], {"axes": [axis]})
        return self.tape.op("Unsqueeze", [x, self.integers(f"axis{axis}", [axis])])

    def clip(self, tape: ir.tape.Tape, x: ir.Value, bound: float) -> ir.Value:
        """`x`, at most as large as `bound`."""
        if self._opset < 11:
            return tape.op("Clip", [x], {"min": -bound, "max": bound})
        low, high = self.numbers("low", np.array(-bound)), self.numbers("high", np.array(bound))
        return tape.op("Clip", [x, low, high])

    def numbers(self, name: str, array: npt.NDArray[np.float64]) -> ir.Value:
        """A constant of the type that is computed with; equal names mean equal numbers."""
        return self._constant(name, array.astype(self.dtype.numpy()), self.dtype)

    def integers(
        self, name: str, content: int | Sequence[int], dtype: ir.DataType = ir.DataType.INT64
    ) -> ir.Value:
        """A constant of integers; equal names mean equal numbers."""
        return self._constant(name, np.array(content, dtype=dtype.numpy()), dtype)

    def _constant(self, name: str, array: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        if name not in self._known:
            tensor = ir.tensor(array, dtype=dtype, name=f"{self.name}.{name}")
            self._known[name] = self.tape.initializer(tensor)
        return self._known[name]
