"""Nodes that scale and shift by constants, as the rules that move them into weights read them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._weights import Wide, trifling

__all__ = ["AFFINE", "Affine", "affine", "batchnorm", "ends_fusion", "training", "vector"]

AFFINE = ("Add", "BatchNormalization", "Div", "Mul", "Sub")
"""Operators that `affine` may understand."""

_BROADCASTING = 7
"""From this version on, Add and the others broadcast like NumPy."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """`y = scale * x + shift`.

    Args:
        x: the value that is scaled.
        scale: None: 1. Broadcasts against x like NumPy does, or with `by_channel`, a vector along
            axis 1.
        shift: None: 0. Likewise.
        by_channel: see `scale`.
    """

    x: ir.Value
    scale: Wide | None
    shift: Wide | None
    by_channel: bool = False

    def vectors(
        self, trailing: int, channels: int, rank: int | None
    ) -> tuple[Wide | None, Wide | None] | None:
        """Scale and shift as vectors along one axis, or None where they vary along another.

        Args:
            trailing: axes of x behind that axis.
            channels: its size.
            rank: of x, or None.

        Returns:
            Two arrays of shape () or (channels,), None for what is not there.
        """
        if self.by_channel:
            arrays = [array for array in (self.scale, self.shift) if array is not None]
            if rank is None or rank - 2 != trailing or any(len(a) != channels for a in arrays):
                return None
            return self.scale, self.shift
        found = []
        for array in (self.scale, self.shift):
            along = None if array is None else vector(array, trailing, channels, rank)
            if along is None and array is not None:
                return None
            found.append(along)
        return found[0], found[1]


def vector(array: Wide, trailing: int, channels: int, rank: int | None) -> Wide | None:
    """A constant that broadcasts against x, as a vector along one axis of x; see `Affine`.

    None where it varies along another axis or has more axes than x, so that the result might be
    larger than x.
    """
    if array.ndim > (trailing + 1 if rank is None else rank):
        return None
    if array.size == 1:
        return array.reshape(())
    axis = array.ndim - 1 - trailing
    if axis < 0 or array.shape[axis] != channels or array.size != channels:
        return None
    return array.reshape(channels)


def affine(node: ir.Node, scene: Scene) -> Affine | None:
    """What `node`, one of `AFFINE`, computes; None where it is not of that form."""
    if node.op_type == "BatchNormalization":
        return batchnorm(node, scene)
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    constant = _operand(node, second, scene)
    x = first
    if constant is None and node.op_type != "Div":
        constant, x = _operand(node, first, scene), second
    if constant is None or x is None or trifling(scene, x) is not None:
        return None
    if node.op_type == "Add":
        return Affine(x, None, constant)
    if node.op_type == "Mul":
        return Affine(x, constant, None)
    if node.op_type == "Div":
        with np.errstate(all="ignore"):
            return Affine(x, 1 / constant, None)
    if x is first:
        return Affine(x, None, -constant)
    return Affine(x, np.asarray(-1.0), constant)


def _operand(node: ir.Node, value: ir.Value | None, scene: Scene) -> Wide | None:
    """The constant operand, in a shape that broadcasts like NumPy's, or None."""
    array = trifling(scene, value)
    if array is None or scene.opset >= _BROADCASTING:
        return array
    if not node.attributes.get_int("broadcast", 0):  # then it has the shape of the other
        return array if array.ndim == 0 else None
    if value is not node.inputs[1]:
        return None
    axis = node.attributes.get_int("axis", None)
    if axis is None:
        return array
    rank = scene.facts.rank(node.inputs[0])
    if rank is None:
        return None
    behind = rank - array.ndim - axis % rank
    return None if behind < 0 else array.reshape(*array.shape, *[1] * behind)


def batchnorm(node: ir.Node, scene: Scene) -> Affine | None:
    """What a BatchNormalization computes that does not train and whose statistics are constants."""
    x = node.inputs[0]
    parts = [trifling(scene, value) for value in node.inputs[1:5]]
    if x is None or training(node, scene) is not None:
        return None
    known = [part for part in parts if part is not None and part.ndim == 1]
    if len(known) != 4:
        return None
    scale, bias, mean, var = known
    if not len(scale) == len(bias) == len(mean) == len(var):
        return None
    with np.errstate(all="ignore"):  # callers refuse what is not finite
        factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        return Affine(x, factor, bias - mean * factor, by_channel=True)


def training(node: ir.Node, scene: Scene) -> str | None:
    """Why a BatchNormalization is not the one of inference, or None."""
    trained = node.attributes.get_int("training_mode", 0)
    if scene.opset < 7:
        trained = not node.attributes.get_int("is_test", 0)
    if trained or any(value.name or value.uses() for value in node.outputs[1:]):
        return "it runs in training mode"
    if scene.opset < 9 and not node.attributes.get_int("spatial", 1):
        return "it has statistics of each element"
    return None


def ends_fusion(node: ir.Node, scene: Scene) -> str | None:
    """What ONNX Runtime would fuse into one kernel with `node` as its last, or None.

    A normalisation that is spelt out ends in Mul by its scale, and maybe Add; GELU in Mul by 1/2.
    Without that the runtime does not take them for what they are.
    """
    if node.op_type == "Add":
        products = [scene.maker(value, "Mul") for value in node.inputs]
        found = (one and ends_fusion(one, scene) for one in products)
        return "a normalisation" if "a normalisation" in found else None
    if node.op_type != "Mul":
        return None
    for value in node.inputs:
        inner = scene.maker(value, "Div", "Mul")
        if inner is None:
            continue
        if any(_is_inverse(one, inner, scene) for one in inner.inputs):
            return "a normalisation"
        sums = (scene.maker(one, "Add") for one in inner.inputs)
        if any(scene.maker(one, "Erf", "Tanh") for add in sums if add for one in add.inputs):
            return "a GELU"
    return None


def _is_inverse(value: ir.Value | None, reader: ir.Node, scene: Scene) -> bool:
    """Whether `reader` divides by a root, `value`, or multiplies by its inverse."""
    node = scene.maker(value, "Sqrt", "Reciprocal", "Div", "Pow")
    if node is None:
        return False
    if node.op_type == "Sqrt":
        return reader.op_type == "Div" and value is reader.inputs[1]
    return reader.op_type == "Mul" and any(
        scene.maker(one, "Sqrt", "Add") is not None for one in node.inputs
    )
