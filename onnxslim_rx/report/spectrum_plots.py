"""Plots of spectra: energy against rank of one layer, and for which layers factors are smaller."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxslim_rx.report.curves import SpectrumRow
from onnxslim_rx.report.drawing import AFTER, BEFORE, FAINT, INK, MISS, SECOND, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "need_plot", "spectrum_plot"]

PLOTS = 48
"""At most so many spectra are drawn on one page."""

_TICKS = {1.0: "0 %", 0.1: "90 %", 0.01: "99 %", 0.001: "99.9 %"}
_LEAST = 3e-4  # share of energy lost at the upper edge
_RATIOS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_MOST = 50.0  # times the break-even rank at the upper edge of the overview


def spectrum_plot(row: SpectrumRow) -> str:
    """Energy kept against rank: plain, whitened, the break-even rank and the chosen one.

    The scale of the energy is that of its nines: 90, 99 and 99.9% lie equally far apart.

    Returns:
        An `<svg>` element; empty where there is no curve.
    """
    if not row.plain:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.17, 0.17, 0.8, 0.78))
        axes.set_yscale("log")
        for curve, colour, width in ((row.plain, SECOND, 1.6), (row.whitened, AFTER, 2.0)):
            if curve:
                lost = [max(1.0 - share, _LEAST / 10) for share in curve]
                axes.plot(row.ranks, lost, color=colour, linewidth=width, zorder=2)
        axes.axvline(row.break_even, color=INK, linewidth=1, linestyle="--", zorder=1)
        if row.rank is not None:
            axes.axvline(row.rank, color=MISS, linewidth=1.2, zorder=1)
            shares = row.whitened or row.plain
            at = min(range(len(row.ranks)), key=lambda n: abs(row.ranks[n] - (row.rank or 0)))
            lost_there = max(1.0 - shares[at], _LEAST)
            axes.plot([row.ranks[at]], [lost_there], "o", color=MISS, markersize=6, zorder=3)
        axes.set_ylim(1.3, _LEAST)
        axes.set_yticks(list(_TICKS), list(_TICKS.values()))
        axes.minorticks_off()
        axes.set_xlim(0, max(row.ranks[-1], 1))
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.grid(True, axis="y", color=FAINT)

    salt = hashlib.sha256(repr(row).encode()).hexdigest()[:16]
    return draw_svg((3.7, 2.3), draw, "Energy kept against rank", salt, fixed=True)


def need_plot(rows: Sequence[tuple[float | None, float | None]]) -> str:
    """Rank needed divided by the rank at which two factors stop being smaller, for each layer.

    Args:
        rows: of each layer in graph order, for the weight and for its outputs; None where it is
            not known.

    Returns:
        An `<svg>` element; empty where fewer than two layers have a number.
    """
    if sum(any(value is not None for value in row) for row in rows) < 2:
        return ""

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        axes.set_yscale("log")
        for side, colour, label in ((0, SECOND, "weight"), (1, AFTER, "outputs")):
            points = [
                (place, min(row[side] or 0.0, _MOST))
                for place, row in enumerate(rows, 1)
                if row[side]
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, "o", color=colour, markersize=5, label=label)
        axes.axhline(1.0, color=INK, linewidth=1, linestyle="--")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in _RATIOS if low <= tick <= high])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("weight, in graph order")
        axes.set_ylabel("rank for 99 % / break-even")
        axes.margins(x=0.01)
        axes.grid(True, axis="y", color=BEFORE, linewidth=0.4)
        axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))

    title = "Rank that keeps 99 % of the energy, divided by the break-even rank"
    return draw_svg((11.6, 2.8), draw, title, "need")
