"""Quantization of weights: grids, rounding and packing; arrays in, arrays out."""

from onnxslim_rx.quant.grid import Quantized, dequantize, quantize_symmetric, relative_error

__all__ = ["Quantized", "dequantize", "quantize_symmetric", "relative_error"]
