"""Patches: what a convolution multiplies with its kernel to make one position of its output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration.moments import CHUNK
from onnxslim_rx.ir import constant

__all__ = ["Draw", "Patches"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Patches:
    """Where a convolution reads; the numbers of the operator `Conv`, one for each spatial axis.

    Args:
        kernel: sizes of the kernel.
        strides: steps between patches.
        pads: zeros before each axis, then after each; of no meaning where `auto_pad` is "SAME_...".
        dilations: steps between entries of a patch.
        auto_pad: "NOTSET", "SAME_UPPER" or "SAME_LOWER".
    """

    kernel: Sizes
    strides: Sizes
    pads: Sizes
    dilations: Sizes
    auto_pad: str = "NOTSET"

    @classmethod
    def of(cls, node: ir.Node, kernel: Sequence[int] | None = None) -> Patches:
        """The patches of a Conv.

        Args:
            node: has the attributes of a Conv.
            kernel: its sizes; None: the weight is a constant, or the node states them.

        Raises:
            ValueError: the sizes of the kernel are not known.
        """
        if kernel is None:
            tensor = constant(node.inputs[1])
            stated = node.attributes.get_ints("kernel_shape", [])
            kernel = stated if tensor is None else tensor.shape.numpy()[2:]
        if not kernel:
            raise ValueError(f"the sizes of the kernel of {node.name!r} are not known")
        rank = len(kernel)
        auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
        fixed = auto_pad == "NOTSET"
        pads = node.attributes.get_ints("pads", [0] * 2 * rank) if fixed else [0] * 2 * rank
        return cls(
            tuple(kernel),
            tuple(node.attributes.get_ints("strides", [1] * rank)),
            tuple(pads),
            tuple(node.attributes.get_ints("dilations", [1] * rank)),
            "NOTSET" if auto_pad == "VALID" else auto_pad,
        )

    @classmethod
    def pointwise(cls, rank: int) -> Patches:
        """Each position of an image with `rank` spatial axes alone."""
        ones = (1,) * rank
        return cls(ones, ones, (0,) * 2 * rank, ones)

    @property
    def taps(self) -> int:
        """Entries of a patch in one channel."""
        return math.prod(self.kernel)

    def positions(self, shape: Sequence[int]) -> Sizes:
        """(N, ...): what the convolution makes of images of this shape, (N, C, ...)."""
        return (shape[0], *(count for _, count in self._windows(shape[2:])))

    def read(self, images: Array, chosen: Indices) -> Array:
        """The patches at some positions, (R, C, taps), with zeros where they lie in the padding.

        Args:
            images: (N, C, ...).
            chosen: (R,) indices into the flattened positions, ascending.
        """
        batch, channels, *sizes = images.shape
        flat = images.reshape(batch, channels, math.prod(sizes))
        each = math.prod(self.positions(images.shape)[1:])
        found = np.empty((channels, len(chosen), self.taps), images.dtype)
        ends = np.searchsorted(chosen, each * np.arange(batch + 1))
        for number in np.flatnonzero(np.diff(ends)):
            start, stop = ends[number], ends[number + 1]
            index, inside = self._indices(chosen[start:stop] - each * number, sizes)
            # one channel after the other: a plane of an image stays in the cache
            part = np.take(flat[number], index, axis=1)
            if not inside.all():
                part[:, ~inside] = 0
            found[:, start:stop] = part
        return np.moveaxis(found, 0, 1)

    def parts(self, chosen: Indices) -> Iterator[Indices]:
        """Few of the chosen positions at a time: their patches are at most `CHUNK` per channel."""
        step = max(1, CHUNK // self.taps)
        for start in range(0, len(chosen), step):
            yield chosen[start : start + step]

    def _windows(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Where the first patch starts along each axis, and how many there are."""
        rank, found = len(self.kernel), []
        for axis, size in enumerate(sizes):
            stride = self.strides[axis]
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            before, after = self.pads[axis], self.pads[axis + rank]
            if self.auto_pad != "NOTSET":
                both = max((-(-size // stride) - 1) * stride + span - size, 0)
                before = (both + (self.auto_pad == "SAME_LOWER")) // 2
                after = both - before
            found.append((-before, max((size + before + after - span) // stride + 1, 0)))
        return found

    def _indices(
        self, places: Indices, sizes: Sequence[int]
    ) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Where patches of one image lie in it, (R, taps), and which entries lie inside."""
        windows = self._windows(sizes)
        rows = len(places)
        index = np.zeros((rows, 1), np.int64)
        inside = np.ones((rows, 1), np.bool_)
        axes = np.unravel_index(places, [count for _, count in windows])
        for axis, (start, _) in enumerate(windows):
            steps = self.dilations[axis] * np.arange(self.kernel[axis])
            at = axes[axis][:, None] * self.strides[axis] + start + steps
            fits = (at >= 0) & (at < sizes[axis])
            at = np.where(fits, at, 0)
            index = (index[:, :, None] * sizes[axis] + at[:, None]).reshape(rows, -1)
            inside = (inside[:, :, None] & fits[:, None]).reshape(rows, -1)
        return index, inside


class Draw:
    """Draws positions of each sample.

    Args:
        most: of one sample; None: all are taken.
        seed: the same one draws the same of samples of the same size.
    """

    def __init__(self, most: int | None, seed: int) -> None:
        self._most = most
        self._rng = np.random.default_rng(seed)

    def of(self, count: int) -> Indices:
        """Some of `count` positions, ascending."""
        if self._most is None or count <= self._most:
            return np.arange(count)
        return np.sort(self._rng.choice(count, self._most, replace=False, shuffle=False))
