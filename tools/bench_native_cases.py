"""What bench_native.py runs: pairs of models, stock operators and ours, with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import serialize
from onnxslim_rx.quant.blocks import BlockFormat
from onnxslim_rx.quant.packing import unpack
from onnxslim_rx.runtime.native import DOMAIN

__all__ = ["Case", "cases"]

Array = npt.NDArray[Any]
_MICROSOFT = "com.microsoft"
_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        name: what is run, on what size.
        stock: models of stock operators by name, ours must keep the bar against each.
        ours: the model of our operator.
        feed: the inputs of a run.
    """

    name: str
    stock: Mapping[str, Callable[[], bytes]]
    ours: Callable[[], bytes]
    feed: Mapping[str, Array]


Step = tuple[str, str, Sequence[str], Mapping[str, Any]]
"""Of a graph: operator, domain, inputs (the one before is "" ), attributes."""


def _model(x: Array, weights: Mapping[str, Array], steps: Sequence[Step], rank: int) -> bytes:
    """A chain of operators: each reads "X", weights, or what the step before gave ("-")."""
    shape = ir.Shape([f"x{axis}" for axis in range(x.ndim)])
    values = {"X": ir.Value(name="X", shape=shape, type=_type(x.dtype))}
    for name, array in weights.items():
        value = ir.Value(
            name=name, const_value=ir.tensor(array, name=name), type=_type(array.dtype)
        )
        value.shape = ir.Shape(array.shape)
        values[name] = value
    nodes: list[ir.Node] = []
    for op, domain, inputs, attributes in steps:
        read = [nodes[-1].outputs[0] if name == "-" else values[name] for name in inputs]
        nodes.append(ir.node(op, read, attributes, domain=domain))
        nodes[-1].outputs[0].name = f"y{len(nodes)}"
    last = nodes[-1].outputs[0]
    last.type = _type(np.dtype(np.float32))
    last.shape = ir.Shape([f"y{axis}" for axis in range(rank)])
    initializers = [value for name, value in values.items() if name != "X"]
    opsets = {"": 17, _MICROSOFT: 1, DOMAIN: 1}
    graph = ir.Graph(
        [values["X"]],
        [last],
        nodes=nodes,
        initializers=initializers,
        opset_imports=opsets,
        name="g",
    )
    return serialize(ir.Model(graph, ir_version=9))


def _type(dtype: npt.DTypeLike) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))


def _reals(*shape: int) -> Array:
    random = np.random.default_rng(sum(shape))
    return random.standard_normal(shape).astype(np.float32)


