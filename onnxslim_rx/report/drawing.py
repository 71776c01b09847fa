"""From a Matplotlib figure to an `<svg>` element that takes its colours from the page.

Matplotlib draws with fixed stand-in colours, which are then replaced by variables of the page's
style sheet, so that one drawing serves light, dark and paper. No text from a model enters a
drawing: rungs are numbered, layers stand in graph order.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AFTER", "BEFORE", "FAINT", "INK", "KINDS", "MISS", "SECOND", "draw_svg"]

INK, FAINT, BEFORE, AFTER, MISS = "#010101", "#020202", "#030303", "#040404", "#050505"
SECOND = "#060606"
KINDS = tuple(f"#0{n}0{n}07" for n in range(1, 7))
"""Colours that tell kinds apart; the style sheet calls them `--kind1` and so on."""
_VARIABLES = {
    INK: "var(--soft)",
    FAINT: "var(--line)",
    BEFORE: "var(--before)",
    AFTER: "var(--accent)",
    MISS: "var(--bad)",
    SECOND: "var(--second)",
    **{colour: f"var(--kind{n})" for n, colour in enumerate(KINDS, 1)},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def draw_svg(
    size: tuple[float, float],
    draw: Callable[[Figure], None],
    title: str,
    salt: str,
    *,
    fixed: bool = False,
) -> str:
    """A drawing as an element of the page.

    Args:
        size: inches, width and height; the page scales it.
        draw: fills the figure.
        title: for those who do not see it.
        salt: makes names of parts repeatable, and different from those of other drawings.
        fixed: the drawing places its axes itself, which is much faster.
    """
    import matplotlib  # heavy, and an optional extra
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout=None if fixed else "constrained")
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
