"""Padding: positions of a batch that a mask input declares empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["masks_of", "positions"]

Array = npt.NDArray[Any]


def masks_of(sample: Mapping[str, Any]) -> list[Array]:
    """The masks among the inputs of a sample, (batch, sequence), True where there is no padding.

    A mask is named so ("attention_mask"; "padding_mask" means the opposite and is left alone),
    has two axes and holds only 0 and 1.
    """
    named = (
        np.asarray(value)
        for name, value in sample.items()
        if "mask" in name.lower() and "padding" not in name.lower()
    )
    return [
        array.astype(bool)
        for array in named
        if array.ndim == 2 and array.dtype.kind in "biuf" and ((array == 0) | (array == 1)).all()
    ]


def positions(leading: tuple[int, ...], masks: Sequence[Array]) -> Array | None:
    """Which positions of an activation are no padding, boolean; None for all.

    Args:
        leading: the axes of the activation without the last one, or all axes of indices; compared
            with (batch, sequence) and (batch * sequence,).
        masks: those that fit alike but differ decide nothing.
    """
    fitting = [mask.reshape(leading) for mask in masks if leading in (mask.shape, (mask.size,))]
    if not fitting or any(not np.array_equal(fitting[0], other) for other in fitting[1:]):
        return None
    return None if fitting[0].all() else fitting[0]
