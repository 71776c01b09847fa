"""Recognise blocks of channels that move into the plane, and back."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Dim
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import DOUBLE, FLOAT, FLOAT16, SHARED, closed, lacks_kernel

__all__ = ["FuseDepthToSpace"]

_OPSET = 11  # the first with a mode

_DCR = (0, 3, 4, 1, 5, 2)
_CRD = (0, 1, 4, 2, 5, 3)
_BACK = (0, 3, 5, 1, 2, 4)


@dataclasses.dataclass(frozen=True)
class FuseDepthToSpace(Rule):
    """Replace Reshape-Transpose-Reshape by `DepthToSpace` or `SpaceToDepth`.

    (N, C b b, H, W) to (N, C, H b, W b) by way of (N, b, b, C, H, W), the mode DCR, or of
    (N, C, b, b, H, W), the mode CRD, which is PyTorch's PixelShuffle (Shi et al., 2016); and
    (N, C, H b, W b) to (N, b b C, H, W) by way of (N, C, H, b, W, b). N, H and W may be symbols.

    Refused: sizes that are not proven; intermediate results that are read elsewhere; types other
    than float, float16 and double.
    """

    name: ClassVar[str] = "fuse-depth-to-space"
    roots: ClassVar[tuple[str, ...]] = ("Reshape",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        transpose = scene.maker(node.inputs[0], "Transpose")
        if transpose is None or scene.opset < _OPSET:
            return False
        perm = tuple(transpose.attributes.get_ints("perm", ()))
        first = scene.maker(transpose.inputs[0], "Reshape")
        x = None if first is None else first.inputs[0]
        if first is None or x is None or perm not in (_DCR, _CRD, _BACK):
            return False
        shapes = [scene.facts.shape(value) for value in (x, first.outputs[0], node.outputs[0])]
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes):
            return Skip("the sizes are not known")
        if [len(shape) for shape in known] != [4, 6, 4]:
            return False
        found = _move(perm, *known)
        if found is None:
            return Skip("the sizes are not those of blocks, or not known")
        refused = lacks_kernel(scene, x, found.op_type, (FLOAT, FLOAT16, DOUBLE))
        if refused is not None:
            return refused
        old = closed(node, [first, transpose])
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        attributes: dict[str, int | str] = {"blocksize": found.block}
        if found.mode:
            attributes["mode"] = found.mode
        result = tape.op(found.op_type, [x], attributes)
        return scene.replace(old, tape, {node.outputs[0]: result})


class _Move(NamedTuple):
    op_type: str
    mode: str
    block: int


def _move(
    perm: tuple[int, ...],
    before: tuple[Dim, ...],
    between: tuple[Dim, ...],
    after: tuple[Dim, ...],
) -> _Move | None:
    """What moves, where the sizes of the three tensors are proven to be right."""
    if perm == _BACK:
        n, c, h, block, w, other = between
        if not isinstance(block, int) or block != other or block < 1:
            return None
        proven = before == (n, c, h * block, w * block) and after == (n, c * block * block, h, w)
        return _Move("SpaceToDepth", "", block) if proven else None
    n, h, w = between[0], between[4], between[5]
    c, block, other = (between[i] for i in ((3, 1, 2) if perm == _DCR else (1, 2, 3)))
    if not isinstance(block, int) or block != other or block < 1:
        return None
    proven = before == (n, c * block * block, h, w) and after == (n, c, h * block, w * block)
    return _Move("DepthToSpace", "DCR" if perm == _DCR else "CRD", block) if proven else None
