"""Numbers as people read them, and the sentence that sums a report up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.report import LayerRow, MetricRow, Report
from onnxslim_rx.report.text import (
    bytes_text,
    change_text,
    cosine_text,
    count_text,
    ms_text,
    number_text,
    printable,
    seconds_text,
    size_change,
)
from onnxslim_rx.report.verdict import headline, promises, why_nothing

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"


@pytest.fixture
def report() -> Report:
    return Report.from_json(GOLDEN.read_text(encoding="utf-8"))


@given(st.floats(-1, 1))
def test_a_cosine_never_looks_better_than_it_is(value):
    shown = float(cosine_text(value))
    assert shown <= value + 1e-9
    assert shown >= value - 1e-4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98996, "0.9899"),  # rounded it would be 0.9900 and seem to keep 0.99
        (0.99, "0.9900"),
        (0.57, "0.5700"),
        (1.0, "1.0000"),
        (0.999987, "0.999987"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_cosine(value, text):
    assert cosine_text(value) == text


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (bytes_text, 0, "0 B"),
        (bytes_text, 999, "999 B"),
        (bytes_text, 999_960, "1.00 MB"),
        (bytes_text, 22_900_000, "22.9 MB"),
        (count_text, 9_999, "9999"),
        (count_text, 22_713_216, "22.7 M"),
        (count_text, None, "-"),
        (ms_text, 0.0123, "12.3 us"),
        (ms_text, 12.1, "12.1 ms"),
        (ms_text, 12_345, "12.3 s"),
        (seconds_text, 0.0005, "0.5 ms"),
        (seconds_text, 245, "4 min 05 s"),
        (number_text, 1e-5, "1.00e-05"),
        (number_text, math.inf, "-"),
    ],
)
def test_units(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 100, "same size"),
        (1000, 997, "same size"),
        (100, 90, "10.0 % smaller"),
        (100, 25, "4.0x smaller"),
        (100, 110, "10.0 % larger"),
        (0, 5, ""),
        (None, 5, ""),
    ],
)
def test_size_change(before, after, text):
    assert size_change(before, after) == text


def test_change_in_per_cent():
    assert (change_text(200, 150), change_text(1, 1), change_text(0, 1)) == ("-25.0 %", "", "")


@given(st.text(st.characters()))
def test_printable_text_is_one_line_that_can_be_written(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_printable_disarms_escape_sequences_and_reversed_text():
    assert printable("a\x1b[31m\u202eb\n\udc80") == "a\\x1b[31m\\u202eb\\n\\udc80"


def test_headline_of_a_kept_promise(report):
    assert headline(report) == "Keeps cosine >= 0.99: 0.9947; 3.0x smaller, 0.94x latency"


def test_headline_says_when_a_promise_is_missed_or_unknown(report):
    report.budget = {"min_cosine": 0.999, "cosine_stat": "p5", "max_latency": 20.0}
    report.latency_ms.after = None
    assert headline(report).startswith(
        "Misses p5 cosine >= 0.999: 0.9930, latency <= 20.0 ms: not measured;"
    )
    assert [promise.kept for promise in promises(report)] == [False, None]


def test_equal_outputs_keep_any_ratio(report):
    report.budget = {"min_snr_db": 60.0}
    report.quality.snr_db, report.quality.cosine.mean = None, 1.0
    (promise,) = promises(report)
    assert (promise.kept, promise.measured) == (True, "infinite")


def test_promises_about_the_metric_and_costs(report):
    report.budget = {"max_drop": 0.002, "max_bytes": 10_000_000, "max_flops": 3 * 10**9}
    report.quality.metric = MetricRow("top1", 0.81, 0.809)
    assert [(p.limit, p.kept) for p in promises(report)] == [
        ("drop of top1 <= 0.002", True),
        ("size <= 10.0 MB", False),
        ("operations <= 3.00 G", True),
    ]


def test_headline_of_a_failure_and_of_no_change(report):
    report.layers = [LayerRow("a", "Conv", why="does not pay")]
    assert headline(report).startswith("No layer was changed; Keeps")
    report.failure = "30 MB needed"
    assert headline(report) == "The promise could not be kept: 30 MB needed"


def test_commonest_reasons_come_first():
    layers = [LayerRow(str(n), "Conv", why=why) for n, why in enumerate("abbccc")]
    layers += [LayerRow("x", "Gemm", skipped="shared"), LayerRow("y", "Gemm", ["quantize"])]
    report = Report.from_json(GOLDEN.read_text(encoding="utf-8"))
    report.layers = layers
    assert why_nothing(report, 3) == [("c", 3), ("b", 2), ("a", 1)]
    assert ("shared", 1) in why_nothing(report)
