"""Conv and ConvTranspose with a constant kernel: sizes, and attributes along some of the axes.

The canonical kernel is T (G, M, C, *k): groups, filters and channels of one group, spatial sizes.
Conv stores (G M, C, *k), ConvTranspose (G C, M, *k).

Kernels that lie along different axes can be applied one after the other: strides, dilations and
padding act along each axis on its own. So a convolution of a chain takes the attributes of its own
axes, and 1 (or no padding) along all others, where its kernel has size 1; automatic padding adds
nothing there. Biases wait for the last convolution, so that what is padded with zeros is what it
would have been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["Convolution", "Kernels"]

Kernels = npt.NDArray[np.float64]
"""(G, M, C, *k)."""

# attributes with one number an axis, and what it is where the kernel does not lie along the axis
_PER_AXIS = {"strides": 1, "dilations": 1, "output_padding": 0}


@dataclasses.dataclass(frozen=True)
class Convolution:
    """What a layer does with its activation.

    Args:
        node: Conv or ConvTranspose.
        groups: G.
        filters: M, of one group.
        channels: C, of one group.
        sizes: k, of the kernel, one for each spatial axis.
    """

    node: ir.Node
    groups: int
    filters: int
    channels: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer) -> Convolution:
        """Of a layer whose weight is the kernel."""
        first, second, *sizes = tensor_of(layer.weight).shape.numpy()
        groups = layer.node.attributes.get_int("group", 1)
        filters, channels = first // groups, second
        if layer.op == "ConvTranspose":
            filters, channels = channels, filters
        return cls(layer.node, groups, filters, channels, tuple(sizes))

    @property
    def is_transposed(self) -> bool:
        """Whether it is a ConvTranspose."""
        return self.node.op_type == "ConvTranspose"

    @property
    def window(self) -> int:
        """Positions of the kernel, prod k."""
        return math.prod(self.sizes)

    @property
    def axes(self) -> tuple[int, ...]:
        """All spatial axes."""
        return tuple(range(len(self.sizes)))

    @property
    def long_axes(self) -> tuple[int, ...]:
        """The spatial axes along which the kernel has more than one position."""
        return tuple(axis for axis in self.axes if self.sizes[axis] > 1)

    @property
    def elements(self) -> int:
        """Entries of the kernel: multiply-adds per output position (ConvTranspose: input)."""
        return self.groups * self.filters * self.channels * self.window

    @property
    def splits_axes(self) -> bool:
        """Whether axes can be treated one after the other: all sizes follow from the input's."""
        return "output_shape" not in self.node.attributes

    def why_not(self) -> str | None:
        """Why no chain can take its place, or None."""
        shape = self.node.attributes.get_ints("output_shape", self.sizes)
        if len(shape) != len(self.sizes):
            return f"output_shape has {len(shape)} sizes for {len(self.sizes)} axes"
        return None

    def steps(self, axes: Collection[int]) -> int:
        """Product of the strides along some axes."""
        strides = self.node.attributes.get_ints("strides", [1] * len(self.sizes))
        return math.prod(strides[axis] for axis in axes)

    def canonical(self, stored: Array) -> Kernels:
        """(G, M, C, *k), float64, of a kernel as the layer stores it."""
        kernels = stored.astype(np.float64).reshape(self.groups, -1, *stored.shape[1:])
        return np.swapaxes(kernels, 1, 2) if self.is_transposed else kernels

    def stored(self, kernels: Kernels) -> Kernels:
        """The inverse of `canonical`."""
        own = np.swapaxes(kernels, 1, 2) if self.is_transposed else kernels
        return own.reshape(-1, *own.shape[2:])

    def attributes(self, axes: Collection[int]) -> dict[str, int | str | list[int]]:
        """Those of a convolution whose kernel lies along `axes`; the group is left to the caller.

        Args:
            axes: spatial axes; none: a pointwise convolution.
        """
        own = self.node.attributes
        found: dict[str, int | str | list[int]] = {
            "kernel_shape": [self.sizes[axis] if axis in axes else 1 for axis in self.axes]
        }
        if not axes:
            return found
        for name, neutral in _PER_AXIS.items():
            if name in own:
                found[name] = self._along(axes, own[name].as_ints(), neutral)
        if "pads" in own:
            pads = own["pads"].as_ints()
            half = len(self.sizes)
            found["pads"] = self._along(axes, pads[:half], 0) + self._along(axes, pads[half:], 0)
        if "auto_pad" in own:
            found["auto_pad"] = own["auto_pad"].as_string()
        if "output_shape" in own:  # no structure splits its axes
            found["output_shape"] = list(own["output_shape"].as_ints())
        return found

    def _along(self, axes: Collection[int], values: Sequence[int], neutral: int) -> list[int]:
        return [values[axis] if axis in axes else neutral for axis in self.axes]
