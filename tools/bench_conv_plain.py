"""Plain decompositions of one kernel by numpy and tensorly, and what they cost. No data."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.bench_conv_macs import Site

__all__ = ["METHODS", "Array", "Piece", "channel", "places", "tt_at", "tucker_at"]

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Piece:
    """One convolution of a chain.

    Args:
        kernel: (M, C / groups, height, width).
        axes: the spatial axes whose strides, pads and dilations it takes over.
        groups: of channels.
    """

    kernel: Array
    axes: tuple[int, ...] = ()
    groups: int = 1


Made = Callable[[Array, int], list[Piece]]
Cost = Callable[[Site, int], float]


def channel(kernel: Array, rank: int) -> list[Piece]:
    """K x k to `rank` channels, then 1 x 1: SVD of (M, C k k)."""
    filters = len(kernel)
    u, s, vt = np.linalg.svd(kernel.reshape(filters, -1), full_matrices=False)
    root = np.sqrt(s[:rank])
    first = (root[:, None] * vt[:rank]).reshape(-1, *kernel.shape[1:])
    return [Piece(first, (0, 1)), Piece((u[:, :rank] * root)[:, :, None, None])]


def spatial(kernel: Array, rank: int) -> list[Piece]:
    """K x 1 to `rank` channels, then 1 x k: SVD of (C k, M k)."""
    filters, channels, high, wide = kernel.shape
    matrix = kernel.transpose(1, 2, 0, 3).reshape(channels * high, filters * wide)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:rank])
    first = (u[:, :rank] * root).reshape(channels, high, -1).transpose(2, 0, 1)
    second = (root[:, None] * vt[:rank]).reshape(-1, filters, wide).transpose(1, 0, 2)
    return [Piece(first[:, :, :, None], (0,)), Piece(second[:, :, None, :], (1,))]


def tucker_at(kernel: Array, rank_in: int, rank_out: int) -> list[Piece]:
    """1 x 1, k x k, 1 x 1: tensorly's HOOI of both channel modes; of a matrix, its SVD."""
    if places(kernel.shape) == 1:  # where tensorly cuts both ranks to the lower one
        u, _, vt = np.linalg.svd(kernel[..., 0, 0], full_matrices=False)
        out, into = u[:, :rank_out], vt[:rank_in].T
        core = (out.T @ kernel[..., 0, 0] @ into)[:, :, None, None]
    else:
        from tensorly.decomposition import partial_tucker

        found: Any = partial_tucker(kernel, rank=[rank_out, rank_in], modes=[0, 1], init="svd")
        core, (out, into) = found[0]
    return [
        Piece(into.T[:, :, None, None]), Piece(core, (0, 1)), Piece(out[:, :, None, None])
    ]  # fmt: skip


def tucker_rank_in(shape: Sequence[int], rank: int) -> int:
    """The same share of the input channels as `rank` is of the filters."""
    return max(1, round(rank * shape[1] / shape[0]))


def tt_at(kernel: Array, rank_in: int, rank_out: int) -> list[Piece]:
    """1 x 1, k x k, 1 x 1: tensorly's tensor train of (C, k k, M)."""
    from tensorly.decomposition import tensor_train

    filters, channels, *space = kernel.shape
    tensor = kernel.reshape(filters, channels, -1).transpose(1, 2, 0)
    first, core, last = (np.asarray(c) for c in tensor_train(tensor, [1, rank_in, rank_out, 1]))
    middle = core.transpose(2, 0, 1).reshape(core.shape[2], core.shape[0], *space)
    return [
        Piece(first[0].T[:, :, None, None]), Piece(middle, (0, 1)),
        Piece(last[:, :, 0].T[:, :, None, None]),
    ]  # fmt: skip


def cp(kernel: Array, rank: int) -> list[Piece]:
    """1 x 1, depthwise k x k, 1 x 1: tensorly's ALS of (M, C, k k)."""
    from tensorly.decomposition import parafac

    filters, channels, *space = kernel.shape
    tensor = kernel.reshape(filters, channels, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a rank above a side, which starts at random there
        found: Any = parafac(tensor, rank, init="svd", random_state=0)
    out, into, window = found.factors
    return [
        Piece(into.T[:, :, None, None]),
        Piece(window.T.reshape(rank, 1, *space), (0, 1), groups=rank),
        Piece((out * found.weights)[:, :, None, None]),
    ]


def tucker(kernel: Array, rank: int) -> list[Piece]:
    """The same share of both channel modes."""
    return tucker_at(kernel, tucker_rank_in(kernel.shape, rank), rank)


def places(shape: Sequence[int]) -> int:
    """Positions of (N, C, *space) or (M, C, *space)."""
    return math.prod(shape[2:])


def channel_cost(site: Site, rank: int) -> float:
    """Multiply-adds of `channel`."""
    filters, *patch = site.weight
    return rank * (math.prod(patch) + filters) * places(site.output)


def spatial_cost(site: Site, rank: int) -> float:
    """Multiply-adds of `spatial`: the first one runs at the output's rows, the input's columns."""
    filters, channels, high, wide = site.weight
    between = site.output[2] * site.input[3]
    return rank * (channels * high * between + filters * wide * places(site.output))


def tucker_cost(site: Site, rank: int) -> float:
    """Multiply-adds of `tucker_at`."""
    filters, channels, *space = site.weight
    inner = tucker_rank_in(site.weight, rank)
    after = rank * (inner * math.prod(space) + filters) * places(site.output)
    return channels * inner * places(site.input) + after


def cp_cost(site: Site, rank: int) -> float:
    """Multiply-adds of `cp`."""
    filters, channels, *space = site.weight
    after = (math.prod(space) + filters) * places(site.output)
    return rank * (channels * places(site.input) + after)


METHODS: Mapping[str, tuple[Made, Cost]] = {
    "channel SVD (numpy)": (channel, channel_cost),
    "spatial SVD (numpy)": (spatial, spatial_cost),
    "Tucker (tensorly)": (tucker, tucker_cost),
    "CP (tensorly)": (cp, cp_cost),
}
"""How to decompose a kernel at a rank, and what it costs then."""
