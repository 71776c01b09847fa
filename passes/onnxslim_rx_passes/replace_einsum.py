"""Replace Einsum by the operator that it spells out."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import FLOATS, emit, fused_name, tensor_of

__all__ = ["ReplaceEinsum"]

_EQUATION = re.compile(r"([A-Za-z]*)(?:,([A-Za-z]*))?(?:->([A-Za-z]*))?")
_TYPES = (*FLOATS, ir.DataType.INT32, ir.DataType.INT64)
_AXES_AS_INPUT = 13


@dataclasses.dataclass(frozen=True)
class ReplaceEinsum(Rule):
    """Replace Einsum by one MatMul, Gemm, Mul, Transpose or ReduceSum, where it is that.

    One operand: letters in another order are a Transpose, letters left out a ReduceSum. Two
    operands: the same letters, or those at the end of the other's, are a Mul. One letter that is
    summed and last in the first operand, last but one in the second (or the operands swapped), with
    the letters in front of the two in the same order, are a MatMul; matrices in another order a
    Gemm. A Transpose in front that nobody else reads, and the order of a constant that nobody else
    reads, become part of the equation first. There never are more nodes.

    Refused: repeated letters, ellipses, sizes of the summed letter that are not proven equal
    (Einsum repeats an axis of size 1).
    """

    name: ClassVar[str] = "replace-einsum"
    roots: ClassVar[tuple[str, ...]] = ("Einsum",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        equation = node.attributes.get_string("equation", "").replace(" ", "")
        match = _EQUATION.fullmatch(equation)
        if match is None:
            return Skip("the equation has an ellipsis, or more than two operands")
        terms = [term for term in match.groups()[:2] if term is not None]
        if len(terms) != len(node.inputs) or any(len(set(t)) < len(t) for t in terms):
            return Skip("a letter is repeated")
        result = match.group(3)
        if result is None:
            joined = "".join(terms)
            result = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
        if scene.facts.dtype(node.outputs[0]) not in _TYPES:
            return Skip("MatMul does not take this type")
        one = _Equation(node, [value for value in node.inputs if value is not None], terms, result)
        if len(terms) == 1:
            return one.single(scene)
        return one.pair(scene)


@dataclasses.dataclass
class _Equation:
    node: ir.Node
    values: list[ir.Value]
    terms: list[str]
    result: str

    # -- one operand ---------------------------------------------------------------------------

    def single(self, scene: Scene) -> bool | Skip:
        """A Transpose or a ReduceSum."""
        (term,), result, tape = self.terms, self.result, ir.tape.Tape()
        if term == result:
            return scene.forward(self.node, self.node.outputs[0], self.values[0])
        if sorted(term) == sorted(result):
            perm = [term.index(c) for c in result]
            made = tape.op("Transpose", self.values, {"perm": perm}, name=self.node.name)
        elif [c for c in term if c in result] == list(result):
            axes = [axis for axis, c in enumerate(term) if c not in result]
            inputs = list(self.values)
            attributes: dict[str, int | list[int]] = {"keepdims": 0, "axes": axes}
            if scene.opset >= _AXES_AS_INPUT:
                del attributes["axes"]
                inputs.append(emit(tape, np.asarray(axes, np.int64), "axes"))
            made = tape.op("ReduceSum", inputs, attributes, name=self.node.name)
        else:
            return Skip("it sums and transposes")
        return scene.replace([self.node], tape, {self.node.outputs[0]: made})

    # -- two operands --------------------------------------------------------------------------

    def pair(self, scene: Scene) -> bool | Skip:
        """A Mul, MatMul or Gemm."""
        first, second = self.terms
        longer, shorter = _by_length(first, second)
        if self.result == longer and longer.endswith(shorter):
            tape = ir.tape.Tape()
            made = tape.op("Mul", self.values, name=self.node.name)
            return scene.replace([self.node], tape, {self.node.outputs[0]: made})
        summed = [c for c in first if c in second and c not in self.result]
        if len(summed) != 1:
            return Skip("it is no matrix product")
        k = summed[0]
        if not _same_size(k, self, scene):
            return Skip("sizes of the summed axes are not proven equal")
        options = [
            _Operand.every(v, t, scene) for v, t in zip(self.values, self.terms, strict=True)
        ]
        for swap in (False, True):
            left, right = reversed(options) if swap else options
            for one in left:
                for other in right:
                    if _is_matmul(one.term, other.term, self.result, k):
                        return self._emit("MatMul", one, other, {}, scene)
        for swap in (False, True):
            left, right = reversed(options) if swap else options
            flags = _gemm_flags(left[0].term, right[0].term, self.result, k)
            if flags is not None and scene.facts.dtype(self.values[0]) in FLOATS:
                return self._emit("Gemm", left[0], right[0], flags, scene)
        return Skip("it is no matrix product without a Transpose more")

    def _emit(
        self, op_type: str, one: _Operand, other: _Operand, flags: dict[str, int], scene: Scene
    ) -> bool:
        tape = ir.tape.Tape()
        inputs = [one.on(tape), other.on(tape)]
        made = tape.op(op_type, inputs, flags, name=self.node.name)
        old = [n for n in (one.gone, other.gone) if n is not None]
        return scene.replace([*old, self.node], tape, {self.node.outputs[0]: made})


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A way to read an operand: as it is, before its Transpose, or a constant in another order."""

    value: ir.Value
    term: str
    tensor: ir.TensorProtocol | None = None
    gone: ir.Node | None = None

    @classmethod
    def every(cls, value: ir.Value, term: str, scene: Scene) -> list[_Operand]:
        """The ways to read it, the first as it is."""
        found = [cls(value, term)]
        transpose = scene.sole(value, "Transpose")
        if transpose is not None and transpose.inputs[0] is not None:
            perm = transpose.attributes.get_ints("perm", None) or range(len(term))[::-1]
            letters = dict(zip(perm, term, strict=True))
            inner = "".join(letters[axis] for axis in range(len(term)))
            found.append(cls(transpose.inputs[0], inner, gone=transpose))
        tensor = tensor_of(value, scene) if len(term) == 2 else None
        if tensor is not None and scene.is_private(value):
            found.append(cls(value, term[::-1], tensor))
        return found

    def on(self, tape: ir.tape.Tape) -> ir.Value:
        """The value to read."""
        if self.tensor is None:
            return self.value
        array = np.ascontiguousarray(self.tensor.numpy().T)
        return emit(tape, array, fused_name(self.value, "weight"))


