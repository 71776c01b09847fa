"""What a convolution reads, as the weights that its decomposition is given.

- "none": the error of the kernel.
- "channels": the Gram matrix of the input channels; positions count alike.
- "patches": that of all that is read at one position, which gives the error of the output.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import LayerStatistics, channel_gram
from onnxslim_rx_passes._conv_geometry import Convolution

__all__ = ["WEIGHTINGS", "Inputs", "settle_weighting"]

Matrix = npt.NDArray[np.float64]

WEIGHTINGS = ("auto", "none", "channels", "patches")

# Multiply-adds of one product of a kernel with the Gram matrix of its patches, up to which "auto"
# fits by patches where there is no closed form: one fit takes some 80 of them, 3 s in one thread.
_MOST_WORK = 1 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Gram matrices of what enters, by group.

    Args:
        weighting: "none", "channels" or "patches".
        channels: (C, C) each; empty for "none".
        patches: (C prod k, C prod k) each; only for "patches".
        rows: number of patches, or of rows of channels, that were summed up.
        channel_rows: the same for the channels.
    """

    weighting: str
    channels: tuple[Matrix, ...] = ()
    patches: tuple[Matrix, ...] = ()
    rows: int = 1
    channel_rows: int = 1

    @classmethod
    def of(cls, weighting: str, stats: LayerStatistics | None, conv: Convolution) -> Inputs:
        """What `stats` know, for a weighting that `settle_weighting` allowed."""
        if weighting == "none" or stats is None or stats.gram is None:
            return cls("none")
        grams = channel_gram(stats, conv.groups * conv.channels, conv.window)
        assert grams is not None  # there is a Gram matrix
        whole = weighting == "patches" and _knows_patches(stats, conv)
        rows = max(stats.rows, 1)
        return cls(
            "patches" if whole else "channels",
            _blocks(grams, conv.groups),
            _blocks(stats.gram, conv.groups) if whole else (),
            rows,
            rows * (conv.window if stats.patches else 1),
        )


def settle_weighting(
    weighting: str, method: str, stats: LayerStatistics | None, conv: Convolution, name: str
) -> str:
    """The weighting to take: "auto" is the best that the statistics allow and time affords.

    Args:
        weighting: as the user gave it, or as a plan has it. Where patches are wanted and only
            channels are known, these are taken.
        method: of the chain.
        stats: of the input.
        conv: the layer.
        name: of the pass, for messages.

    Raises:
        InputError: the weighting needs statistics that there are not.
    """
    known = stats is not None and stats.gram is not None
    if weighting == "none" or (weighting == "auto" and not known):
        return "none"
    if stats is None or not known:
        raise InputError(
            f"{name} has weighting = {weighting} and no statistics of the activations",
            advice="give calibration data (a plan: those it was made with), or use weighting none",
        )
    if weighting == "channels" or not _knows_patches(stats, conv):
        return "channels"
    work = conv.filters * (conv.channels * conv.window) ** 2 * conv.groups
    closed = method == "channel-output"
    return "patches" if weighting == "patches" or closed or work <= _MOST_WORK else "channels"


def _knows_patches(stats: LayerStatistics, conv: Convolution) -> bool:
    return stats.patches and not conv.is_transposed


def _blocks(gram: Matrix, groups: int) -> tuple[Matrix, ...]:
    """The diagonal blocks: what each group has of its own channels."""
    side = len(gram) // groups
    return tuple(
        gram[start : start + side, start : start + side] for start in range(0, len(gram), side)
    )
