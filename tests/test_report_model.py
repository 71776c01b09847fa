"""The report as data: its JSON form is read back, checked, and stays what it was."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.report import BeforeAfter, Cosine, LayerRow, PassRow, Quality, Report

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"


def small_report(**fields) -> Report:
    counts = BeforeAfter(2, 1)
    return Report("m.onnx", counts, counts, BeforeAfter(None, None), counts, **fields)


def test_reports_of_this_schema_are_read_for_ever():
    text = GOLDEN.read_text(encoding="utf-8")
    assert Report.from_json(text).to_json() == text
    table = json.loads(text)
    # what was added later
    del table["operators"], table["layers"][1]["spectrum"]
    del table["ladder"][0]["predicted"], table["ladder"][0]["predicted_ms"]
    older = Report.from_json(json.dumps(table))
    assert older.operators == {}
    assert older.layers[1].spectrum is None
    assert (older.ladder[0].predicted, older.ladder[0].predicted_ms) == (None, None)


def test_design_keys_are_there():
    table = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {"schema_version", "model", "params", "bytes", "flops", "nodes"} <= set(table)
    assert set(table["bytes"]) == {"before", "after"}
    assert {"cosine", "snr_db", "max_abs", "metric"} <= set(table["quality"])
    assert set(table["quality"]["cosine"]) == {"mean", "p5", "min"}
    assert set(table["latency_ms"]) == {"before", "after", "ratio"}
    layer = {"name", "op", "stages", "error", "params_before", "params_after", "skipped"}
    assert layer <= set(table["layers"][0])
    assert {"name", "seconds", "changed", "skipped"} <= set(table["passes"][0])
    assert {"versions", "device", "min_onnxruntime"} <= set(table["environment"])


def test_what_is_not_finite_is_null():
    report = small_report(quality=Quality(Cosine(math.nan, 0.5, -0.5), snr_db=math.inf))
    table = json.loads(report.to_json())
    assert table["quality"]["cosine"] == {"mean": None, "p5": 0.5, "min": -0.5}
    assert table["quality"]["snr_db"] is None
    assert Report.from_dict(table).quality.snr_db is None


def test_numpy_numbers_become_plain_ones():
    report = small_report(timings={"plan": np.float32(0.5)}, seed=np.int64(3))
    report.layers = [LayerRow("a", "Conv", error=np.float64(math.nan))]
    back = Report.from_json(report.to_json())
    assert (back.timings, back.seed, back.layers[0].error) == ({"plan": 0.5}, 3, None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "unknown key 'extra' at report"),
        (("layers", 0, "speed"), 1, r"unknown key 'speed' at report.layers\[0\]"),
        (("layers", 0, "name"), None, r"nothing at report.layers\[0\].name; expected str"),
        (("bytes", "after"), 1.5, "float at report.bytes.after; expected int"),
        (("bytes", "after"), True, "bool at report.bytes.after; expected int"),
        (("quality", "samples"), "8", "str at report.quality.samples; expected int"),
        (("passes", 0, "changed"), 1, r"int at report.passes\[0\].changed; expected bool"),
        (("layers",), {}, "dict at report.layers; expected list"),
        (("environment", "versions", "onnx"), 1, "int at report.environment.versions.onnx"),
        (("schema_version",), 2, "schema_version 2; expected 1"),
        (("schema_version",), None, "schema_version None"),
    ],
)
def test_wrong_keys_and_types_are_refused(path, value, message):
    table = json.loads(GOLDEN.read_text(encoding="utf-8"))
    place = table
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        Report.from_dict(table)


def test_whole_numbers_may_have_a_point():
    table = json.loads(GOLDEN.read_text(encoding="utf-8"))
    table["bytes"]["after"], table["seed"] = 4736.0, 3.0
    report = Report.from_dict(table)
    assert (repr(report.bytes.after), repr(report.seed)) == ("4736", "3")


def test_missing_keys_are_named():
    table = json.loads(GOLDEN.read_text(encoding="utf-8"))
    del table["bytes"], table["nodes"]
    with pytest.raises(InputError, match="lacks bytes, nodes at report"):
        Report.from_dict(table)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "list at report; expected dict")]
)
def test_what_is_no_report_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Report.from_json(text)


def test_to_dict_shares_nothing_with_the_report():
    report = small_report(notes=["a"])
    table = report.to_dict()
    frozen = copy.deepcopy(table)
    report.notes.append("b")
    report.bytes.after = 7
    assert table == frozen


def test_remarks_of_a_pass():
    row = PassRow("fold", skipped={"too big": 2}, failure="output differs")
    assert row.remarks == "taken back: output differs, too big (2)"
    assert PassRow("fold").remarks == ""
