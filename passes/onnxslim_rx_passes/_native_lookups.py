"""Rows of tables of a few bits are looked up by `QuantGather`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._native_domain import DOMAIN, TYPES, NativeRule, folds
from onnxslim_rx_passes._native_weights import packed, stored_weight, wrappers

__all__ = ["NativeBlockLookUp", "NativeStoredLookUp"]

_MS = "com.microsoft"
_INDICES = (ir.DataType.INT32, ir.DataType.INT64)


@dataclasses.dataclass(frozen=True)
class NativeBlockLookUp(NativeRule):
    """`GatherBlockQuantized` becomes `QuantGather`, which reads the same bytes."""

    roots: ClassVar[tuple[str, ...]] = (f"{_MS}::GatherBlockQuantized",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        facts, attributes = scene.facts, node.attributes
        table, indices, scales, zeros = (*node.inputs, None)[:4]
        bits, block = attributes.get_int("bits", 4), attributes.get_int("block_size", 128)
        shape = facts.sizes(table)
        if facts.dtype(table) != ir.DataType.UINT8 or shape is None or len(shape) != 2:
            return Skip("its table is no matrix of bytes")
        if attributes.get_int("gather_axis", 0) or attributes.get_int("quantize_axis", 1) % 2 != 1:
            return Skip("it looks up something else than rows")
        if bits not in (2, 4, 8) or block < 8 or block % 8:
            return Skip(f"blocks of {block} integers of {bits} bits are not read")
        columns = shape[1] * 8 // bits
        count = -(-columns // block)
        fit = facts.sizes(scales) == (shape[0], count)
        if zeros is not None:
            points = (shape[0], -(-count * bits // 8))
            fit &= facts.dtype(zeros) == ir.DataType.UINT8 and facts.sizes(zeros) == points
        given = [table, scales, *([] if zeros is None else [zeros])]
        if not fit or not all(map(folds, given)) or facts.dtype(scales) not in TYPES:
            return Skip("scales or zero points are no constants, or of another shape")
        tape = ir.tape.Tape()
        made = {"columns": columns, "bits": bits, "block_size": block}
        inputs = [table, indices, *given[1:]]
        result = tape.op("QuantGather", inputs, made, domain=DOMAIN)
        return scene.replace([node], tape, {node.outputs[0]: result})


@dataclasses.dataclass(frozen=True)
class NativeStoredLookUp(NativeRule):
    """Gather of rows becomes `QuantGather` where the table is kept as integers."""

    roots: ClassVar[tuple[str, ...]] = ("Gather",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        table, indices = node.inputs[0], node.inputs[1]
        found = stored_weight(table, self.folded)
        if found is None or isinstance(found, Skip):
            return found or False
        assert table is not None  # there is something behind it
        if node.attributes.get_int("axis", 0) or len(found.shape) != 2:
            return Skip("it looks up something else than rows of a matrix")
        if scene.facts.dtype(indices) not in _INDICES:
            return Skip("the type of its indices is not known")
        made = packed(found, rows_axis=0)
        if isinstance(made, Skip):
            return made
        tape = ir.tape.Tape()
        values, *grid = made.emit(tape, flat=True)
        attributes = {"columns": made.shape[1], "bits": made.bits, "block_size": made.block}
        inputs = [values, indices, *(one for one in grid if one is not None)]
        result = tape.op("QuantGather", inputs, attributes, domain=DOMAIN)
        return scene.replace(
            [*wrappers(table, node), node], tape, {node.outputs[0]: result}, keep=True
        )
