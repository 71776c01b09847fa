"""The one convolution that several in a row are, where their windows lie along different axes.

Strides, dilations and padding act along each axis on its own. So where, along every axis, all but
one of the convolutions have kernel 1, stride 1 and no padding, the row is one convolution that has
along each axis the attributes of the one that does something there. Biases come through as long as
nothing behind them pads: padding puts zeros there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx_passes._products import Product

__all__ = ["Composition", "composition", "pads"]

Wide = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class _Window:
    """What a convolution does along one axis; `kind` of padding is that of `auto_pad`, or ""."""

    size: int
    stride: int
    dilation: int
    begin: int
    end: int
    kind: str

    @property
    def is_trivial(self) -> bool:
        """Whether nothing happens along the axis."""
        return self.size == 1 and self.stride == 1 and not self.pads

    @property
    def pads(self) -> bool:
        """Whether zeros may be added."""
        return bool(self.begin or self.end or (self.kind and self.size > 1))


@dataclasses.dataclass(frozen=True)
class Composition:
    """A row of convolutions as one.

    Args:
        row: the convolutions in order.
        groups: of the one; what all their groups have in common.
        sizes: of its kernel.
        attributes: of its node.
    """

    row: tuple[Product, ...]
    groups: int
    sizes: tuple[int, ...]
    attributes: Mapping[str, int | str | list[int]]

    @property
    def elements(self) -> int:
        """Entries of its kernel."""
        sides = self.row[-1].channels * self.row[0].channels_in
        return sides // self.groups * math.prod(self.sizes)

    @property
    def products(self) -> int:
        """Multiply-adds that it takes to compute the kernel, at most."""
        return self.elements * max(one.channels for one in self.row[:-1]) // self.groups

    def kernel(self) -> Wide:
        """As Conv stores it, (M, C / groups, *k), in float64."""
        total = self._blocks(self.row[0])
        for one in self.row[1:]:
            total = np.matmul(self._blocks(one), total)  # sizes of 1 broadcast
        stored = np.moveaxis(total, (-2, -1), (1, 2))
        return stored.reshape(-1, *stored.shape[2:])

    def bias(self, rows: Sequence[Wide | None]) -> Wide | None:
        """The bias (M,), or None for none.

        Args:
            rows: of the convolutions, () or (channels,) each.
        """
        total: Wide | None = None
        for one, row in zip(self.row, rows, strict=True):
            if total is not None:
                matrix = self._blocks(one).sum(axis=tuple(range(1, 1 + len(self.sizes))))
                total = np.matmul(matrix, total.reshape(self.groups, -1, 1)).reshape(-1)
            if row is not None:
                own = np.broadcast_to(row, (one.channels,))
                total = own if total is None else total + own
        return total

    def _blocks(self, one: Product) -> Wide:
        """(G, *k, M, C): the kernel of one convolution with no more groups than all have."""
        assert one.tensor is not None  # the caller looked
        stored = one.tensor.numpy().astype(np.float64)
        inside = one.groups // self.groups
        blocks = stored.reshape(self.groups, inside, -1, *stored.shape[1:])
        blocks = np.moveaxis(blocks, (1, 2, 3), (-3, -2, -1))  # (G, *k, inside, m, c)
        *lead, _, m, c = blocks.shape
        full = np.zeros((*lead, inside, m, inside, c))
        for i in range(inside):
            full[..., i, :, i, :] = blocks[..., i, :, :]
        return full.reshape(*lead, inside * m, inside * c)


def composition(row: Sequence[Product]) -> Composition | None:
    """What a row of Conv with known kernels is, or None where it is no convolution.

    Args:
        row: each reads what the one before makes.
    """
    windows = [_windows(one) for one in row]
    owners = []
    for across in zip(*windows, strict=True):
        doing = [window for window in across if not window.is_trivial]
        if len(doing) > 1:
            return None
        owners.append(doing[0] if doing else across[0])
    attributes = _attributes(owners)
    if attributes is None:
        return None
    groups = math.gcd(*(one.groups for one in row))
    if groups > 1:
        attributes["group"] = groups
    return Composition(tuple(row), groups, tuple(window.size for window in owners), attributes)


def pads(one: Product) -> bool:
    """Whether a convolution puts zeros around what enters."""
    return any(window.pads for window in _windows(one))


def _windows(one: Product) -> list[_Window]:
    own, sizes = one.node.attributes, one.shape[2:]
    ones, half = [1] * len(sizes), len(sizes)
    kind = own.get_string("auto_pad", "NOTSET")
    kind = kind if kind.startswith("SAME") else ""
    border = list(own.get_ints("pads", ())) if not kind else []
    border = border or [0] * (2 * half)
    strides, dilations = own.get_ints("strides", ones), own.get_ints("dilations", ones)
    return [
        _Window(size, strides[i], dilations[i], border[i], border[half + i], kind)
        for i, size in enumerate(sizes)
    ]


def _attributes(owners: Sequence[_Window]) -> dict[str, int | str | list[int]] | None:
    """Of the whole; None where paddings of two kinds meet."""
    found: dict[str, int | str | list[int]] = {"kernel_shape": [one.size for one in owners]}
    steps = {
        "strides": [one.stride for one in owners],
        "dilations": [one.dilation for one in owners],
    }
    found |= {name: values for name, values in steps.items() if set(values) != {1}}
    kinds = {one.kind for one in owners if one.size > 1 or one.pads}
    border = [one.begin for one in owners] + [one.end for one in owners]
    if len(kinds) > 1:
        return None
    if kinds - {""}:
        found["auto_pad"] = kinds.pop()
    elif any(border):
        found["pads"] = border
    return found
