"""Quantization of weights: grids, rounding and packing; arrays in, arrays out."""

from onnxslim_rx.quant.blocks import BlockFormat, Blocks, restore, round_to, stored_bytes
from onnxslim_rx.quant.grid import Quantized, dequantize, quantize_symmetric, relative_error
from onnxslim_rx.quant.nearest import round_clipped, round_nearest
from onnxslim_rx.quant.packing import pack, pack_zeros, unpack, unpack_zeros

__all__ = [
    "BlockFormat",
    "Blocks",
    "Quantized",
    "dequantize",
    "pack",
    "pack_zeros",
    "quantize_symmetric",
    "relative_error",
    "restore",
    "round_clipped",
    "round_nearest",
    "round_to",
    "stored_bytes",
    "unpack",
    "unpack_zeros",
]
