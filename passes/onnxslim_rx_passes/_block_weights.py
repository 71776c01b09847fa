"""Which weights blocks of a few bits can hold, and who reads them.

Blocks lie along the axis that products sum over. A weight is seen as (rows, K): a row is one output
channel, or one row of a table.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._block_options import DEQUANTIZE, NBITS, BlockOptions
from onnxslim_rx_passes._channel_weights import opset_of
from onnxslim_rx_passes._complex_parts import scale_layout
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._tables import Read, reads_of

__all__ = ["BlockWeight"]

_KINDS = ("linear", "embedding")
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_FIRST_BLOCKWISE = 21


@dataclasses.dataclass(frozen=True, eq=False)
class BlockWeight:
    """A constant matrix that products sum over the same axis of, and that rows are looked up in.

    Args:
        layer: the layer, or a table with all its readers.
        reads: all readers.
        rows_first: whether it is stored as (rows, K); (K, rows) otherwise.
    """

    layer: Layer
    reads: tuple[Read, ...]
    rows_first: bool

    @classmethod
    def of(cls, layer: Layer) -> BlockWeight | str:
        """The weight of a layer, or why blocks cannot hold it."""
        root = layer.weights[0]
        tensor = tensor_of(root)
        if layer.kind not in _KINDS:
            return "blocks hold weights of MatMul, Gemm and Gather alone"
        if len(tensor.shape) != 2:
            return f"has rank {len(tensor.shape)}; blocks hold matrices"
        if tensor.dtype not in _TYPES:
            return f"is of type {tensor.dtype.name}; blocks stand for float32 and float16"
        if scale_layout(layer, tensor.numpy()).in_turns:
            return (
                "real and imaginary parts of different size lie in turns; they would share scales"
            )
        # where a table has wrappers around it, they are nodes of the layer
        nodes = layer.region or tuple(dict.fromkeys(use.node for use in root.uses()))
        reads = tuple(reads_of(nodes, root))
        why = _why_not(reads)
        return why or cls(layer, reads, layer.kind == "embedding" or reads[0].flipped)

    @property
    def root(self) -> ir.Value:
        """The constant."""
        return self.layer.weights[0]

    @property
    def dtype(self) -> ir.DataType:
        """Its type."""
        return tensor_of(self.root).dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and K."""
        first, second = tensor_of(self.root).shape.numpy()
        return (first, second) if self.rows_first else (second, first)

    @property
    def is_looked_up(self) -> bool:
        """Whether it is a table."""
        return any(read.node.op_type == "Gather" for read in self.reads)

    @property
    def is_multiplied(self) -> bool:
        """Whether it takes part in products."""
        return any(read.node.op_type != "Gather" for read in self.reads)

    def rows(self, stored: Array) -> Array:
        """(rows, K) of an array in the layout of the constant, and the other way round."""
        return stored if self.rows_first else stored.T

    def why_not(self, options: BlockOptions, k: int | None = None) -> str | None:
        """Why the weight, or a factor of it with rows of `k`, cannot be stored so."""
        if self.is_looked_up and (options.rank or options.method == "awq"):
            return "rows are looked up; corrections and scaled inputs are for products"
        if options.rank and options.method == "awq":
            return "inputs are scaled, or the weight is corrected, not both"
        if options.rank > min(self.shape):
            return f"has no {options.rank} components"
        if options.scales == "float32" and self.dtype == ir.DataType.FLOAT16:
            return "a float16 network multiplies with float16 scales"
        if options.form == DEQUANTIZE:
            return self._why_not_dequantize(options)
        if options.form == NBITS and self.is_looked_up:
            return self._why_not_look_up(options, self.shape[1] if k is None else k)
        return None

    def _why_not_dequantize(self, options: BlockOptions) -> str | None:
        if opset_of(self.layer) < _FIRST_BLOCKWISE:
            return (
                f"DequantizeLinear in blocks needs opset {_FIRST_BLOCKWISE}, the model has"
                f" {opset_of(self.layer)}: `--also raise-opset` raises it"
            )
        return "standard operators have no integers of 2 bits" if options.bits == 2 else None

    def _why_not_look_up(self, options: BlockOptions, k: int) -> str | None:
        if k * options.bits % 8:
            return f"rows of {k} numbers of {options.bits} bits are no whole bytes"
        if self.is_multiplied and k % options.group:
            return f"rows of {k} are no whole groups of {options.group}, as shared tables must be"
        return None


def _why_not(reads: tuple[Read, ...]) -> str | None:
    if len({read.node.graph for read in reads}) != 1:
        return "is read in several graphs"
    products = [read for read in reads if read.node.op_type != "Gather"]
    if any(read.index != 1 for read in products):
        return "is on the left of a product; blocks hold right sides"
    looked_up = len(products) < len(reads)
    if len({read.flipped for read in products} | ({True} if looked_up else set())) > 1:
        return "products sum over different axes"
    return None
