"""What `plan` prints of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from onnxslim_rx.report import Report, Rung
from onnxslim_rx.report.plan_view import print_plan

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"


@pytest.fixture
def report() -> Report:
    return Report.from_json(GOLDEN.read_text(encoding="utf-8"))


def printed(report: Report, width: int = 200, saved: str | None = None) -> str:
    stream = io.StringIO()
    print_plan(
        Console(file=stream, width=width, highlight=False, markup=False), report, saved=saved
    )
    return stream.getvalue()


def test_layers_with_what_is_done_and_what_it_costs(report):
    text = printed(report, saved="p.toml")
    (query,) = (line for line in text.splitlines() if "query" in line)
    assert query.split()[1:5] == ["factorize-gemm", "rank=96", "+", "quantize-weights"]
    assert query.split()[6:] == [
        "0.0427", "0.00107", "590", "kB", "75.6", "kB", "0.210", "ms", ">", "0.150", "ms",
    ]  # fmt: skip
    assert "10 of 12 layers would be changed" in text
    assert "wrote p.toml; optimize --plan FILE carries it out" in text


def test_the_curve_has_predictions_beside_measurements(report):
    lines = printed(report).splitlines()
    (chosen,) = (line for line in lines if line.startswith("int8 on 32"))
    tail = ["30.3", "MB", "10.9", "ms", "11.3", "ms", "0.9925", "0.9947", "*"]
    assert chosen.split()[-9:] == tail
    (missed,) = (line for line in lines if line.startswith("int8 on 28"))
    assert missed.endswith("missed")
    (untried,) = (line for line in lines if line.startswith("int8 on 20"))
    assert untried.split()[-2:] == ["0.9340", "-"]


def test_reasons_where_nothing_is_done(report):
    for layer in report.layers:
        layer.stages = []
    report.ladder = [Rung("keep all", 5, None, 1.0)]
    report.bytes.before = None
    text = printed(report)
    assert "0 of 12 layers would be changed" in text
    assert "1 layer: any change costs more cosine than the budget has left" in text
    assert "plans, predicted" not in text
    assert "-o FILE writes the plan" in text


def test_times_are_left_out_where_there_is_no_room(report):
    assert "time IN" not in printed(report, width=70)
