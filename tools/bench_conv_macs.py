"""Multiply-adds of a model, counted by ONNX's own shapes and by nothing of onnxslim_rx."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import onnx
from onnx import shape_inference

__all__ = ["Site", "macs", "sites"]

Shape = tuple[int, ...]
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
REFUSED = (
    "ConvInteger", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "LSTM",
    "MatMulInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul", "RNN",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Site:
    """A node that multiplies by a weight, at one image.

    Args:
        node: of the model.
        input: shape of its first input.
        weight: shape of its second.
        output: shape of its output.
    """

    node: onnx.NodeProto
    input: Shape
    weight: Shape
    output: Shape

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        if self.node.op_type == "ConvTranspose":  # each input value meets a kernel (M, k, ...)
            return math.prod(self.input) * math.prod(self.weight[1:])
        if self.node.op_type == "Conv":  # each output value is a sum over (C, k, ...)
            return math.prod(self.output) * math.prod(self.weight[1:])
        inner = self.input[0] if attribute(self.node, "transA") else self.input[-1]
        return math.prod(self.output) * inner


def attribute(node: onnx.NodeProto, name: str) -> int:
    """An integer attribute, 0 where it is missing."""
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def sites(model: onnx.ModelProto) -> list[Site]:
    """All nodes that count, in order, with a batch of one.

    Raises:
        ValueError: the shapes of such a node are not known, or others multiply, too.
    """
    if others := {node.op_type for node in model.graph.node} & set(REFUSED):
        raise ValueError(f"{', '.join(sorted(others))} are not counted")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constant = {tensor.name for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        for size in value.type.tensor_type.shape.dim if value.name not in constant else ():
            if not size.dim_value:
                size.dim_value = 1
    del fixed.graph.value_info[:]  # of another batch size, perhaps
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed = shape_inference.infer_shapes(fixed, data_prop=True)
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in fixed.graph.initializer}
    for value in (*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    found = []
    for node in model.graph.node:
        if node.op_type in COUNTED:
            names = (node.input[0], node.input[1], node.output[0])
            if missing := [name for name in names if name not in shapes]:
                raise ValueError(f"the shape of {', '.join(missing)} is not known")
            found.append(Site(node, *(shapes[name] for name in names)))
    return found


def macs(path: Path) -> int:
    """Multiply-adds of a model file for one image; convolutions, Gemm and MatMul count."""
    return sum(site.macs for site in sites(onnx.load(path, load_external_data=False)))
