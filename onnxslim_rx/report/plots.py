"""Plots of the HTML page, as SVG text that takes its colours from the page.

Matplotlib draws with fixed stand-in colours, which are then replaced by variables of the page's
style sheet, so that one drawing serves light, dark and paper. No text from a model enters a
drawing: rungs are numbered, layers stand in graph order.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from onnxslim_rx.report.model import LayerRow, Report, Rung
from onnxslim_rx.report.text import bytes_text, ms_text
from onnxslim_rx.report.verdict import full_ladder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ladder_plot", "layers_plot"]

_INK, _FAINT, _BEFORE, _AFTER, _MISS = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "var(--soft)",
    _FAINT: "var(--line)",
    _BEFORE: "var(--before)",
    _AFTER: "var(--accent)",
    _MISS: "var(--bad)",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,
    "font.size": 11,
    "text.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_WORST, _BEST = 0.5, 1e-6
"""Range of `1 - cosine` that a plot shows; what lies outside is drawn on its edge."""


def ladder_plot(report: Report) -> str:
    """Quality against size and, where it is known, against latency; one point for each plan.

    Returns:
        An `<svg>` element; empty where fewer than two points have a cosine.
    """
    rungs = [(n, rung) for n, rung in enumerate(full_ladder(report)) if rung.cosine is not None]
    if len(rungs) < 2:
        return ""
    timed = [(n, rung) for n, rung in rungs if rung.latency_ms is not None]
    panels = 2 if len({rung.latency_ms for _, rung in timed}) > 1 else 1
    limit = report.budget.get("min_cosine")

    def draw(figure: Figure) -> None:
        axes: Sequence[Axes] = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        _draw_ladder(axes[0], rungs, [rung.bytes for _, rung in rungs], limit)
        _label(axes[0], "size", bytes_text)
        axes[0].set_ylabel("cosine")
        if panels == 2:
            times = [rung.latency_ms or 0.0 for _, rung in timed]
            _draw_ladder(axes[1], timed, times, limit)
            _label(axes[1], "latency", ms_text)

    return _svg((11.6, 3.7), draw, "Quality against size and latency of the plans tried", "ladder")


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
    axes: Axes, rungs: Sequence[tuple[int, Rung]], costs: Sequence[float], limit: float | None
) -> None:
    gaps = [_gap(rung.cosine or 0.0) for _, rung in rungs]
    axes.set_yscale("log")
    axes.invert_yaxis()  # up is better
    line = sorted(zip(costs, gaps, strict=True))
    xs, ys = [cost for cost, _ in line], [gap for _, gap in line]
    axes.plot(xs, ys, color=_BEFORE, linewidth=1.2, zorder=1)
    for (number, rung), cost, gap in zip(rungs, costs, gaps, strict=True):
        colour = _MISS if rung.passed is False else _AFTER if number else _INK
        axes.plot(
            [cost], [gap], marker="o", color=colour, markersize=11 if rung.chosen else 7,
            markerfacecolor=colour if rung.chosen else "none", markeredgewidth=1.8, zorder=2,
        )  # fmt: skip
        axes.annotate(
            str(number), (cost, gap), textcoords="offset points", xytext=(9, 4), fontsize=10
        )
    if limit is not None and limit < 1:
        axes.axhline(_gap(limit), color=_MISS, linewidth=1.2, linestyle="--", zorder=0)
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
        axes.bar(list(sized), [before for before, _ in sizes], width, color=_BEFORE, label="before")
        axes.bar(list(sized), [after for _, after in sizes], width, color=_AFTER, label="after")
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

    return _svg((11.6, 3.0), draw, "Bytes of each layer before and after", "layers")


def _svg(size: tuple[float, float], draw: Callable[[Figure], None], title: str, salt: str) -> str:
    import matplotlib  # heavy, and an optional extra
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": salt}  # the salt makes names of parts repeatable
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), title)


def _for_page(text: str, title: str) -> str:
    """An SVG file as an element of a page: its own size, styles and names would reach outside."""
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"font-family: [^;]*; ?", "", text)
    text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text)  # m..., p...: used by reference
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg class="plot" role="img" aria-label="{title}" {box.group() if box else ""}>'
    return re.sub(r"<svg[^>]*>", head, text, count=1).replace("xlink:href", "href")
