"""Plots of a run: the plans that were tried, and what became of each layer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxslim_rx.report.drawing import AFTER, BEFORE, INK, KINDS, MISS, SECOND, draw_svg
from onnxslim_rx.report.model import LayerRow, Report, Rung
from onnxslim_rx.report.text import bytes_text, ms_text
from onnxslim_rx.report.verdict import full_ladder, is_tried

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["allocation_plot", "kinds_of", "ladder_plot", "layers_plot"]

_WORST, _BEST = 0.5, 1e-6
"""Range of `1 - cosine` that a plot shows; what lies outside is drawn on its edge."""


def ladder_plot(report: Report) -> str:
    """Quality against size and, where it is known, against latency; one point for each plan.

    Circles are measured, crosses are what was predicted; a line joins the two of one plan. Of a
    plan whose latency was not measured, the predicted one places both.

    Returns:
        An `<svg>` element; empty where fewer than two points have a cosine.
    """
    rungs = [(n, rung) for n, rung in enumerate(full_ladder(report)) if rung.cosine is not None]
    if len(rungs) < 2:
        return ""
    times = [_milliseconds(rung) for _, rung in rungs]
    timed = [place for place, ms in enumerate(times) if ms is not None]
    panels = 2 if len({times[place] for place in timed}) > 1 else 1
    limit = report.budget.get("min_cosine")

    def draw(figure: Figure) -> None:
        axes: Sequence[Axes] = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        sizes = [float(rung.bytes) for _, rung in rungs]
        _draw_ladder(axes[0], rungs, sizes, sizes, limit)
        _label(axes[0], "size", bytes_text)
        axes[0].set_ylabel("cosine")
        if panels == 2:
            shown = [rungs[place] for place in timed]
            costs = [times[place] or 0.0 for place in timed]
            predicted = [
                rung.predicted_ms or ms for (_, rung), ms in zip(shown, costs, strict=True)
            ]
            _draw_ladder(axes[1], shown, costs, predicted, limit)
            _label(axes[1], "latency", ms_text)

    title = "Quality against size and latency of the plans tried"
    return draw_svg((11.6, 3.7), draw, title, "ladder")


def _milliseconds(rung: Rung) -> float | None:
    return rung.predicted_ms if rung.latency_ms is None else rung.latency_ms


def _label(axes: Axes, name: str, text: Callable[[float], str]) -> None:
    axes.set_xlabel(name)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: _round(text(max(value, 0.0))))


def _round(text: str) -> str:
    """Without zeros after the point: ticks stand at round numbers."""
    return re.sub(r"\.0+ ", " ", text)


def _gap(cosine: float) -> float:
    return min(max(1.0 - cosine, _BEST), _WORST)


def _draw_ladder(
    axes: Axes,
    rungs: Sequence[tuple[int, Rung]],
    costs: Sequence[float],
    predicted_costs: Sequence[float],
    limit: float | None,
) -> None:
    axes.set_yscale("log")
    axes.invert_yaxis()  # up is better
    gaps = [_gap(rung.cosine or 0.0) for _, rung in rungs]
    for (number, rung), cost, gap, foreseen in zip(
        rungs, costs, gaps, predicted_costs, strict=True
    ):
        at = (cost, gap)
        if rung.predicted is not None:
            cross = (foreseen, _gap(rung.predicted))
            axes.plot(*cross, "x", color=SECOND, markersize=6, zorder=3)
            at = at if is_tried(rung) else cross
            axes.plot(*zip(at, cross, strict=True), color=BEFORE, linewidth=1, zorder=1)
        if is_tried(rung):
            colour = MISS if rung.passed is False else AFTER if number else INK
            axes.plot(
                *at, "o", color=colour, markersize=11 if rung.chosen else 7,
                markerfacecolor=colour if rung.chosen else "none", markeredgewidth=1.8, zorder=2,
            )  # fmt: skip
        axes.annotate(str(number), at, textcoords="offset points", xytext=(9, 4), fontsize=10)
    if limit is not None and limit < 1:
        axes.axhline(_gap(limit), color=MISS, linewidth=1.2, linestyle="--", zorder=0)
    gaps += [_gap(rung.predicted) for _, rung in rungs if rung.predicted is not None]
    low, high = min([*gaps, _gap(limit or 1)]), max([*gaps, _gap(limit or 1)])
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_ylim(high * 2.2, low / 2.2)
    axes.set_yticks([10.0**power for power in powers if low / 2.2 <= 10.0**power <= high * 2.2])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{1 - value:.{_decimals(value)}f}")
    axes.margins(x=0.12)
    axes.grid(True, axis="y")


def _decimals(gap: float) -> int:
    return max(1, round(-math.log10(gap))) if gap > 0 else 1


def layers_plot(layers: Sequence[LayerRow]) -> str:
    """Bytes of each layer before and after, in graph order.

    Returns:
        An `<svg>` element; empty where fewer than two layers have sizes.
    """
    sized = {
        place: (layer.bytes_before, layer.bytes_after)
        for place, layer in enumerate(layers, 1)
        if layer.bytes_before is not None and layer.bytes_after is not None
    }
    sizes = list(sized.values())
    if len(sizes) < 2:
        return ""

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        width = 0.85 if len(sizes) <= 150 else 1.0
        axes.bar(list(sized), [before for before, _ in sizes], width, color=BEFORE, label="before")
        axes.bar(list(sized), [after for _, after in sizes], width, color=AFTER, label="after")
        note = ""
        if max(map(max, sizes)) > 50 * sorted(max(pair) for pair in sizes)[len(sizes) // 2]:
            axes.set_yscale("symlog", linthresh=1e4)
            note = " (log scale)"
        axes.yaxis.set_major_formatter(lambda value, _: _round(bytes_text(value)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, in graph order")
        axes.set_ylabel("weights" + note)
        axes.margins(x=0.01)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        axes.legend(ncols=2, loc="upper right")

    return draw_svg((11.6, 3.0), draw, "Bytes of each layer before and after", "layers")


KEPT = "kept"


def kinds_of(layers: Sequence[LayerRow]) -> dict[str, int]:
    """Number, from 1, of the colour of each way in which layers were treated; 0: kept.

    A way is the pass of the first stage; the rarest beyond six share the last number.
    """
    counts = Counter(_kind(layer) for layer in layers if layer.changed)
    ranked = [kind for kind, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    kept = {KEPT: 0} if any(not layer.changed for layer in layers) else {}
    return kept | {kind: min(place, len(KINDS)) for place, kind in enumerate(ranked, 1)}


def _kind(layer: LayerRow) -> str:
    return layer.stages[0].partition("(")[0] if layer.stages else KEPT


def allocation_plot(layers: Sequence[LayerRow]) -> str:
    """Share of its parameters that each layer keeps, in graph order, coloured by `kinds_of`.

    Returns:
        An `<svg>` element; empty where fewer than two layers have counts, or no layer has fewer
        parameters than before.
    """
    shares = {
        place: (layer.params_after / layer.params_before, _kind(layer))
        for place, layer in enumerate(layers, 1)
        if layer.params_before and layer.params_after is not None
    }
    if len(shares) < 2 or all(share >= 1.0 for share, _ in shares.values()):
        return ""
    numbers = kinds_of(layers)
    colours = (BEFORE, *KINDS)

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        axes.bar(
            list(shares), [share for share, _ in shares.values()],
            0.85 if len(shares) <= 150 else 1.0,
            color=[colours[numbers[kind]] for _, kind in shares.values()],
        )  # fmt: skip
        axes.axhline(1.0, color=INK, linewidth=1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}".replace("%", " %"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, in graph order")
        axes.set_ylabel("parameters kept")
        axes.margins(x=0.01)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)

    return draw_svg(
        (11.6, 2.6), draw, "Share of each layer's parameters that is kept", "allocation"
    )
