"""Quantization: grids, rounding, packing, ranges of values; arrays in, arrays out."""

from onnxslim_rx.quant.affine import affine, expected_error
from onnxslim_rx.quant.awq import awq_scales
from onnxslim_rx.quant.blocks import BlockFormat, Blocks, restore, round_to, stored_bytes
from onnxslim_rx.quant.channels import round_channels
from onnxslim_rx.quant.correction import Corrected, correct
from onnxslim_rx.quant.descent import refine, round_refined
from onnxslim_rx.quant.gptq import round_gptq
from onnxslim_rx.quant.gram import damped, error
from onnxslim_rx.quant.grid import Quantized, dequantize, quantize_symmetric, relative_error
from onnxslim_rx.quant.histogram import BINS, Histogram, Tally
from onnxslim_rx.quant.hqq import round_hqq
from onnxslim_rx.quant.nearest import round_clipped, round_nearest
from onnxslim_rx.quant.packing import pack, pack_zeros, unpack, unpack_zeros
from onnxslim_rx.quant.ranges import RangeMethod, find_range

__all__ = [
    "BINS",
    "BlockFormat",
    "Blocks",
    "Corrected",
    "Histogram",
    "Quantized",
    "RangeMethod",
    "Tally",
    "affine",
    "awq_scales",
    "correct",
    "damped",
    "dequantize",
    "error",
    "expected_error",
    "find_range",
    "pack",
    "pack_zeros",
    "quantize_symmetric",
    "refine",
    "relative_error",
    "restore",
    "round_channels",
    "round_clipped",
    "round_gptq",
    "round_hqq",
    "round_nearest",
    "round_refined",
    "round_to",
    "stored_bytes",
    "unpack",
    "unpack_zeros",
]
