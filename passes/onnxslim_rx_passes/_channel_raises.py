"""Channels that use little of what a Clip lets pass, made larger by powers of two.

`min(2**e x, top) = 2**e min(x, top)` as long as `2**e x` stays below the upper end `top`, so that
the factor can be folded into the convolution before the Clip, and its inverse into the one behind.
What is rounded in between to integers that stand for 0 to `top` is rounded `2**e` times finer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import mark, marked
from onnxslim_rx.passbase import Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._channel_changes import Change
from onnxslim_rx_passes._products import Product, product
from onnxslim_rx_passes._qdq_grids import bounds_of
from onnxslim_rx_passes._weights import tensor_of

__all__ = ["MARGIN", "Raisable", "carry_out", "exponents_of", "raisable"]

MARGIN = 1.25
"""How many times larger than in calibration values may be before they are cut off."""

BY = "equalize"
"""Name of the pass, which marks a Clip that it treated."""

_MOST = 3  # of a power of two; what is smaller still matters little


@dataclasses.dataclass(frozen=True)
class Raisable:
    """A Clip from 0 or less to a number above 0 between two convolutions that nobody else reads.

    Args:
        first: makes what is clipped.
        clip: where only the upper end cuts off what grows.
        second: reads it.
        top: the upper end.
    """

    first: Product
    clip: ir.Node
    second: Product
    top: float


def raisable(scene: Scene) -> dict[str, Raisable]:
    """By the name of what leaves the Clip."""
    found = {}
    for node in scene.model.graph:
        if (node.op_type, node.domain) == ("Clip", "") and marked(node) != BY:
            link = _link(node, scene)
            if link is not None:
                found[str(node.outputs[0].name)] = link
    return found


def _link(clip: ir.Node, scene: Scene) -> Raisable | None:
    low, top = bounds_of(clip)
    uses = clip.outputs[0].uses()
    before = scene.sole(clip.inputs[0], "Conv")
    if low not in (0.0, -math.inf) or not 0 < top < math.inf or before is None or len(uses) != 1:
        return None
    ((behind, index),) = uses
    if scene.sole(clip.outputs[0], "Clip") is not clip or index != 0:
        return None
    if (behind.op_type, behind.domain) != ("Conv", ""):
        return None
    first, second = product(before, scene), product(behind, scene)
    if first is None or second is None or first.channels != second.channels_in:
        return None
    constants = [before.inputs[1], behind.inputs[1], *([first.bias] if first.bias else [])]
    if any(
        tensor_of(value, scene) is None or len(value.uses()) != 1 for value in constants if value
    ):
        return None
    return Raisable(first, clip, second, top)


def exponents_of(link: Raisable, peaks: npt.NDArray[np.floating]) -> str:
    """A digit for each channel.

    Where the next convolution mixes channels, its weights lose by what they gain: so there the
    exponent is half of what there is room for.

    Args:
        link: where the channels are.
        peaks: the largest value of each, as calibration saw; one that never was above 0, or is not
            finite, stays as it is.
    """
    share = 1.0 if link.second.shape[1] == 1 else 0.5
    usable = np.isfinite(peaks) & (peaks > 0)
    room = np.log2(link.top / MARGIN / np.where(usable, peaks, link.top))
    exponents = np.clip(np.floor(share * room), 0, _MOST).astype(int) * usable
    return "".join(map(str, exponents))


def carry_out(raises: Mapping[str, str], scene: Scene, skipped: list[Skipped]) -> int:
    """Fold the factors into the convolutions; how many Clips that were. Again: nothing changes.

    Args:
        raises: digits by the name of what leaves the Clip.
        scene: its model is changed in place.
        skipped: gets what is refused.
    """
    editor, done = Editor(scene.model), 0
    links = raisable(scene)
    for name, given in raises.items():
        link, digits = links.get(name), str(given)
        if link is None or len(digits) != link.first.channels:
            skipped.append(Skipped(name, "there is no Clip of so many channels of this name"))
            continue
        factor = np.exp2(np.array(list(digits), np.float64))
        places = [(link.first, 1, link.first.by_output(factor))]
        places += [(link.first, 2, factor)] if link.first.bias is not None else []
        places += [(link.second, 1, link.second.by_input(1 / factor))]
        changes = [Change.of(one.node, index, array, scene) for one, index, array in places]
        if not all(change.is_exact for change in changes):
            skipped.append(Skipped(name, "a weight would leave its type's range"))
            continue
        for change in changes:
            change.carry_out(editor)
        mark(link.clip, BY)
        done += 1
    return done
