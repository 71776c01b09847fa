"""Tables on terminals of all widths, in files and pipes; progress bars."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from onnxslim_rx.progress import listen, task
from onnxslim_rx.report import LayerRow, Report
from onnxslim_rx.report.console import print_profile, print_report, stages_text
from onnxslim_rx.report.listener import RichListener, progress_listener
from onnxslim_rx.report.tables import make_console, show_table

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def report() -> Report:
    return Report.from_json(GOLDEN.read_text(encoding="utf-8"))


def printed(report: Report, stream: io.StringIO, **options) -> str:
    console = make_console(stream)
    print_report(console, report, **options)
    print_profile(console, report.passes)
    return stream.getvalue()


def test_a_pipe_gets_plain_text_with_whole_names(report):
    report.layers[0].name = "encoder." * 40 + "weight"
    text = printed(report, io.StringIO())
    assert "\x1b" not in text
    assert report.layers[0].name in text
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    for line in (
        "size        90.4 MB",
        "nodes by operator: Add 63 -> 51",
        "Keeps cosine >= 0.99: 0.9947; 3.0x smaller, 0.94x latency",
    ):
        assert line in text


def test_only_what_is_no_terminal_has_room_without_end():
    assert make_console(Terminal()).width < 1000 < make_console(io.StringIO()).width


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(report, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(report, Terminal()))
    assert max(map(len, text.splitlines())) <= width


def test_numbers_are_never_cut(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(report, Terminal())
    for layer in ("46.9 MB  11.8 MB", "2.36 MB   591 kB", "590 kB  75.6 kB"):
        assert layer in text


def test_no_color_is_obeyed(report, monkeypatch):
    colours = re.compile(r"\x1b\[[0-9;]*3[0-7]")
    assert colours.search(printed(report, Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours.search(printed(report, Terminal()))


def test_names_are_text_not_markup(report):
    report.layers[0].name = "[red]x[/red]\x1b[31m:smile:"
    report.notes = ["see [bold]\nnext"]
    text = printed(report, io.StringIO())
    assert r"[red]x[/red]\x1b[31m:smile:" in text
    assert r"note: see [bold]\nnext" in text


def test_the_biggest_savings_are_listed_and_the_rest_counted(report):
    changed = [layer for layer in report.layers if layer.changed]
    text = printed(report, io.StringIO(), top=2)
    assert f"{len(changed)} of {len(report.layers)} layers changed" in text
    assert f"and {len(changed) - 2} more" in text
    saved = {layer.name: layer.bytes_before - layer.bytes_after for layer in changed}
    best = sorted(saved, key=saved.__getitem__, reverse=True)
    assert best[0] in text
    assert best[-1] not in text


def test_reasons_are_given_where_nothing_was_done(report):
    report.layers = [LayerRow(f"conv{n}", "Conv", why="3x3 is too small") for n in range(3)]
    text = printed(report, io.StringIO())
    assert "why nothing was changed:\n  3 layers: 3x3 is too small\n" in text
    assert "No layer was changed" in text


def test_a_model_without_layers_says_so(report):
    report.layers = []
    assert "the model has no layer that can be compressed" in printed(report, io.StringIO())


def test_a_metric_is_shown_with_its_interval(report):
    text = printed(report, io.StringIO())
    assert re.search(r"spearman +0\.820 +0\.818 +change -0\.0051 to \+0\.0004", text)


def test_a_terminal_without_unicode_gets_ascii(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    print_report(make_console(stream), report)
    stream.flush()
    assert b"..." in raw.getvalue()


def test_wide_characters_keep_the_table_narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    show_table(make_console(stream), ["name", "n"], [("層" * 30, 1)], words=["name"])
    from rich.cells import cell_len

    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= 30


def test_stages_lose_words_and_keep_numbers():
    stages = [
        "factorize-gemm(method=whitened-svd, rank=96)",
        "quantize-weights(bits=8, alpha=-0.5)",
    ]
    assert stages_text(stages) == "factorize-gemm rank=96 + quantize-weights bits=8 alpha=-0.5"
    assert stages_text(["fold"]) == "fold"


def listener_on(stream: io.StringIO, delay: float) -> RichListener:
    return RichListener(Console(file=stream, force_terminal=True, width=100), delay=delay)


def wait_for(stream: io.StringIO, text: str) -> None:
    for _ in range(200):
        if text in stream.getvalue():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text!r} was not shown: {stream.getvalue()!r}")


def test_short_tasks_show_nothing():
    stream = io.StringIO()
    with listen(listener_on(stream, 60.0)), task("quick", 2) as advance:
        advance(1)
    assert stream.getvalue() == ""


def test_long_tasks_show_a_bar_even_when_they_never_report():
    stream = io.StringIO()
    with listen(listener_on(stream, 0.01)), task("calibrate [b]", 10) as advance:
        wait_for(stream, "calibrate [b]")
        advance(4)
        wait_for(stream, "4/10")


def test_short_tasks_stay_hidden_beside_long_ones():
    listener = listener_on(io.StringIO(), 60.0)
    with listen(listener), task("outer", 2), task("inner", 2):
        assert [shown.visible for shown in listener._progress.tasks] == [False, False]


def test_bars_come_back_after_all_tasks_ended_and_go_when_one_raises():
    stream = io.StringIO()
    listener = listener_on(stream, 0.01)
    with listen(listener):
        with pytest.raises(AssertionError, match="never"), task("first", None):
            wait_for(stream, "never")
        assert "first" in stream.getvalue()
        with task("second", 3), task("inner", 5):
            wait_for(stream, "second")
            wait_for(stream, "inner")
    assert listener._progress.tasks == []
    assert not listener._progress.live.is_started


def test_nothing_is_drawn_where_no_terminal_is():
    assert progress_listener(io.StringIO()) is None
    assert isinstance(progress_listener(Terminal()), RichListener)
