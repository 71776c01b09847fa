"""Operators on integers that have a weight, in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers
from onnxslim_rx.analysis.stored import of_blocks, stored
from onnxslim_rx_passes._floats import Draft, RefusedError

__all__ = ["LAYERS"]

_MS = "com.microsoft"
_NO_CONSTANT = "a scale or zero point is no constant"


def _qlinear_matmul(draft: Draft) -> bool:
    a = draft.real(draft.needed(0), draft.needed(1), draft.input(2), axis=-2)
    b = draft.real(draft.needed(3), draft.needed(4), draft.input(5), axis=-1)
    y = draft.tape.op("MatMul", [a, b])
    return draft.finish(draft.rounded(y, draft.needed(6), draft.input(7)))


def _qlinear_conv(draft: Draft) -> bool:
    _check_channels_first(draft)
    x = draft.real(draft.needed(0), draft.needed(1), draft.input(2))
    w = draft.real(draft.needed(3), draft.needed(4), draft.input(5), axis=0)
    bias = _bias(draft, 8, scales=(1, 4))
    y = draft.tape.op("Conv", [x, w, *bias], _without(draft.node, "channels_last"))
    return draft.finish(draft.rounded(y, draft.needed(6), draft.input(7)))


def _qgemm(draft: Draft) -> bool:
    attributes = draft.node.attributes
    alpha = attributes.get_float("alpha", 1.0)
    a = draft.real(draft.needed(0), draft.needed(1), draft.input(2))
    axis = 0 if attributes.get_int("transB", 0) else 1
    b = draft.real(draft.needed(3), draft.needed(4), draft.input(5), axis=axis)
    bias = _bias(draft, 6, scales=(1, 4), factor=alpha)
    y = draft.tape.op("Gemm", [a, b, *bias], attributes)
    scale = draft.input(7)
    return draft.finish(y if scale is None else draft.rounded(y, scale, draft.input(8)))


def _bias(
    draft: Draft, index: int, *, scales: tuple[int, int], factor: float = 1.0
) -> list[ir.Value]:
    """A bias of 32-bit integers, whose scale is the product of two inputs; none: no inputs."""
    bias = draft.input(index)
    if bias is None:
        return []
    found = [numbers(draft.needed(one)) for one in scales]
    if found[0] is None or found[1] is None:
        raise RefusedError(_NO_CONSTANT)
    dtype = ir.DataType.from_numpy(found[0].dtype)
    scale = found[0].astype(np.float64).reshape(-1) * found[1].astype(np.float64).reshape(-1)
    return [draft.weight(stored(bias, scale * factor, None, dtype, axis=-1))]


def _matmul_nbits(draft: Draft) -> bool:
    weight = draft.weight(of_blocks(draft.node), turned=True)
    y = draft.tape.op("MatMul", [draft.needed(0), weight])
    return draft.finish(draft.add(y, draft.input(5)))


def _gather_block_quantized(draft: Draft) -> bool:
    axis = draft.node.attributes.get_int("gather_axis", 0)
    table = draft.weight(of_blocks(draft.node))
    return draft.finish(draft.tape.op("Gather", [table, draft.needed(1)], {"axis": axis}))


def _dynamic_quantize_matmul(draft: Draft) -> bool:
    b = draft.real(draft.needed(1), draft.needed(2), draft.input(3), axis=-1)
    y = draft.tape.op("MatMul", [draft.needed(0), b])
    return draft.finish(draft.add(y, draft.input(4)))


def _matmul_integer_to_float(draft: Draft) -> bool:
    a = draft.real(draft.needed(0), draft.needed(2), draft.input(4))
    b = draft.real(draft.needed(1), draft.needed(3), draft.input(5), axis=-1)
    return draft.finish(draft.add(draft.tape.op("MatMul", [a, b]), draft.input(6)))


def _dynamic_quantize_lstm(draft: Draft) -> bool:
    """Its weights are (directions, inputs, gates), those of LSTM (directions, gates, inputs)."""
    w, r = (_gates(draft, index, scale) for index, scale in ((1, 8), (2, 10)))
    rest = [draft.input(index) for index in range(3, 8)]
    while rest and rest[-1] is None:
        rest.pop()
    return _same_outputs(draft, "LSTM", [draft.needed(0), w, r, *rest], "")


def _gates(draft: Draft, index: int, scale: int) -> ir.Value:
    weight, scales, zeros = draft.needed(index), numbers(draft.needed(scale)), None
    zero = draft.input(scale + 1)
    if zero is not None:
        zeros = numbers(zero)
    if scales is None or (zero is not None and zeros is None):
        raise RefusedError(_NO_CONSTANT)
    shape = draft.scene.facts.sizes(weight)
    if shape is None or len(shape) != 3:
        raise RefusedError("the weight has no three axes")
    dtype = ir.DataType.from_numpy(scales.dtype)
    wide = _per_direction(scales, shape[0])
    points = None if zeros is None else _per_direction(zeros, shape[0])
    return draft.weight(stored(weight, wide, points, dtype), turned=True)


def _per_direction(array: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.generic]:
    """(count, 1, one or all gates): one number for each direction, or for each of its gates."""
    return array.reshape(count, 1, -1) if array.size % count == 0 else array


def _q_attention(draft: Draft) -> bool:
    x = draft.real(draft.needed(0), draft.needed(3), draft.input(6))
    w = draft.real(draft.needed(1), draft.needed(4), draft.input(7), axis=-1)
    rest = [draft.input(2), draft.input(5), draft.input(8)]
    while rest and rest[-1] is None:
        rest.pop()
    return _same_outputs(draft, "Attention", [x, w, *rest], _MS)


def _q_embed_layer_norm(draft: Draft) -> bool:
    tables: list[ir.Value | None] = []
    for index in range(2, 7):  # words, positions, segments, then scale and bias of the norm
        if draft.input(index) is None:
            tables.append(None)
            continue
        scale, zero = draft.needed(index + 6), draft.input(index + 11)
        tables.append(draft.real(draft.needed(index), scale, zero))
    rest = [] if draft.input(7) is None else [draft.input(7)]
    inputs = [draft.input(0), draft.input(1), *tables, *rest]
    return _same_outputs(draft, "EmbedLayerNormalization", inputs, _MS)


def _same_outputs(draft: Draft, op_type: str, inputs: list[ir.Value | None], domain: str) -> bool:
    """An operator with the attributes and outputs of the node."""
    node = draft.node
    results = draft.tape.op_multi_out(
        op_type, inputs, node.attributes, num_outputs=len(node.outputs), domain=domain
    )
    for before, after in zip(node.outputs, results, strict=True):
        if before.name == "":  # left out
            after.name = ""
    return draft.finish(*results)


def _check_channels_first(draft: Draft) -> None:
    if draft.node.attributes.get_int("channels_last", 0):
        raise RefusedError("its channels come last")


def _without(node: ir.Node, *names: str) -> dict[str, ir.Attr]:
    return {name: attr for name, attr in node.attributes.items() if name not in names}


def _pointwise(op_type: str) -> Callable[[Draft], bool]:
    """`(a, b)`, each with scale and zero point."""

    def lower(draft: Draft) -> bool:
        a = draft.real(draft.needed(0), draft.needed(1), draft.input(2))
        b = draft.real(draft.needed(3), draft.needed(4), draft.input(5))
        y = draft.tape.op(op_type, [a, b])
        return draft.finish(draft.rounded(y, draft.needed(6), draft.input(7)))

    return lower


def _unary(op_type: str) -> Callable[[Draft], bool]:
    """`x` with scale and zero point."""

    def lower(draft: Draft) -> bool:
        node = draft.node
        if op_type == "Softmax":
            version = node.attributes.get_int("opset", 0)
            if (version < 13) != (draft.scene.opset < 13):  # of what axis means
                raise RefusedError(f"it is that of opset {version}")
        _check_channels_first(draft)
        x = draft.real(draft.needed(0), draft.needed(1), draft.input(2))
        y = draft.tape.op(op_type, [x], _without(node, "channels_last", "opset"))
        return draft.finish(draft.rounded(y, draft.needed(3), draft.input(4)))

    return lower


def _qlinear_concat(draft: Draft) -> bool:
    count = (len(draft.node.inputs) - 2) // 3
    places = range(2, 2 + 3 * count, 3)
    parts = [draft.real(draft.needed(i), draft.needed(i + 1), draft.input(i + 2)) for i in places]
    y = draft.tape.op("Concat", parts, draft.node.attributes)
    return draft.finish(draft.rounded(y, draft.needed(0), draft.input(1)))


def _qlinear_where(draft: Draft) -> bool:
    x = draft.real(draft.needed(1), draft.needed(2), draft.input(3))
    y = draft.real(draft.needed(4), draft.needed(5), draft.input(6))
    z = draft.tape.op("Where", [draft.needed(0), x, y])
    return draft.finish(draft.rounded(z, draft.needed(7), draft.input(8)))


LAYERS: Mapping[str, Callable[[Draft], bool]] = {
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    f"{_MS}::DynamicQuantizeLSTM": _dynamic_quantize_lstm,
    f"{_MS}::DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    f"{_MS}::GatherBlockQuantized": _gather_block_quantized,
    f"{_MS}::MatMulIntegerToFloat": _matmul_integer_to_float,
    f"{_MS}::MatMulNBits": _matmul_nbits,
    f"{_MS}::QAttention": _q_attention,
    f"{_MS}::QEmbedLayerNormalization": _q_embed_layer_norm,
    f"{_MS}::QGemm": _qgemm,
    f"{_MS}::QLinearAdd": _pointwise("Add"),
    f"{_MS}::QLinearAveragePool": _unary("AveragePool"),
    f"{_MS}::QLinearConcat": _qlinear_concat,
    f"{_MS}::QLinearConv": _qlinear_conv,
    f"{_MS}::QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    f"{_MS}::QLinearLeakyRelu": _unary("LeakyRelu"),
    f"{_MS}::QLinearMul": _pointwise("Mul"),
    f"{_MS}::QLinearSigmoid": _unary("Sigmoid"),
    f"{_MS}::QLinearSoftmax": _unary("Softmax"),
    f"{_MS}::QLinearWhere": _qlinear_where,
}
"""By operator: puts a node in floating point in its place, or raises `RefusedError`."""
