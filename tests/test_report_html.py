"""The HTML report: complete, safe with hostile names, and working in a real browser."""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.analysis import Spectrum, inspect_model
from onnxslim_rx.errors import InputError
from onnxslim_rx.report import BeforeAfter, Latency, LayerRow, Report, Rung, SpectrumRow

pytest.importorskip("jinja2", reason="the extra [report] is not installed")
pytest.importorskip("matplotlib", reason="the extra [report] is not installed")

from onnxslim_rx.report.html import inspection_to_html, to_html
from onnxslim_rx.report.plots import allocation_plot, kinds_of, ladder_plot, layers_plot
from onnxslim_rx.report.spectrum_plots import PLOTS, need_plot, spectrum_plot
from onnxslim_rx.report.verdict import full_ladder

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"
HOSTILE = "</td></table><script>document.title='owned'</script><img src=x onerror=alert(1)>'\"&$x_$"


@pytest.fixture
def report() -> Report:
    return Report.from_json(GOLDEN.read_text(encoding="utf-8"))


def bare_report() -> Report:
    counts = BeforeAfter(10, 10)
    return Report("m.onnx", counts, counts, BeforeAfter(None, None), counts)


class Page(HTMLParser):
    """What a page refers to, and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data):
        self.words.append(data)


def test_everything_is_in_the_page_without_javascript(report):
    text = html.unescape(to_html(report))
    for layer in report.layers:
        assert layer.name in text
        assert (layer.skipped or layer.why) in text
    for row in report.passes:
        assert row.name in text
    for rung in report.ladder:
        assert rung.name in text
    assert "Keeps cosine \u2265 0.99: 0.9947; 3.0\u00d7 smaller, 0.94\u00d7 latency" in text
    assert report.command in text
    assert all(note in text for note in report.notes)


def test_the_page_asks_for_nothing_from_outside(report):
    text = to_html(report)
    page = Page(text)
    assert all(link == "data:," or link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert all(name.startswith("#") for name in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'" in text


def test_plots_do_not_reach_outside_themselves(report):
    spectra = [layer.spectrum for layer in report.layers if layer.spectrum]
    drawn = [
        ladder_plot(report), layers_plot(report.layers), allocation_plot(report.layers),
        need_plot([(0.5, 0.1), (2.0, None), (None, 1e-6)]), *map(spectrum_plot, spectra),
    ]  # fmt: skip
    assert len(drawn) == 6
    for plot in drawn:
        assert plot.startswith('<svg class="plot"')
        assert "<style" not in plot
        assert "font-family" not in plot
        assert not re.search(r"#0[1-9]0[1-9]0[1-9]", plot)  # stand-in colours are all replaced
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]*)', plot))
        assert used == set(re.findall(r' id="([^"]*)"', plot))
    names = re.findall(r' id="([^"]*)"', "".join(drawn))
    assert len(names) == len(set(names))


def test_hostile_names_stay_text(report):
    clean = Page(to_html(report))
    report.model = report.command = report.failure = HOSTILE
    report.notes = [HOSTILE]
    report.layers[0].name = report.layers[0].op = report.layers[0].why = HOSTILE
    report.layers[1].stages = [HOSTILE]
    report.layers[-1].skipped = HOSTILE
    report.passes[0].name = HOSTILE
    report.passes[0].skipped = {HOSTILE: 1}
    report.ladder[0].name = report.ladder[0].why = HOSTILE
    report.environment.versions = {HOSTILE: HOSTILE}
    report.quality.outputs[0]["name"] = HOSTILE
    assert report.quality.metric
    report.quality.metric.name = HOSTILE
    report.budget["outputs"] = [HOSTILE]
    report.timings = {HOSTILE: 1.0}
    page = Page(to_html(report))
    assert page.tags.count("script") == clean.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.links == clean.links


def test_names_cannot_turn_the_reading_direction(report):
    report.layers[0].name = "a\u202eb\x1b\udc80"
    text = to_html(report)
    assert "a\\u202eb\\x1b\\udc80" in text
    text.encode("utf-8")


def test_the_same_report_gives_the_same_page(report):
    assert to_html(report) == to_html(report)


def test_a_report_with_nothing_in_it_is_a_page():
    text = to_html(bare_report())
    assert "no layer that could be compressed" in text
    assert "<svg" not in text


def test_a_failure_is_shown_as_one(report):
    report.failure = "30.3 MB is the least"
    text = to_html(report)
    assert 'class="verdict bad">The promise could not be kept: 30.3 MB is the least<' in text


@pytest.mark.parametrize("cosines", [[1.0, 1.0], [1.0, -1.0], [0.999999999999, 0.2], [0.5, 1.0]])
def test_ladders_of_any_cosine_can_be_drawn(cosines):
    report = bare_report()
    report.ladder = [Rung(str(n), 100 - n, None, c) for n, c in enumerate(cosines)]
    report.budget = {"min_cosine": 1.0}
    assert "<svg" in ladder_plot(report)
    report.ladder = []
    assert ladder_plot(report) == ""


def test_the_ladder_starts_at_the_original_and_ends_at_what_was_measured():
    report = bare_report()
    report.latency_ms = Latency(2.0, 1.5, 0.75)
    report.ladder = [Rung("int8", 5, None, 0.99, chosen=True), Rung("rank", 4, None, 0.9)]
    first, chosen, missed = full_ladder(report)
    assert (first.bytes, first.latency_ms, first.cosine) == (10, 2.0, 1.0)
    assert (chosen.latency_ms, missed.latency_ms) == (1.5, None)
    assert report.ladder[0].latency_ms is None


def test_layers_of_size_zero_and_unknown_size_can_be_drawn():
    layers = [LayerRow("a", "Conv", bytes_before=0, bytes_after=0) for _ in range(2)]
    assert "<svg" in layers_plot(layers)
    assert layers_plot([*layers[:1], LayerRow("b", "Conv")]) == ""


def test_a_missing_extra_is_one_clear_line(report, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name)
    )
    with pytest.raises(InputError, match=r"needs jinja2.*pip install 'onnxslim-rx\[report\]'"):
        to_html(report)


def test_what_was_predicted_is_a_cross_and_what_was_measured_a_circle(report):
    def marks(tested):
        """Crosses and circles of a plan, beside one that was measured."""
        report.ladder = [Rung("a", 5, None, 0.9, passed=False), tested]
        plot = ladder_plot(report)
        return plot.count("var(--second)") > 0, plot.count("var(--accent)") > 0

    report.bytes = BeforeAfter(9, 5)
    assert marks(Rung("b", 4, None, 0.98, passed=True)) == (False, True)
    assert marks(Rung("b", 4, None, 0.98, passed=True, predicted=0.97)) == (True, True)
    assert marks(Rung("b", 4, None, 0.98, predicted=0.98)) == (True, False)
    assert marks(Rung("b", 4, None, 0.98)) == (False, True)  # of a report of older days


def test_latency_is_predicted_where_it_was_not_measured(report):
    report.ladder = [Rung("a", 5, None, 0.9, predicted_ms=7.0), Rung("b", 4, 3.0, 0.8)]
    report.latency_ms = Latency(10.0, 3.0, 0.3)
    assert ">latency<" in ladder_plot(report)
    report.ladder[0].predicted_ms = report.ladder[1].latency_ms = None
    assert ">latency<" not in ladder_plot(report)


def test_the_allocation_tells_ways_of_treatment_apart():
    def layer(stages, after):
        return LayerRow("x", "MatMul", stages=stages, params_before=10, params_after=after)

    gemm = layer(["factorize-gemm(rank=1)", "quantize-weights(bits=8)"], 4)
    layers = [layer([], 10), gemm, gemm, layer(["quantize-weights(bits=8)"], 10)]
    assert kinds_of(layers) == {"kept": 0, "factorize-gemm": 1, "quantize-weights": 2}
    assert "var(--kind1)" in allocation_plot(layers)
    assert allocation_plot(layers[:1] + layers[3:]) == ""  # nothing has fewer parameters
    many = [layer([f"pass{n}"], 5) for n in range(9)]
    assert max(kinds_of(many).values()) == 6
    assert "kept" not in kinds_of(many)


def test_spectra_of_any_length_can_be_drawn():
    row = SpectrumRow([3, 3], 1, None, [0, 1, 2, 3], [0.0, 0.5, 1.0, 1.0])
    assert "<svg" in spectrum_plot(row)
    assert spectrum_plot(SpectrumRow([3, 3], 1)) == ""
    assert "<svg" in spectrum_plot(SpectrumRow([1, 9], 0, None, [0, 1], [0.0, 1.0], [0.0, 1.0]))
    assert need_plot([(0.5, None)]) == need_plot([(None, None)] * 3) == ""


def test_only_so_many_spectra_are_drawn(report):
    report.layers = [report.layers[1]] * (PLOTS + 2)
    text = to_html(report)
    assert text.count("<figure>") == PLOTS
    assert "2 more are in the JSON report" in text


@pytest.fixture
def inspection():
    rising = np.linspace(0.0, 1.0, 201)
    spectra = (
        Spectrum(HOSTILE, "MatMul", (200, 300), 1, 240_000, rising**0.01, rising**0.001),
        Spectrum("v", "Conv", (300, 200), 1, 240_000, rising, note="not whitened: " + HOSTILE),
        Spectrum("w", "Conv", (300, 200), 2, 480_000, None, note="the weight has NaN"),
    )
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Neg(x) }'
    )
    return dataclasses.replace(inspect_model(ir.from_proto(proto)), spectra=spectra)


def test_the_page_of_an_inspection(inspection, browser, tmp_path):
    page = inspection_to_html("folder/<b>.onnx", inspection)
    document, log = opened(browser, page, tmp_path)
    assert log == ""
    assert column(document, "layers", 1) == [HOSTILE, "v", "w"]
    assert column(document, "layers", -2) == ["yes", "no", "no"]
    assert page.count("<figure>") == 2
    assert "keep 99 % of the outputs&#39; energy are smaller for 1 of 3 weights" in page
    assert Page(page).tags.count("script") == 1
    empty = inspection_to_html("m.onnx", dataclasses.replace(inspection, spectra=()))
    assert "<svg" not in empty
    assert "What the model holds" in empty


@pytest.fixture(scope="session")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium or google-chrome here")


def opened(browser: str, page: str, folder: Path, driver: str = "") -> tuple[str, str]:
    """The document after its scripts ran, and what the browser logged."""
    file = folder / "report.html"
    file.write_text(page.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    log = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, log


def column(document: str, table: str, index: int) -> list[str]:
    """Texts of one column, in the order of the rows."""
    body = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', document, re.DOTALL)
    assert body
    rows = re.findall(r"<tr.*?</tr>", body[1], re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [html.unescape(re.sub(r"<[^>]*>", "", row[index])).strip() for row in cells]


def click(table: str, index: int) -> str:
    return f"document.querySelectorAll('#{table} th button')[{index}].click();"


def test_in_a_browser_rows_show_and_sorting_works(report, browser, tmp_path):
    names = [layer.name for layer in report.layers]
    layers = sorted(report.layers, key=lambda layer: layer.bytes_before or 0)
    driver = click("layers", 4) + click("passes", 2) * 2
    document, log = opened(browser, to_html(report), tmp_path, driver)
    assert log == ""
    assert sorted(column(document, "layers", 1)) == sorted(names)
    assert column(document, "layers", 1) == [layer.name for layer in layers]  # a stable sort
    by_time = sorted(report.passes, key=lambda row: -row.seconds)
    assert column(document, "passes", 0) == [row.name for row in by_time]
    assert len(re.findall('<th[^>]*aria-sort="ascending"', document)) == 1
    assert len(re.findall('<th[^>]*aria-sort="descending"', document)) == 1


def test_in_a_browser_unknown_values_sort_last_and_the_filter_hides(report, browser, tmp_path):
    driver = click("layers", 6) + (
        "const f = document.getElementById('filter'); f.value = 'QUERY';"
        "f.dispatchEvent(new Event('input'));"
    )
    document, log = opened(browser, to_html(report), tmp_path, driver)
    assert log == ""
    errors = column(document, "layers", 6)
    assert errors[-1] == "-"
    assert [float(error) for error in errors[:-1]] == sorted(map(float, errors[:-1]))
    shown = re.findall(
        r"<tr(?![^>]*hidden)[^>]*><td[^>]*>\d+</td><td class=\"name\">([^<]*)", document
    )
    assert {name for name in shown if "layer" in name} == {
        layer.name for layer in report.layers if "query" in layer.name
    }


def test_in_a_browser_hostile_names_do_nothing(report, browser, tmp_path):
    report.layers[0].name = HOSTILE
    report.notes = [HOSTILE]
    document, log = opened(browser, to_html(report), tmp_path)
    assert log == ""
    assert HOSTILE in column(document, "layers", 1)
    assert "<title>owned" not in document


def test_the_browser_would_have_told_of_errors_and_of_requests(report, browser, tmp_path):
    driver = "document.body.innerHTML += '<img src=\"http://127.0.0.1:9/x.png\">'; nothing();"
    _, log = opened(browser, to_html(report), tmp_path, driver)
    assert "nothing is not defined" in log
    assert "Content Security Policy" in log
