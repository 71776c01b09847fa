"""Weights in blocks as nodes, in operators of ONNX Runtime or in standard ones.

- "nbits": com.microsoft's MatMulNBits and GatherBlockQuantized, which read the integers as they
  are. Activations are rounded to 8 bits per block on the way (accuracy level 4): that is what
  makes them fast (measured: 0.33 of the time of float32 at one row and 0.85 at 32; without it,
  8 and 2 bits take 4 to 20 times as long).
- "dequantize-linear": DequantizeLinear in blocks in front of MatMul, which ONNX Runtime turns into
  MatMulNBits when it loads the model.

Scales of float16 pass a Cast where the network is float32; it folds when the model is loaded. Where
it does not, as optimisations are off, MatMulNBits at level 4 would read packed integers with scales
that it never got, and give nonsense (measured, 1.20 to 1.31). So the integers then pass a Reshape:
it folds where the Cast does, and where neither does, nothing is packed and all is right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Array
from onnxslim_rx_passes._block_options import NBITS, BlockOptions
from onnxslim_rx_passes._block_rounding import Factor, Rounded
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._tables import Read

__all__ = ["emit_blocks"]

_MICROSOFT = "com.microsoft"
_ACCURACY_LEVEL = 4  # activations as INT8


def emit_blocks(
    weight: BlockWeight, rounded: Rounded, options: BlockOptions, tape: ir.tape.Tape
) -> dict[ir.Value, ir.Value]:
    """Emit what takes the place of all readers of a weight.

    Returns:
        The new value of each reader's output.
    """
    form = _Packed if options.form == NBITS else _Plain
    emitter = form(weight, rounded, options, tape)
    return {read.node.outputs[0]: emitter.read(read) for read in weight.reads}


class _Emitter:
    """Constants that are made once, for as many readers as there are."""

    def __init__(
        self, weight: BlockWeight, rounded: Rounded, options: BlockOptions, tape: ir.tape.Tape
    ) -> None:
        self.weight, self.rounded, self.options, self.tape = weight, rounded, options, tape
        self._made: dict[str, ir.Value] = {}

    def product(self, x: ir.Value) -> ir.Value:
        """`X W^T` with the weight (rows, K)."""
        raise NotImplementedError

    def look_up(self, indices: ir.Value) -> ir.Value:
        """Rows of the weight."""
        raise NotImplementedError

    def read(self, read: Read) -> ir.Value:
        """What takes the place of one reader's output."""
        if read.node.op_type == "Gather":
            return self.look_up(read.activation)
        if read.node.op_type == "MatMul":
            return self._whole(read.activation)
        return self._gemm(read)

    def _whole(self, x: ir.Value) -> ir.Value:
        """The product with the whole weight: of scaled inputs, and corrected."""
        tape, inputs = self.tape, self.rounded.inputs
        y = self.product(tape.op("Mul", [x, self.constant("inputs", inputs)]) if inputs.size else x)
        if not self.options.rank:
            return y
        thin = tape.op("MatMul", [x, self._factor("a", self.rounded.first)])
        return tape.op(
            "Add", [y, tape.op("MatMul", [thin, self._factor("b", self.rounded.second)])]
        )

    def _factor(self, name: str, factor: Factor) -> ir.Value:
        """A factor of the correction, which folds when the model is loaded."""
        if name not in self._made:
            cast = self.tape.op(
                "Cast", [self.constant(f"{name}.int8", factor.values)], {"to": self.weight.dtype}
            )
            scales = self.constant(f"{name}.scale", factor.scales)
            self._made[name] = self.tape.op("Mul", [cast, scales])
        return self._made[name]

    def _gemm(self, read: Read) -> ir.Value:
        """Gemm's transpose, scalings and bias around a product."""
        node, tape, x = read.node, self.tape, read.activation
        if node.attributes.get_int("transA", 0):
            x = tape.op("Transpose", [x], {"perm": [1, 0]})
        y = self._scaled(self._whole(x), node, "alpha")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return y if bias is None else tape.op("Add", [y, self._scaled(bias, node, "beta")])

    def _scaled(self, value: ir.Value, node: ir.Node, name: str) -> ir.Value:
        factor = node.attributes.get_float(name, 1.0)
        if factor == 1.0:
            return value
        array = np.array(factor, self.weight.dtype.numpy())
        return self.tape.op("Mul", [value, self.constant(f"{name}{factor}", array)])

    def constant(self, suffix: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer named after the weight."""
        if suffix not in self._made:
            tensor = ir.tensor(
                np.ascontiguousarray(array), dtype=dtype, name=f"{self.weight.root.name}.{suffix}"
            )
            self._made[suffix] = self.tape.initializer(tensor)
        return self._made[suffix]

    @property
    def casts(self) -> bool:
        """Whether scales are stored in another type than the network has."""
        return bool(self.rounded.scales.dtype != self.weight.dtype.numpy())

    def scales(self, array: Array) -> ir.Value:
        """Scales in the type of the network: those of another type pass a Cast, which folds."""
        stored = self.constant("scale", array)
        if not self.casts:
            return stored
        if "cast" not in self._made:
            self._made["cast"] = self.tape.op("Cast", [stored], {"to": self.weight.dtype})
        return self._made["cast"]


class _Packed(_Emitter):
    """Operators of com.microsoft; both read the same bytes, in other shapes."""

    def product(self, x: ir.Value) -> ir.Value:
        rows, k = self.weight.shape
        attributes = {
            "K": k,
            "N": rows,
            "bits": self.options.bits,
            "block_size": self.options.group,
            "accuracy_level": _ACCURACY_LEVEL,
        }
        inputs = [x, self._values(), *self._grid()]
        return self.tape.op("MatMulNBits", inputs, attributes, domain=_MICROSOFT)

    def look_up(self, indices: ir.Value) -> ir.Value:
        attributes = {
            "bits": self.options.bits,
            "block_size": self.options.group,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [self._table(), indices, *self._grid()]
        return self.tape.op("GatherBlockQuantized", inputs, attributes, domain=_MICROSOFT)

    def _grid(self) -> list[ir.Value]:
        zeros = self.rounded.zeros
        return [
            self.scales(self.rounded.scales),
            *([self.constant("zero", zeros)] if zeros.size else []),
        ]

    def _values(self) -> ir.Value:
        """(rows, blocks, bytes)."""
        if not (self.weight.is_looked_up or self.casts):
            return self.constant(self._name, self.rounded.values)
        if "blocks" not in self._made:
            shape = self.constant("shape", np.array(self.rounded.values.shape))
            self._made["blocks"] = self.tape.op("Reshape", [self._table(), shape])
        return self._made["blocks"]

    def _table(self) -> ir.Value:
        """(rows, bytes); where rows are looked up, of K entries and no more."""
        rows, k = self.weight.shape
        flat = self.rounded.values.reshape(rows, -1)
        if self.weight.is_looked_up:
            flat = flat[:, : k * self.options.bits // 8]
        return self.constant(self._name, flat)

    @property
    def _name(self) -> str:
        return f"q{self.options.bits}"


class _Plain(_Emitter):
    """DequantizeLinear in blocks.

    Runtimes look for it in front of the right side (K, rows) of a MatMul; a table is (rows, K).
    """

    def product(self, x: ir.Value) -> ir.Value:
        return self.tape.op("MatMul", [x, self._dense(turned=True)])

    def look_up(self, indices: ir.Value) -> ir.Value:
        return self.tape.op("Gather", [self._dense(turned=False), indices])

    def _dense(self, *, turned: bool) -> ir.Value:
        """The weight, (K, rows) where `turned`; one tensor serves both."""
        if turned and self.weight.is_looked_up:
            if "turned" not in self._made:
                table = self._dense(turned=False)
                self._made["turned"] = self.tape.op("Transpose", [table], {"perm": [1, 0]})
            return self._made["turned"]
        if "dense" not in self._made:
            self._made["dense"] = self._dequantized(turned=turned)
        return self._made["dense"]

    def _dequantized(self, *, turned: bool) -> ir.Value:
        k = self.weight.shape[1]
        values, _, zeros, _ = self.rounded.blocks(k, self.options)
        arrays: Mapping[str, Array] = {"scale": self.rounded.scales}
        dtype = _INTEGERS[self.options.bits, zeros is not None]
        offset = 0
        if zeros is None:  # signed integers, whose zero point is 0
            offset = self.options.block_format.middle
        else:
            arrays = {**arrays, "zero": zeros.astype(dtype.numpy())}
        stored = (values.astype(np.int16) - offset).astype(dtype.numpy())
        stored, *grid = [a.T if turned else a for a in (stored, *arrays.values())]
        inputs = [self.constant(f"q{self.options.bits}", stored, dtype), self.scales(grid[0])]
        inputs += [self.constant("zero", zero, dtype) for zero in grid[1:]]
        attributes = {"axis": 0 if turned else 1, "block_size": self.options.group}
        return self.tape.op("DequantizeLinear", inputs, attributes)


_INTEGERS = {
    (4, False): ir.DataType.INT4,
    (4, True): ir.DataType.UINT4,
    (8, False): ir.DataType.INT8,
    (8, True): ir.DataType.UINT8,
}
"""By bits, and whether there are zero points."""
