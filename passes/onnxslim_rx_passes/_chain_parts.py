"""The parts of a chain of products, and their kernels in one form.

The canonical kernel of a part is (G, outputs, inputs, taps) of one group, taps the entries of a
kernel in one channel, 1 of a matrix; of a depthwise part, which scales each channel, (G, R, taps).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._linear import as_applied, as_stored, tensor_of

__all__ = ["Chain", "Part", "read", "write"]

Kernel = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Part:
    """One product of a chain.

    Args:
        layer: it alone.
        groups: those of the chain, G.
        depthwise: it scales each channel.
    """

    layer: Layer
    groups: int = 1
    depthwise: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight as stored."""
        return tuple(tensor_of(self.layer.weight).shape.numpy())

    @property
    def makes(self) -> int:
        """Channels of its result in one group."""
        return self._sides[0]

    @property
    def reads(self) -> int:
        """Channels that enter in one group."""
        return self._sides[1]

    @property
    def taps(self) -> int:
        """Entries of its kernel in one channel."""
        return int(np.prod(self.shape[2:])) if self.layer.kind == "conv" else 1

    @property
    def step(self) -> int:
        """Product of the strides."""
        return int(np.prod(self.layer.node.attributes.get_ints("strides", ())))

    @property
    def alpha(self) -> float:
        """What the product is multiplied by."""
        node = self.layer.node
        return node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0

    @property
    def bias(self) -> ir.Value | None:
        """What is added."""
        inputs = self.layer.node.inputs
        return inputs[2] if len(inputs) > 2 else None

    @property
    def beta(self) -> float:
        """What the bias is multiplied by."""
        return self.layer.node.attributes.get_float("beta", 1.0) if self.is_gemm else 1.0

    @property
    def is_gemm(self) -> bool:
        """Whether it is a Gemm."""
        return self.layer.op == "Gemm"

    @property
    def _sides(self) -> tuple[int, int]:
        first, second, *_ = self.shape
        if self.layer.kind != "conv":
            k, n = as_applied(self.layer, np.empty((first, second), np.bool_)).shape
            return n, k
        if self.depthwise:
            return first // self.groups, first // self.groups
        if self.layer.op == "ConvTranspose":
            return second, first // self.groups
        return first // self.groups, second

    def canonical(self, stored: Array) -> Kernel:
        """The kernel, alpha in it, of one as the node stores it; it may have fewer channels."""
        wide: Kernel = stored.astype(np.float64)
        if self.layer.kind != "conv":
            matrix: Kernel = as_applied(self.layer, wide).T
            return matrix[None, :, :, None] * self.alpha
        if self.depthwise:
            return wide.reshape(self.groups, -1, self.taps)
        kernel = wide.reshape(self.groups, -1, stored.shape[1], self.taps)
        return np.swapaxes(kernel, 1, 2) if self.layer.op == "ConvTranspose" else kernel

    def stored(self, kernel: Kernel) -> Kernel:
        """The inverse of `canonical`."""
        if self.layer.kind != "conv":
            return as_stored(self.layer, kernel[0, :, :, 0].T / self.alpha)
        sizes = self.shape[2:]
        if self.depthwise:
            return kernel.reshape(-1, 1, *sizes)
        own = np.swapaxes(kernel, 1, 2) if self.layer.op == "ConvTranspose" else kernel
        return own.reshape(-1, own.shape[2], *sizes)


@dataclasses.dataclass(frozen=True)
class Chain(Layer):
    """Two or more products; the first and the last are not depthwise.

    Its constants are all weights, in order, and then the bias of the first where it has one.

    Args:
        parts: the products in order.
    """

    parts: tuple[Part, ...] = ()

    @property
    def groups(self) -> int:
        """Groups of all parts that are not depthwise."""
        return self.parts[0].groups

    @property
    def biased(self) -> bool:
        """Whether the first product has a bias (the last one's is left as it is)."""
        return self.parts[0].bias is not None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Channels of a group between parts, those that a depthwise part keeps once."""
        return tuple(part.reads for part in self.parts[1:] if not part.depthwise)

    @property
    def method(self) -> str:
        """How its ranks are cut."""
        if any(part.depthwise for part in self.parts):
            return "cp"
        return "svd" if len(self.parts) == 2 else "tucker"

    def entries(self, ranks: Sequence[int]) -> list[int]:
        """Entries of the weight of each part at some ranks."""
        sides = [self.parts[0].reads, *ranks, self.parts[-1].makes]
        found, place = [], 0
        for part in self.parts:
            own = sides[place] if part.depthwise else sides[place] * sides[place + 1]
            found.append(self.groups * part.taps * own)
            place += not part.depthwise
        return found

    def macs(self, ranks: Sequence[int]) -> float:
        """Multiply-adds at some ranks, for one position that the first part computes.

        As for statistics: one of the result of a Conv, one of the input of a ConvTranspose.
        """
        total, positions = 0.0, 1.0
        for i, (part, size) in enumerate(zip(self.parts, self.entries(ranks), strict=True)):
            spreads = part.layer.op == "ConvTranspose"
            if i and not spreads:
                positions /= part.step
            total += positions * size
            if spreads:
                positions *= part.step
        return total


def read(chain: Chain, stored: Iterable[Array]) -> tuple[list[Kernel], Kernel | None]:
    """The canonical kernels, and the bias of the first part (G, R), of the chain's constants."""
    arrays = list(stored)
    kernels = [part.canonical(a) for part, a in zip(chain.parts, arrays, strict=False)]
    if not chain.biased:
        return kernels, None
    row = arrays[-1].astype(np.float64).reshape(chain.groups, -1)
    return kernels, row * chain.parts[0].beta


def write(chain: Chain, kernels: Sequence[Kernel], bias: Kernel | None) -> list[Kernel]:
    """The inverse of `read`; kernels may have other ranks."""
    arrays = [part.stored(k) for part, k in zip(chain.parts, kernels, strict=True)]
    if bias is not None:
        ahead = tensor_of(chain.weights[-1]).shape.numpy()[:-1]
        arrays.append((bias / chain.parts[0].beta).reshape(*ahead, -1))
    return arrays
