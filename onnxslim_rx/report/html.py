"""HTML pages, of a run and of a model: one file, without network and without JavaScript too."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxslim_rx.analysis import Inspection, Spectrum
from onnxslim_rx.errors import InputError
from onnxslim_rx.report import text
from onnxslim_rx.report.curves import SpectrumRow, spectrum_row
from onnxslim_rx.report.model import Report
from onnxslim_rx.report.plots import allocation_plot, kinds_of, ladder_plot, layers_plot
from onnxslim_rx.report.spectra import SHARES, is_smaller, rank_text, sentence
from onnxslim_rx.report.spectrum_plots import PLOTS, need_plot, spectrum_plot
from onnxslim_rx.report.verdict import full_ladder, headline, is_tried, promises, why_nothing

__all__ = ["inspection_to_html", "require_html", "to_html"]


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
    from markupsafe import Markup

    drawn = [layer for layer in report.layers if layer.spectrum is not None]
    return _render(
        "report.html",
        report=report,
        headline=_typeset(headline(report)),
        promises=promises(report),
        ladder=full_ladder(report),
        why_nothing=why_nothing(report),
        kept=not report.failure and all(p.kept is not False for p in promises(report)),
        ladder_plot=Markup(ladder_plot(report)),
        layers_plot=Markup(layers_plot(report.layers)),
        allocation_plot=Markup(allocation_plot(report.layers)),
        kinds=kinds_of(report.layers),
        is_tried=is_tried,
        spectra=[(layer, _figure(layer.spectrum)) for layer in drawn[:PLOTS]],
        spectra_left_out=max(len(drawn) - PLOTS, 0),
    )


def inspection_to_html(name: str, inspection: Inspection) -> str:
    """What a model holds, and its spectra, as one HTML page in the style of the report.

    Args:
        name: of the model.
        inspection: with or without spectra.

    Raises:
        InputError: see `require_html`.
    """
    require_html()
    from markupsafe import Markup

    spectra = inspection.spectra
    largest = sorted(spectra, key=lambda one: -one.bytes)[:PLOTS]
    groups: dict[str, list[tuple[Spectrum, Any]]] = {}
    for one in spectra:
        if one in largest and one.plain is not None:
            groups.setdefault(one.op, []).append((one, _figure(spectrum_row(one))))
    ratios = [(_ratio(one, whitened=False), _ratio(one, whitened=True)) for one in spectra]
    return _render(
        "inspect.html",
        name=name,
        totals=inspection.totals,
        rows=[row for row in inspection.rows if row.params or row.macs],
        spectra=spectra,
        sentence=sentence(spectra) if spectra else "",
        groups=groups,
        left_out=sum(one.plain is not None for one in spectra) - sum(map(len, groups.values())),
        need_plot=Markup(need_plot(ratios)),
        is_smaller=is_smaller,
        rank_text=rank_text,
        shares=SHARES,
        seen=any(one.whitened is not None for one in spectra),
        version=version("onnxslim-rx"),
    )


def _ratio(spectrum: Spectrum, *, whitened: bool) -> float | None:
    """The rank that keeps 99% of the energy, divided by the break-even rank."""
    rank = spectrum.rank(0.99, whitened=whitened)
    return rank / spectrum.break_even if rank is not None and spectrum.break_even else None


def _figure(row: SpectrumRow | None) -> Any:
    from markupsafe import Markup

    return Markup("" if row is None else spectrum_plot(row))


def _render(template: str, **values: Any) -> str:
    import jinja2  # an optional extra

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
    return environment.get_template(template).render(**values)


def _filters() -> dict[str, Callable[..., Any]]:
    named = {name: getattr(text, name) for name in text.__all__ if name != "printable"}
    return {**named, "typeset": _typeset}


def _typeset(words: str) -> str:
    for plain, sign in ((">=", "\u2265"), ("<=", "\u2264"), ("x smaller", "\u00d7 smaller")):
        words = words.replace(plain, sign)
    return words.replace("x latency", "\u00d7 latency")
