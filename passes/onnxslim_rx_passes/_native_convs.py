"""Convolutions: kernels of a few bits become `QuantConv`, chains of several `ConvChain`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._native_domain import DOMAIN, TYPES, NativeRule, folds, pads_of
from onnxslim_rx_passes._native_weights import packed, stored_weight, wrappers

__all__ = ["NativeConvChain", "NativeStoredConv"]

_MOST_STAGES = 5  # of what `factorize-conv` makes


@dataclasses.dataclass(frozen=True)
class NativeStoredConv(NativeRule):
    """Conv becomes `QuantConv` where its kernel is kept as integers, one scale a filter."""

    roots: ClassVar[tuple[str, ...]] = ("Conv",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        x, kernel = node.inputs[0], node.inputs[1]
        found = stored_weight(kernel, self.folded)
        if found is None or isinstance(found, Skip):
            return found or False
        assert kernel is not None  # there is something behind it
        rank = len(found.shape) - 2
        if rank not in (1, 2):
            return Skip(f"convolutions over {rank} axes are not computed")
        if scene.facts.dtype(x) != found.dtype:
            return Skip("its input is of another type, or not known")
        if scene.maker(x, "DequantizeLinear") is not None:
            return Skip("its input is rounded, too: it is computed on integers")
        pads = pads_of(node, rank)
        if pads is None:
            return Skip("its padding depends on the size of what enters")
        made = packed(found, rows_axis=0)
        if isinstance(made, Skip):
            return made
        tape = ir.tape.Tape()
        values, scales, zeros = made.emit(tape)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        given = [x, values, scales, *([] if zeros is None and bias is None else [zeros])]
        group = node.attributes.get_int("group", 1)
        attributes: dict[str, int | Sequence[int]] = {
            "bits": made.bits,
            "block_size": made.block,
            "channels": found.shape[1] * group,
            "kernel_shape": list(found.shape[2:]),
            "strides": node.attributes.get_ints("strides", [1] * rank),
            "pads": pads,
            "dilations": node.attributes.get_ints("dilations", [1] * rank),
            "group": group,
        }
        inputs = [*given, *([] if bias is None else [bias])]
        result = tape.op("QuantConv", inputs, attributes, domain=DOMAIN)
        return scene.replace(
            [*wrappers(kernel, node), node], tape, {node.outputs[0]: result}, keep=True
        )


@dataclasses.dataclass(frozen=True)
class NativeConvChain(NativeRule):
    """Two to five Conv, as `factorize-conv` emits them, become `ConvChain`.

    Constant kernels, no bias but the last one's, nothing in between.
    """

    roots: ClassVar[tuple[str, ...]] = ("Conv",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if not _is_stage(node, scene) or _goes_on(node, scene):
            return False
        stages = [node]
        while len(stages) < _MOST_STAGES:
            before = scene.maker(stages[0].inputs[0], "Conv")
            if before is None or _next(before, scene) is not stages[0]:
                break
            stages.insert(0, before)
        if len(stages) < 2:
            return False
        x = stages[0].inputs[0]
        shapes = [scene.facts.sizes(stage.inputs[1]) or () for stage in stages]
        ranks = {len(shape) - 2 for shape in shapes}
        pads = [pads_of(stage, len(shapes[0]) - 2) for stage in stages]
        if ranks not in ({1}, {2}):
            return Skip("convolutions over one or two axes alone are computed as a chain")
        if any(one is None for one in pads):
            return Skip("its padding depends on the size of what enters")
        if scene.facts.dtype(x) not in TYPES:
            return Skip("its type is not known, or not computed with")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        tape = ir.tape.Tape()
        kernels = [
            _two_axes(stage.inputs[1], shape, tape)
            for stage, shape in zip(stages, shapes, strict=True)
        ]
        given = [x, bias, *kernels]
        attributes = _flat(stages, shapes, [one or () for one in pads])
        result = tape.op("ConvChain", given, attributes, domain=DOMAIN)
        old = [*(n for stage in stages for n in _unread(stage)), *stages]
        return scene.replace(old, tape, {node.outputs[0]: result}, keep=True)


def _two_axes(
    kernel: ir.Value | None, shape: tuple[int, ...], tape: ir.tape.Tape
) -> ir.Value | None:
    """A kernel over two axes, of which the first is 1 long where there is one alone."""
    array = numbers(kernel) if len(shape) == 3 else None
    if kernel is None or array is None:
        return kernel
    stored = ir.tensor(array.reshape(*shape[:2], 1, shape[2]), name=f"{kernel.name}.rows")
    return tape.initializer(stored)


def _unread(stage: ir.Node) -> list[ir.Node]:
    """Nodes around a kernel that nobody reads when it has got another shape."""
    kernel = stage.inputs[1]
    flat = kernel is not None and kernel.shape is not None and len(kernel.shape) == 3
    return wrappers(kernel, stage) if flat and kernel is not None else []


def _is_stage(node: ir.Node, scene: Scene) -> bool:
    """Whether a Conv has a constant kernel that is not kept as integers."""
    kernel = node.inputs[1]
    shape = scene.facts.sizes(kernel)
    if shape is None or not folds(kernel) or stored_weight(kernel) is not None:
        return False
    return len(shape) != 3 or numbers(kernel) is not None


def _next(node: ir.Node, scene: Scene) -> ir.Node | None:
    """The Conv that alone reads a Conv without bias; None: the chain ends here."""
    value = node.outputs[0]
    if not scene.is_private(value) or not _is_stage(node, scene):
        return None
    if any(one is not None for one in node.inputs[2:]):
        return None
    (use,) = value.uses()
    reader = use.node
    plain = reader.op_type == "Conv" and reader.domain == "" and use.idx == 0
    same = reader.graph is node.graph
    return reader if plain and same and _is_stage(reader, scene) else None


def _goes_on(node: ir.Node, scene: Scene) -> bool:
    """Whether a Conv is no last one of a chain; of long rows each fifth is."""
    behind = 0
    after = _next(node, scene)
    while after is not None and behind < _MOST_STAGES:
        behind += 1
        after = _next(after, scene)
    return behind > 0


def _flat(
    stages: Sequence[ir.Node], shapes: Sequence[tuple[int, ...]], pads: Sequence[Sequence[int]]
) -> dict[str, int | list[int]]:
    """Attributes of all stages in a row; of one axis the first of two is 1 long."""
    rank = len(shapes[0]) - 2
    fill = 2 - rank

    def listed(name: str) -> list[int]:
        found = [s.attributes.get_ints(name, [1] * rank) for s in stages]
        return list(itertools.chain.from_iterable([*[1] * fill, *one] for one in found))

    return {
        "stages": len(stages),
        "kernel_shapes": [n for shape in shapes for n in (*[1] * fill, *shape[2:])],
        "strides": listed("strides"),
        "pads": [n for one in pads for n in (*[0] * fill, *one[:rank], *[0] * fill, *one[rank:])],
        "dilations": listed("dilations"),
        "groups": [stage.attributes.get_int("group", 1) for stage in stages],
    }