def _by_length(one: str, other: str) -> tuple[str, str]:
    """The two, the longer first."""
    return (one, other) if len(one) >= len(other) else (other, one)


def _is_matmul(first: str, second: str, result: str, k: str) -> bool:
    """Whether these letters are those of MatMul, k the summed one."""
    if first[-1:] != k or (second[-2:-1] if len(second) > 1 else second) != k:
        return False
    rows = first[-2:-1]
    columns = second[-1:] if len(second) > 1 else ""
    lead, other = first[:-2], second[:-2]
    longer, shorter = _by_length(lead, other)
    if len(set(longer + rows + columns)) < len(longer + rows + columns):
        return False
    if (len(first) == 1 and lead) or not longer.endswith(shorter):
        return False
    return result == longer + rows + columns


def _gemm_flags(first: str, second: str, result: str, k: str) -> dict[str, int] | None:
    """Attributes transA and transB of matrices, k the summed letter, or None."""
    if len(first) != 2 or len(second) != 2 or len(result) != 2:
        return None
    if result != first.replace(k, "") + second.replace(k, ""):
        return None
    flags = {"transA": int(first[0] == k), "transB": int(second[1] == k)}
    return {key: 1 for key, flag in flags.items() if flag}


def _same_size(k: str, one: _Equation, scene: Scene) -> bool:
    shapes = [scene.facts.shape(value) for value in one.values]
    sizes = [
        shape[term.index(k)]
        for shape, term in zip(shapes, one.terms, strict=True)
        if shape is not None and len(shape) == len(term)
    ]
    return len(sizes) == 2 and bool(sizes[0] == sizes[1])