def _integers(rows: int, k: int, bits: int) -> dict[str, Array]:
    """A weight (rows, k) in blocks: data (rows, blocks, bytes) and scales (rows, blocks)."""
    blocks = -(-k // _BLOCK)
    random = np.random.default_rng(rows + k)
    data = random.integers(0, 256, (rows, blocks, _BLOCK * bits // 8), dtype=np.uint8)
    scales = (random.random((rows, blocks)) * 0.02 + 0.01).astype(np.float32)
    return {"B": data, "S": scales}


def _restored(weight: Mapping[str, Array], k: int, bits: int) -> Array:
    values = unpack(weight["B"], k, BlockFormat(bits=bits, group=_BLOCK)).astype(np.float32)
    scales = np.repeat(weight["S"], _BLOCK, axis=1)[:, :k]
    return np.asarray((values - np.float32(2 ** (bits - 1))) * scales)


def _quant_matmul(k: int, n: int, bits: int, rows: int) -> Case:
    weight = _integers(n, k, bits)
    x = _reals(rows, k)
    base = {"K": k, "N": n, "bits": bits, "block_size": _BLOCK}
    inputs = ("X", "B", "S")

    def stock(level: int) -> Callable[[], bytes]:
        attributes = {**base, "accuracy_level": level}
        return lambda: _model(x, weight, [("MatMulNBits", _MICROSOFT, inputs, attributes)], 2)

    return Case(
        f"QuantMatMul {k}x{n} int{bits}, {rows} rows",
        {"MatMulNBits, level 0": stock(0), "MatMulNBits, level 4": stock(4)},
        lambda: _model(x, weight, [("QuantMatMul", DOMAIN, inputs, base)], 2),
        {"X": x},
    )


def _low_rank(rows: int, k: int, rank: int, n: int) -> Case:
    weights = {"P": _reals(k, rank), "Q": _reals(rank, n)}
    x = _reals(rows, k)
    pair: list[Step] = [("MatMul", "", ("X", "P"), {}), ("MatMul", "", ("-", "Q"), {})]
    return Case(
        f"LowRankMatMul {rows}x{k}x{n}, rank {rank}",
        {"MatMul + MatMul": lambda: _model(x, weights, pair, 2)},
        lambda: _model(x, weights, [("LowRankMatMul", DOMAIN, ("X", "P", "Q"), {})], 2),
        {"X": x},
    )


def _look_up(rows: int, columns: int, bits: int, count: int) -> Case:
    weight = _integers(rows, columns, bits)
    x = np.random.default_rng(0).integers(0, rows, (1, count))
    flat = {"B": weight["B"].reshape(rows, -1), "S": weight["S"]}
    base = {"bits": bits, "block_size": _BLOCK}
    stock = {**base, "gather_axis": 0, "quantize_axis": 1}
    ours = {**base, "columns": columns}
    return Case(
        f"QuantGather {rows}x{columns} int{bits}, {count} rows",
        {
            "GatherBlockQuantized": lambda: _model(
                x, flat, [("GatherBlockQuantized", _MICROSOFT, ("B", "X", "S"), stock)], 3
            )
        },
        lambda: _model(x, flat, [("QuantGather", DOMAIN, ("B", "X", "S"), ours)], 3),
        {"X": x},
    )


Stage = tuple[int, int, int, int, int, int]
"""Of a convolution: output channels, kernel (height, width), strides (both), groups."""


def _conv_attributes(stage: Stage) -> dict[str, Any]:
    _, height, width, down, right, group = stage
    pads = [height // 2, width // 2, height // 2, width // 2]
    return {
        "kernel_shape": [height, width], "strides": [down, right], "pads": pads,
        "dilations": [1, 1], "group": group,
    }  # fmt: skip


def _chain(name: str, channels: int, size: int, stages: Sequence[Stage]) -> Case:
    x = _reals(1, channels, size, size)
    weights: dict[str, Array] = {}
    steps: list[Step] = []
    ours: dict[str, Any] = {"stages": len(stages)}
    for at, stage in enumerate(stages):
        key = f"W{at + 1}"
        weights[key] = _reals(stage[0], channels // stage[5], stage[1], stage[2])
        channels = stage[0]
        attributes = _conv_attributes(stage)
        steps.append(("Conv", "", ("-" if at else "X", key), attributes))
        for theirs, our in (
            ("kernel_shape", "kernel_shapes"), ("strides", "strides"), ("pads", "pads"),
            ("dilations", "dilations"),
        ):  # fmt: skip
            ours[our] = [*ours.get(our, []), *attributes[theirs]]
        ours["groups"] = [*ours.get("groups", []), stage[5]]
    last = np.zeros(channels, np.float32)
    return Case(
        f"ConvChain {name} at {size}x{size}",
        {"Conv, one after another": lambda: _model(x, weights, steps, 4)},
        lambda: _model(
            x,
            {"b": last, **weights},
            [("ConvChain", DOMAIN, ("X", "b", *weights), ours)],
            4,
        ),
        {"X": x},
    )


def _quant_conv(name: str, channels: int, size: int, stage: Stage, bits: int) -> Case:
    depth = channels // stage[5] * stage[1] * stage[2]
    weight = _integers(stage[0], depth, bits)
    x = _reals(1, channels, size, size)
    attributes = _conv_attributes(stage)
    shape = (stage[0], channels // stage[5], stage[1], stage[2])
    plain = {"W": _restored(weight, depth, bits).reshape(shape)}
    ours = {**attributes, "bits": bits, "block_size": _BLOCK, "channels": channels}
    return Case(
        f"QuantConv {name} int{bits} at {size}x{size}",
        {"Conv of floats": lambda: _model(x, plain, [("Conv", "", ("X", "W"), attributes)], 4)},
        lambda: _model(x, weight, [("QuantConv", DOMAIN, ("X", "B", "S"), ours)], 4),
        {"X": x},
    )


_STAGES: dict[str, tuple[int, int, list[Stage]]] = {
    "3x3 64 to 64": (64, 56, [(64, 3, 3, 1, 1, 1)]),
    "3x3 256 to 256": (256, 14, [(256, 3, 3, 1, 1, 1)]),
    "3x3 512 to 512": (512, 7, [(512, 3, 3, 1, 1, 1)]),
    "3x3 stride 2, 128 to 256": (128, 28, [(256, 3, 3, 2, 2, 1)]),
    "7x7 stride 2, 3 to 64": (3, 224, [(64, 7, 7, 2, 2, 1)]),
    "1x1 256 to 64": (256, 56, [(64, 1, 1, 1, 1, 1)]),
    "1x1 stride 2, 256 to 512": (256, 56, [(512, 1, 1, 2, 2, 1)]),
    "1x1 512 to 2048": (512, 7, [(2048, 1, 1, 1, 1, 1)]),
    "3x3 of 32 groups, 128 to 128": (128, 28, [(128, 3, 3, 1, 1, 32)]),
    "depthwise 3x3, 96": (96, 112, [(96, 3, 3, 1, 1, 96)]),
    "depthwise 3x3 stride 2, 96": (96, 112, [(96, 3, 3, 2, 2, 96)]),
    "depthwise 3x3, 384": (384, 14, [(384, 3, 3, 1, 1, 384)]),
    "depthwise 3x3, 960": (960, 7, [(960, 3, 3, 1, 1, 960)]),
    "depthwise 5x5, 240": (240, 28, [(240, 5, 5, 1, 1, 240)]),
    "SVD pair 256, rank 64": (256, 28, [(64, 1, 1, 1, 1, 1), (256, 1, 1, 1, 1, 1)]),
    "Tucker-2, 256 ranks 64 64": (
        256, 14, [(64, 1, 1, 1, 1, 1), (64, 3, 3, 1, 1, 1), (256, 1, 1, 1, 1, 1)],
    ),
    "CP, 128 rank 64": (
        128, 28,
        [(64, 1, 1, 1, 1, 1), (64, 3, 1, 1, 1, 64), (64, 1, 3, 1, 1, 64), (128, 1, 1, 1, 1, 1)],
    ),
    "tensor train, 128 rank 32": (
        128, 28,
        [(32, 1, 1, 1, 1, 1), (32, 3, 1, 1, 1, 1), (32, 1, 3, 1, 1, 1), (128, 1, 1, 1, 1, 1)],
    ),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them, one by one, as weights take memory."""
    for k, n in ((384, 1536), (4096, 4096)):
        for bits in (4, 8, 2):
            for rows in (1, 4, 16, 128):
                yield _quant_matmul(k, n, bits, rows)
    for rows, k, rank, n in (
        (1, 768, 128, 3072), (16, 768, 128, 3072), (128, 768, 128, 3072), (128, 384, 32, 1536),
        (49, 512, 64, 4608), (512, 3072, 256, 768),
    ):  # fmt: skip
        yield _low_rank(rows, k, rank, n)
    for bits in (4, 8):
        for count in (1, 128):
            yield _look_up(30522, 384, bits, count)
    for name, (channels, size, stages) in _STAGES.items():
        yield _chain(name, channels, size, stages)
    for name in ("3x3 64 to 64", "3x3 512 to 512", "1x1 256 to 64", "depthwise 3x3, 384"):
        channels, size, stages = _STAGES[name]
        for bits in (4, 8):
            yield _quant_conv(name, channels, size, stages[0], bits)
