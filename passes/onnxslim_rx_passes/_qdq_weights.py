"""Weights and biases of layers that compute on integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Array, Layer, LayerStatistics
from onnxslim_rx.quant import round_channels
from onnxslim_rx_passes._linear import tensor_of, weight_of
from onnxslim_rx_passes._memo import Memo, digest
from onnxslim_rx_passes._qdq_layers import bias_value

__all__ = [
    "IntegerWeight",
    "bias_of",
    "bias_scales",
    "by_group",
    "least_scales",
    "to_integers",
    "weight_rows",
]

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
Scales = npt.NDArray[np.float32]

# A bias is an integer of 32 bits times the scales of input and weight. It gets so many bits at
# most, so that the scale of the input may still change by what it does.
_BIAS_BITS = 26
_LARGEST = 2**31 - 1
_OF_ZEROS = 2.0**-60  # the scale of a row of zeros may be any: a small one, for its bias
_MEMO = Memo(1 << 27)


@dataclasses.dataclass(frozen=True)
class IntegerWeight:
    """A weight as rows, one for each output channel.

    Args:
        values: (N, K) int8.
        scales: (N,) float32, above 0.
        lost: (N, K) what rounding adds to each row.
    """

    values: npt.NDArray[np.int8]
    scales: Scales
    lost: Matrix

    @classmethod
    def of(
        cls,
        layer: Layer,
        rows: Matrix,
        stats: LayerStatistics | None,
        bits: int,
        least: Vector | float = 0.0,
    ) -> IntegerWeight:
        """Rows rounded so that outputs are right under what entered the layer.

        Args:
            layer: whose weight it is.
            rows: (N, K), see `weight_rows`.
            stats: of the layer.
            bits: 7 or 8.
            least: (N,) scales that the bias needs, see `least_scales`.
        """
        values, scales = _weight_grid(layer, rows, stats, bits)
        coarse = scales < least
        if coarse.any():
            wanted = np.broadcast_to(np.asarray(least), scales.shape).astype(np.float32)
            scales, values = np.where(coarse, wanted, scales), values.copy()
            limit = 2 ** (bits - 1) - 1
            redone = np.rint(rows[coarse] / scales[coarse, None].astype(np.float64))
            values[coarse] = np.clip(redone, -limit, limit)
        return cls(values, scales, values * scales[:, None].astype(np.float64) - rows)


def weight_rows(layer: Layer) -> Matrix:
    """(N, K): the weights that each output channel is summed up with; of a Gemm times alpha."""
    if layer.op == "Conv":
        stored = tensor_of(layer.weight).numpy()
        return stored.reshape(len(stored), -1).astype(np.float64)
    alpha = layer.node.attributes.get_float("alpha", 1.0) if layer.op == "Gemm" else 1.0
    return np.ascontiguousarray(weight_of(layer).T, np.float64) * alpha


def bias_of(layer: Layer, count: int) -> Vector | None:
    """(N,): a constant bias with one number for each output channel, of a Gemm times beta.

    Args:
        layer: Conv, Gemm or MatMul.
        count: N.
    """
    tensor = constant(bias_value(layer))
    if tensor is None:
        return None
    bias = tensor.numpy().astype(np.float64)
    if bias.size != 1 and bias.shape[-1] != bias.size:
        return None  # one number for each row of the result
    beta = layer.node.attributes.get_float("beta", 1.0) if layer.op == "Gemm" else 1.0
    return np.broadcast_to(bias.reshape(-1) * beta, (count,))


def least_scales(bias: Vector | None, entering: float) -> Vector | float:
    """Scales of weights below which 32 bits do not hold the bias: (N,), or 0 without one."""
    return 0.0 if bias is None else np.abs(bias) / (entering * 2.0**_BIAS_BITS)


def bias_scales(entering: float, weight: Scales) -> Scales:
    """What kernels on integers take the scales of a bias for."""
    found: Scales = np.maximum(np.float32(entering) * weight, np.finfo(np.float32).tiny)
    return found


def to_integers(bias: Vector, scales: Scales) -> npt.NDArray[np.int32]:
    """The bias in multiples of its scales, (N,) each."""
    steps = np.rint(bias / scales.astype(np.float64))
    return np.clip(steps, -_LARGEST, _LARGEST).astype(np.int32)


def by_group(layer: Layer, width: int) -> list[slice]:
    """Which inputs of the layer, those of all groups, each group of filters reads.

    Args:
        layer: Conv, Gemm or MatMul.
        width: inputs of one filter.
    """
    groups = layer.node.attributes.get_int("group", 1) if layer.op == "Conv" else 1
    return [slice(group * width, (group + 1) * width) for group in range(groups)]


def _weight_grid(
    layer: Layer, rows: Matrix, stats: LayerStatistics | None, bits: int
) -> tuple[npt.NDArray[np.int8], Scales]:
    """Integers (N, K) and scales (N,): least squares of outputs where the inputs are known."""
    own = by_group(layer, rows.shape[1])
    gram = None if stats is None else stats.gram
    if gram is None or len(gram) != own[-1].stop:  # statistics are of something else
        gram, own = None, own[:1]
    seen = 1 if stats is None else max(stats.rows, 1)

    def find() -> tuple[Array, Array]:
        parts = [
            round_channels(part, None if gram is None else gram[one, one], bits=bits, rows=seen)
            for one, part in zip(own, np.split(rows, len(own)), strict=True)
        ]
        values = np.concatenate([part.values for part in parts])
        scales = np.concatenate([part.scales[:, 0] for part in parts])
        return values, np.where(values.any(axis=1), scales, _OF_ZEROS).astype(np.float32)

    key = (digest([rows] if gram is None else [rows, gram]), len(own), bits, seen)
    values, scales = _MEMO.get(key, find)
    return values, scales
