"""Let Gemm transpose its operands."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import FLOATS, made_by

__all__ = ["FuseTransposeGemm"]

_OPTIONAL_C = 11


@dataclasses.dataclass(frozen=True)
class FuseTransposeGemm(Rule):
    """Replace Transpose of a matrix in front of Gemm or MatMul by Gemm's `transA` and `transB`.

    Exact. A MatMul becomes a Gemm: both operands must be proven to be matrices of floating-point
    numbers, and opset 11 is the first whose Gemm needs no third operand.

    Refused: a Transpose that others read: it would stay.
    """

    name: ClassVar[str] = "fuse-transpose-gemm"
    roots: ClassVar[tuple[str, ...]] = ("Gemm", "MatMul")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        found = [scene.maker(value, "Transpose") for value in node.inputs[:2]]
        if not any(found):
            return False
        if node.op_type == "MatMul":
            if scene.opset < _OPTIONAL_C:
                return False
            ranks = [scene.facts.rank(value) for value in node.inputs]
            if ranks != [2, 2]:
                return Skip("the number of axes is not known") if None in ranks else False
            if scene.facts.dtype(node.inputs[0]) not in FLOATS:
                return Skip("Gemm takes floating-point numbers")
        flags = {key: node.attributes.get_int(key, 0) for key in ("transA", "transB")}
        inputs, old = list(node.inputs), []
        for index, key in enumerate(flags):
            transpose = scene.sole(inputs[index], "Transpose")
            perm = None if transpose is None else transpose.attributes.get_ints("perm", None)
            if transpose is not None and (perm is None or list(perm) == [1, 0]):
                inputs[index], flags[key] = transpose.inputs[0], 1 - flags[key]
                old.append(transpose)
        if not old:
            return Skip("the transposed matrix is read elsewhere too")
        tape = ir.tape.Tape()
        result = tape.op("Gemm", inputs, name=node.name)
        attributes = {k: a for k, a in node.attributes.items() if k not in flags}
        attributes.update({key: ir.AttrInt64(key, 1) for key, flag in flags.items() if flag})
        made_by(result).attributes.update(attributes)
        return scene.replace([*old, node], tape, {node.outputs[0]: result})
