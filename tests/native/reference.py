"""The operators of `ai.onnxslim.rx` in float64 numpy, straight from their definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxslim_rx.ir import serialize

Array = npt.NDArray[Any]
DOMAIN = "ai.onnxslim.rx"


def run(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name."""
    proto = onnx.ModelProto.FromString(serialize(model))
    session = ReferenceEvaluator(proto, new_ops=_OPERATORS)
    found = session.run(None, dict(feeds))
    return dict(zip([value.name for value in proto.graph.output], found, strict=True))


def unpacked(
    packed: Array, scales: Array, zeros: Array | None, bits: int, block: int, columns: int
) -> Array:
    """(rows, columns) of a weight: integer i of a row lies in bits i * bits and on of its bytes."""
    rows, count = scales.shape
    flat = packed.reshape(rows, -1)
    i = np.arange(columns)
    mask = (1 << bits) - 1
    values = (flat[:, i * bits // 8] >> (i * bits % 8)) & mask
    if zeros is None:
        points = np.full((rows, count), 1 << (bits - 1))
    else:
        j = np.arange(count)
        points = (zeros[:, j * bits // 8] >> (j * bits % 8)) & mask
    place = i // block
    wide: Array = values.astype(np.float64) - points[:, place]
    return wide * scales.astype(np.float64)[:, place]


def activated(y: Array, attributes: Mapping[str, Any]) -> Array:
    """The activation that the attributes name."""
    found: Array = y
    name = attributes.get("activation", b"").decode()
    if name == "Relu":
        found = np.maximum(y, 0.0)
    if name == "Clip":
        found = np.clip(y, attributes["clip_min"], attributes["clip_max"])
    if name == "Gelu":
        found = y * 0.5 * (1.0 + np.vectorize(math.erf)(y / math.sqrt(2.0)))
    if name == "GeluTanh":
        found = y * 0.5 * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    if name == "Silu":
        found = y / (1.0 + np.exp(-y))
    assert name in ("", "Relu", "Clip", "Gelu", "GeluTanh", "Silu")
    return found


def convolved(x: Array, w: Array, strides: Any, pads: Any, dilations: Any, group: int) -> Array:
    """A convolution over two axes, tap by tap; `pads`: top, left, bottom, right."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    filters, depth, kh, kw = w.shape
    high = (x.shape[2] - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    wide = (x.shape[3] - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    y = np.zeros((len(x), filters, high, wide))
    each = filters // group
    for g in range(group):
        part, own = x[:, g * depth : (g + 1) * depth], w[g * each : (g + 1) * each]
        for i in range(kh):
            for j in range(kw):
                a, b = i * dilations[0], j * dilations[1]
                seen = part[
                    :,
                    :,
                    a : a + strides[0] * high : strides[0],
                    b : b + strides[1] * wide : strides[1],
                ]
                y[:, g * each : (g + 1) * each] += np.einsum("bchw,oc->bohw", seen, own[:, :, i, j])
    return y


class _Native(OpRun):
    op_domain = DOMAIN

    def _run(self, *inputs: Any, **_: Any) -> tuple[Array]:
        given = {a.name: helper.get_attribute_value(a) for a in self.onnx_node.attribute}
        dtype = next(one.dtype for one in inputs if one is not None and one.dtype.kind == "f")
        wide = [
            one.astype(np.float64) if one is not None and one.dtype.kind == "f" else one
            for one in (*inputs, *[None] * 6)
        ]
        return (self.compute(wide, given).astype(dtype),)

    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        raise NotImplementedError


class QuantMatMul(_Native):
    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        a, b, scales, zeros, bias, residual = inputs[:6]
        weight = unpacked(b, scales, zeros, given["bits"], given["block_size"], given["K"])
        assert weight.shape[0] == given["N"]
        return _finished(a @ weight.T, bias, residual, given)


class LowRankMatMul(_Native):
    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        a, p, q, bias, residual = inputs[:5]
        return _finished(a @ p @ q, bias, residual, given)


class QuantGather(_Native):
    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        data, indices, scales, zeros = inputs[:4]
        assert data.shape[1] == -(-given["columns"] * given["bits"] // 8)
        table = unpacked(data, scales, zeros, given["bits"], given["block_size"], given["columns"])
        return np.asarray(table[indices])


class QuantConv(_Native):
    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        x, w, scales, zeros, bias, residual = inputs[:6]
        kernel, group = list(given["kernel_shape"]), given["group"]
        depth = given["channels"] // group
        rows = unpacked(
            w, scales, zeros, given["bits"], given["block_size"], depth * math.prod(kernel)
        )
        rank = len(kernel)
        weight = rows.reshape(-1, depth, *kernel)
        strides, pads, dilations = (list(given[n]) for n in ("strides", "pads", "dilations"))
        if rank == 1:
            x, weight = x[:, :, None], weight[:, :, None]
            strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
        y = convolved(x, weight, strides, pads, dilations, group)
        y = y[:, :, 0] if rank == 1 else y
        bias = None if bias is None else bias.reshape(-1, *[1] * rank)
        return _finished(y, bias, residual, given)


class ConvChain(_Native):
    def compute(self, inputs: list[Any], given: Mapping[str, Any]) -> Array:
        x, bias = inputs[:2]
        flat = x.ndim == 3
        x = x[:, :, None] if flat else x
        for i in range(given["stages"]):
            w = inputs[2 + i]
            assert list(w.shape[2:]) == list(given["kernel_shapes"][2 * i : 2 * i + 2])
            x = convolved(
                x, w, given["strides"][2 * i : 2 * i + 2], given["pads"][4 * i : 4 * i + 4],
                given["dilations"][2 * i : 2 * i + 2], given["groups"][i],
            )  # fmt: skip
        x = x if bias is None else x + bias.reshape(-1, 1, 1)
        return activated(x[:, :, 0] if flat else x, given)


def _finished(
    y: Array, bias: Array | None, residual: Array | None, given: Mapping[str, Any]
) -> Array:
    y = y if bias is None else y + bias
    if residual is not None:
        assert residual.shape == y.shape
        y = y + residual
    return activated(y, given)


_OPERATORS: list[type[OpRun]] = [QuantMatMul, LowRankMatMul, QuantGather, QuantConv, ConvChain]
