"""Which chains of convolutions can stand for one, and what each costs.

A chain is a row of parts. The first reads the layer's channels, the last makes its filters; between
them are ranks. Every spatial axis belongs to one part, whose kernel lies along it (see
`_conv_geometry`); parts without axes are pointwise.

| method | parts | source |
| --- | --- | --- |
| channel-output | k x k: C to R; pointwise: R to M | Zhang et al., TPAMI 38(10), 2016 |
| channel-input | pointwise: C to R; k x k: R to M | the same, of the other side |
| spatial | along one axis: C to R; along all others: R to M | Jaderberg et al., BMVC 2014 |
| tucker | pointwise: C to R; k x k: R to S; pointwise: S to M | Kim et al., ICLR 2016 |
| tt | the same, by TT-SVD | Oseledets, SIAM J. Sci. Comput. 33(5), 2011 |
| cp | pointwise: C to R; depthwise k x k; pointwise: R to M | Lebedev et al., ICLR 2015 |
| cp-separable | the same, one depthwise part an axis | the same |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx_passes._conv_geometry import Convolution

__all__ = ["AUTO", "METHODS", "PAIRS", "Part", "Structure", "macs", "parameters", "structures"]

Ranks = npt.NDArray[np.int64]

METHODS = ("channel-output", "channel-input", "spatial", "tucker", "tt", "cp", "cp-separable")
AUTO = ("channel-output", "channel-input", "spatial", "tucker", "cp")
"""What "auto" offers: the others are never better (tt), or rarely (cp-separable)."""
PAIRS = ("tucker", "tt")
"""Methods with two ranks."""

_AXES = "xyz"


@dataclasses.dataclass(frozen=True)
class Part:
    """One convolution of a chain.

    Args:
        makes: what its outputs are: "m" (filters), or a rank, "r" or "s".
        reads: what its inputs are: "c" (channels), or a rank.
        axes: the spatial axes along which its kernel lies.
        depthwise: each input makes one output, of the same rank.
    """

    makes: str
    reads: str
    axes: tuple[int, ...] = ()
    depthwise: bool = False

    @property
    def letters(self) -> str:
        """The axes of its canonical kernel, that of one group, in the letters of einsum."""
        sides = self.makes if self.depthwise else self.makes + self.reads
        return sides + "".join(_AXES[axis] for axis in self.axes)


@dataclasses.dataclass(frozen=True)
class Structure:
    """A chain.

    Args:
        method: one of `METHODS`.
        parts: in the order in which they are carried out.
        axis: of spatial: the axis of the first part.
    """

    method: str
    parts: tuple[Part, ...]
    axis: int | None = None

    @property
    def is_cp(self) -> bool:
        """Whether it is a sum of products of vectors."""
        return self.method.startswith("cp")

    @property
    def rank_names(self) -> tuple[str, ...]:
        """What options call its ranks."""
        return ("rank_in", "rank_out") if self.method in PAIRS else ("rank",)

    def options(self, weighting: str, ranks: Sequence[int]) -> dict[str, int | float | str | bool]:
        """Options of a stage that spell it out."""
        found: dict[str, int | float | str | bool] = {"method": self.method, "weighting": weighting}
        if self.axis is not None:
            found["axis"] = self.axis
        return found | {n: int(r) for n, r in zip(self.rank_names, ranks, strict=True)}

    def spec(self, conv: Convolution) -> str:
        """The sum that gives the kernel of one group, last part first, in einsum's notation."""
        parts = ",".join(part.letters for part in reversed(self.parts))
        return f"{parts}->mc{_AXES[: len(conv.sizes)]}"

    def shapes(self, conv: Convolution, ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """Those of the canonical kernels of one group."""
        letters = f"mcrs{_AXES}"
        sides = (conv.filters, conv.channels, *ranks, *[0] * (2 - len(ranks)), *conv.sizes)
        size = dict(zip(letters, sides, strict=False))
        return [tuple(size[letter] for letter in part.letters) for part in self.parts]

    def largest(self, conv: Convolution) -> tuple[int, ...]:
        """The ranks that every kernel has at most."""
        m, c, k = conv.filters, conv.channels, conv.window
        if self.method in PAIRS:
            return min(c, m * k), min(m, c * k)
        if self.is_cp:
            long = [conv.sizes[axis] for axis in conv.long_axes] if "-" in self.method else [k]
            sides = (c, m, *long)
            return (int(np.prod(sides)) // max(sides),)
        first = self.parts[0].axes
        own = int(np.prod([conv.sizes[axis] for axis in first], dtype=int))
        return (min(c * own, m * k // own),)


def structures(conv: Convolution, method: str) -> tuple[Structure, ...] | str:
    """The chains of one method for a convolution, or why there is none.

    Args:
        conv: what they stand for.
        method: one of `METHODS`.
    """
    every, long = conv.axes, conv.long_axes
    r_to_m, c_to_r = Part("m", "r"), Part("r", "c")
    # of a pointwise kernel one of the two is left: fewer channels where there are fewer positions
    if method == "channel-output":
        if not long and conv.is_transposed:
            return "channel-input does the same for a pointwise kernel"
        return (Structure(method, (Part("r", "c", every), r_to_m)),)
    if method == "channel-input":
        if not long and not conv.is_transposed:
            return "channel-output does the same for a pointwise kernel"
        return (Structure(method, (c_to_r, Part("m", "r", every))),)
    if not long:
        return "the kernel has one position"
    if method in PAIRS:
        parts = (c_to_r, Part("s", "r", every), Part("m", "s"))
        return (Structure(method, parts),)
    if method == "cp":
        return (Structure(method, (c_to_r, Part("r", "r", every, depthwise=True), r_to_m)),)
    if len(long) < 2:
        return "the kernel lies along one axis"
    if not conv.splits_axes:
        return "output_shape depends on all axes"
    if method == "spatial":
        return tuple(
            Structure(
                method,
                (Part("r", "c", (a,)), Part("m", "r", tuple(b for b in every if b != a))),
                axis=a,
            )
            for a in long
        )
    # axes of size 1 go with the first
    own = [tuple(a for a in every if a == long[0] or a not in long), *((a,) for a in long[1:])]
    depthwise = (Part("r", "r", axes, depthwise=True) for axes in own)
    return (Structure(method, (c_to_r, *depthwise, r_to_m)),)


def parameters(conv: Convolution, structure: Structure, ranks: Ranks) -> Ranks:
    """Entries of all kernels of a chain, (N,), for ranks (N, number of ranks)."""
    total = np.zeros(len(ranks), dtype=np.int64)
    for part in structure.parts:
        total += _entries(conv, part, ranks)
    return total


def macs(conv: Convolution, structure: Structure, ranks: Ranks) -> Ranks:
    """Multiply-adds of a chain, (N,), for ranks (N, number of ranks).

    For one position of the layer's output; of a ConvTranspose, of its input. Parts before a stride
    (ConvTranspose: behind it) run at more positions: as many times as the stride.
    """
    total = np.zeros(len(ranks), dtype=np.int64)
    for i, part in enumerate(structure.parts):
        others = structure.parts[:i] if conv.is_transposed else structure.parts[i + 1 :]
        times = conv.steps([axis for other in others for axis in other.axes])
        total += times * _entries(conv, part, ranks)
    return total


def _entries(conv: Convolution, part: Part, ranks: Ranks) -> Ranks:
    sides: Mapping[str, Ranks | int] = {"m": conv.filters, "c": conv.channels} | dict(
        zip("rs", ranks.T, strict=False)
    )
    kernel = conv.groups * int(np.prod([conv.sizes[axis] for axis in part.axes], dtype=int))
    made = np.asarray(sides[part.makes], dtype=np.int64)
    return kernel * (made if part.depthwise else made * sides[part.reads])
