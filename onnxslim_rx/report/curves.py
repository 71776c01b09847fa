"""Spectra as the report keeps them: few points, plain numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # messages are printed by this package before anything heavy is loaded
    from onnxslim_rx.analysis import Spectrum

__all__ = ["SpectrumRow", "spectrum_row"]


@dataclasses.dataclass
class SpectrumRow:
    """How much of a layer each rank keeps.

    Args:
        shape: [K, N] of the matrix, as the layer applies it.
        break_even: the largest rank whose two factors are smaller than the matrix; 0: none.
        rank: the chosen one; None where none was.
        ranks: rising from 0, at most 64.
        plain: for each of `ranks`, share of the weight's energy (squared Frobenius norm) that the
            best approximation of that rank keeps, in [0, 1].
        whitened: the same of the layer's outputs under the activations seen; empty where there
            are none.
    """

    shape: list[int]
    break_even: int
    rank: int | None = None
    ranks: list[int] = dataclasses.field(default_factory=list)
    plain: list[float] = dataclasses.field(default_factory=list)
    whitened: list[float] = dataclasses.field(default_factory=list)


def spectrum_row(spectrum: Spectrum, rank: int | None = None) -> SpectrumRow:
    """A spectrum in few points, the chosen rank among them.

    Args:
        spectrum: of a layer.
        rank: the chosen one; None: there is none.
    """
    table = spectrum.to_dict(() if rank is None else (rank,))
    row = {key: table[key] for key in ("shape", "break_even", "ranks", "plain", "whitened")}
    return SpectrumRow(rank=rank, **row)
