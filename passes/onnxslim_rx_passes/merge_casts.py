"""Merge casts in a row."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import bypass

__all__ = ["MergeCasts", "holds_all"]

_T = ir.DataType
_FLOAT_BITS = {  # of the significand, the hidden one included, and of the exponent
    _T.BFLOAT16: (8, 8),
    _T.FLOAT16: (11, 5),
    _T.FLOAT: (24, 8),
    _T.DOUBLE: (53, 11),
}
_INTEGER_BITS = {  # of the magnitude, and whether there is a sign
    _T.INT8: (7, True),
    _T.INT16: (15, True),
    _T.INT32: (31, True),
    _T.INT64: (63, True),
    _T.UINT8: (8, False),
    _T.UINT16: (16, False),
    _T.UINT32: (32, False),
    _T.UINT64: (64, False),
}


def holds_all(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every number of type `narrow`, NaN and infinities included, is one of `wide`."""
    if narrow == wide:
        return True
    if narrow == _T.BOOL:
        return wide in _FLOAT_BITS or wide in _INTEGER_BITS
    if narrow in _FLOAT_BITS:
        if wide not in _FLOAT_BITS:
            return False
        return all(a >= b for a, b in zip(_FLOAT_BITS[wide], _FLOAT_BITS[narrow], strict=True))
    if narrow not in _INTEGER_BITS:
        return False
    bits, signed = _INTEGER_BITS[narrow]
    if wide in _INTEGER_BITS:
        other, other_signed = _INTEGER_BITS[wide]
        return other >= bits and (other_signed or not signed)
    # every integer with that many bits is a float of the type, and its largest exponent is enough
    return wide in _FLOAT_BITS and _FLOAT_BITS[wide][0] >= bits


def _is_safe(before: ir.DataType, between: ir.DataType, after: ir.DataType) -> bool:
    """Whether `after`, no common float, gets the same, also what it cannot hold.

    Integers wrap; what becomes of floats out of range depends on the type they come from, and
    ONNX Runtime reads 16-bit floats as float. The text of a number depends on its type.
    """
    if after == _T.BOOL:
        return True
    if after not in _INTEGER_BITS:
        return False
    if between in _INTEGER_BITS or holds_all(after, before):
        return True
    return between == _T.FLOAT and before in (_T.FLOAT16, _T.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class MergeCasts(Rule):
    """Merge casts in a row into the last, or none.

    `Cast<c>(Cast<b>(x))` is `Cast<c>(x)` where type b holds all numbers of the type of x, as
    double holds those of float. Casts through bool or a narrower type change numbers, and stay;
    so do those of floats on to integers that may be too small for them.
    """

    name: ClassVar[str] = "merge-casts"
    roots: ClassVar[tuple[str, ...]] = ("Cast",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        first = scene.maker(node.inputs[0], "Cast")
        if first is None or first.graph is not node.graph:
            return False
        (source,) = first.inputs
        before = scene.facts.dtype(source)
        between, after = (ir.DataType(one.attributes.get_int("to", 0)) for one in (first, node))
        if source is None or before is None:
            return Skip("the type of what is cast is not known")
        if not holds_all(between, before):
            return Skip(f"{between.name} does not hold all numbers of {before.name}")
        if after == before:
            return bypass(scene, [first, node], source)
        if after not in _FLOAT_BITS and not _is_safe(before, between, after):
            return Skip(f"numbers beyond the range of {after.name} may come out differently")
        tape = ir.tape.Tape()
        attributes = {name: one for name, one in node.attributes.items() if name != "to"}
        result = tape.op("Cast", [source], {"to": int(after), **attributes})
        return scene.replace([first, node], tape, {node.outputs[0]: result}, keep=True)
