"""Let the operator behind a Pad do the padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import made_by

__all__ = ["FusePad"]


@dataclasses.dataclass(frozen=True)
class FusePad(Rule):
    """Replace Pad and the Conv, AveragePool or MaxPool behind it by the latter with larger `pads`.

    Pad adds a constant to the spatial axes alone, and none of its sizes is negative. In front of
    Conv the constant is 0. In front of AveragePool it is 0, and the average counts what is padded
    (`count_include_pad`). In front of MaxPool it is minus infinity, which no maximum picks, or 0
    and the input is not negative, being made by Relu: each window holds an element of the input,
    as pads are smaller than the window.

    Refused: Pad with other readers; padding whose amount follows from the size (`auto_pad`);
    pools with `ceil_mode` or dilation, whose last windows may lie in the padding; MaxPool whose
    second output is read.
    """

    name: ClassVar[str] = "fuse-pad"
    roots: ClassVar[tuple[str, ...]] = ("AveragePool", "Conv", "MaxPool")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        pad = scene.maker(node.inputs[0], "Pad")
        if pad is None or pad.inputs[0] is None:
            return False
        if scene.sole(node.inputs[0], "Pad") is None:
            return Skip("the result of Pad is read elsewhere too")
        why_not = _wrong_constant(pad, node, scene)
        if why_not is not None:
            return Skip(why_not)
        if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return Skip("the operator pads by the size of its input")
        sizes = _sizes(pad, scene)
        if sizes is None:
            return Skip("the padding is computed, negative, or not of spatial axes alone")
        own = node.attributes.get_ints("pads", None) or [0] * len(sizes)
        if len(own) != len(sizes):
            return Skip("the number of axes is not that of the operator")
        total = [a + b for a, b in zip(own, sizes, strict=True)]
        if node.op_type != "Conv":
            why_not = _not_in_pool(node, own, total, scene)
            if why_not is not None:
                return Skip(why_not)
        tape = ir.tape.Tape()
        result = tape.op(node.op_type, [pad.inputs[0], *node.inputs[1:]], name=node.name)
        attributes = {k: a for k, a in node.attributes.items() if k != "auto_pad"}
        attributes["pads"] = ir.AttrInt64s("pads", total)
        if node.op_type == "AveragePool":
            attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        made_by(result).attributes.update(attributes)
        return scene.replace([pad, node], tape, {node.outputs[0]: result})


def _wrong_constant(pad: ir.Node, node: ir.Node, scene: Scene) -> str | None:
    """Why what Pad adds is not what the operator would, or None."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "Pad repeats its input"
    if scene.opset < 11:
        number: float | None = pad.attributes.get_float("value", 0.0)
    elif len(pad.inputs) < 3 or pad.inputs[2] is None:
        number = 0.0
    else:
        number = scene.scalar(pad.inputs[2])
    if node.op_type != "MaxPool":
        return None if number == 0 else "Pad does not add zeros"
    if number == float("-inf"):
        return None
    if number == 0 and scene.maker(pad.inputs[0], "Relu") is not None:
        return None
    return "Pad adds what may be larger than the input"


def _sizes(pad: ir.Node, scene: Scene) -> list[int] | None:
    """What Pad adds before and behind each spatial axis, as in the attribute `pads`."""
    if scene.opset < 11:
        sizes: Sequence[object] | None = pad.attributes.get_ints("pads", None)
    else:
        sizes = scene.facts.contents(pad.inputs[1])
    numbers = [size for size in sizes or () if isinstance(size, int)]
    if sizes is None or len(numbers) != len(sizes) or min(numbers, default=-1) < 0:
        return None
    rank = len(numbers) // 2
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        full = scene.facts.rank(pad.inputs[0])
        axes = scene.facts.contents(pad.inputs[3])
        chosen = [axis for axis in axes or () if isinstance(axis, int)]
        if full is None or axes is None or len(chosen) != len(axes) or len(chosen) != rank:
            return None
        placed = [0] * (2 * full)
        for index, axis in enumerate(chosen):
            placed[axis % full] = numbers[index]
            placed[full + axis % full] = numbers[rank + index]
        rank, numbers = full, placed
    if rank < 3 or any(numbers[:2]) or any(numbers[rank : rank + 2]):
        return None
    return [*numbers[2:rank], *numbers[rank + 2 :]]


def _not_in_pool(
    node: ir.Node, own: Sequence[int], total: Sequence[int], scene: Scene
) -> str | None:
    """Why a pool cannot pad that much, or None."""
    if node.attributes.get_int("ceil_mode", 0):
        return "the last windows of the pool may lie in the padding"
    if any(step != 1 for step in node.attributes.get_ints("dilations", ())):
        return "windows with gaps may lie in the padding"
    window = node.attributes.get_ints("kernel_shape", ())
    if len(total) != 2 * len(window):
        return "the number of axes is not that of the operator"
    if any(size >= width for size, width in zip(total, [*window, *window], strict=True)):
        return "windows may lie in the padding"
    if node.op_type == "MaxPool":
        read = [value for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
        return "indices of the maxima are read" if read else None
    counted = node.attributes.get_int("count_include_pad", 0)
    if scene.opset < 7 or (any(own) and not counted):
        return "the average leaves out what the pool pads itself"
    return None
