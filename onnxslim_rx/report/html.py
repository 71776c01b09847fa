"""The HTML report: one file that opens anywhere, without network and without JavaScript too."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.report import text
from onnxslim_rx.report.model import Report
from onnxslim_rx.report.plots import ladder_plot, layers_plot
from onnxslim_rx.report.verdict import full_ladder, headline, promises, why_nothing

__all__ = ["require_html", "to_html"]


def require_html() -> None:
    """Check that what `to_html` needs is installed, without importing it.

    Raises:
        InputError: jinja2 or matplotlib is missing.
    """
    missing = [name for name in ("jinja2", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"the HTML report needs {' and '.join(missing)}, which is not installed",
            advice="pip install 'onnxslim-rx[report]', or use --json",
        )


def to_html(report: Report) -> str:
    """The report as one HTML page with its style, script and plots inside.

    Raises:
        InputError: see `require_html`.
    """
    require_html()
    import jinja2  # an optional extra
    from markupsafe import Markup

    def one_line(value: Any) -> Any:
        """Names may hold anything: what would move a cursor or turn the text is spelt out."""
        return text.printable(value) if type(value) is str else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=one_line,
    )
    environment.filters.update(_filters())
    return environment.get_template("report.html").render(
        report=report,
        headline=_typeset(headline(report)),
        promises=promises(report),
        ladder=full_ladder(report),
        why_nothing=why_nothing(report),
        kept=not report.failure and all(p.kept is not False for p in promises(report)),
        ladder_plot=Markup(ladder_plot(report)),
        layers_plot=Markup(layers_plot(report.layers)),
    )


def _filters() -> dict[str, Callable[..., Any]]:
    named = {name: getattr(text, name) for name in text.__all__ if name != "printable"}
    return {**named, "typeset": _typeset}


def _typeset(words: str) -> str:
    for plain, sign in ((">=", "\u2265"), ("<=", "\u2264"), ("x smaller", "\u00d7 smaller")):
        words = words.replace(plain, sign)
    return words.replace("x latency", "\u00d7 latency")
