"""tools/bench_int8.py judges what it measured, keeps it, and says what is missed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import bench_int8
from tools import bench_int8_peers as peers
from tools.bench_found import Found
from tools.bench_int8_bars import (
    Bar,
    judge_minilm,
    judge_mobilenet,
    judge_others,
    judge_ranges,
)
from tools.bench_int8_data import LENGTHS, Half
from tools.bench_int8_others import OtherRow, reasons
from tools.bench_int8_rows import (
    MINILM_JOBS,
    MOBILENET_JOBS,
    ImagesRow,
    LengthsRow,
    both,
)
from tools.bench_quantize_data import DOMAINS, Data
from tools.bench_quantize_peer_files import Made
from tools.bench_quantize_rows import Row
from tools.bench_run import Job
from tools.bench_tables import row_of, table_of


def sentences(
    name: str = "ours", ratio: float = 0.4, mean: float = 0.994, **more: Any
) -> LengthsRow:
    made = LengthsRow(
        name, bytes=(90, 23), cosine=dict.fromkeys(DOMAINS, (mean, mean - 0.01)), ratio=ratio,
        interval=(ratio, ratio), ratios={str(n): (ratio, ratio - 0.01, ratio) for n in LENGTHS},
    )  # fmt: skip
    return dataclasses.replace(made, **more)


def pictures(name: str = "ours", same: float = 0.98, **more: Any) -> ImagesRow:
    made = ImagesRow(
        name, bytes=(1000, 280), cosine={"images": (0.98, 0.97)}, ratio=0.5, interval=(0.5, 0.5),
        same=same, accuracy=(0.8, 0.79), against=(0.98, 0.97, 0.99), seconds=5.0, peak_mb=300.0,
    )  # fmt: skip
    return dataclasses.replace(made, **more)


def missed(bars: Sequence[Bar]) -> list[str]:
    return [bar.what for bar in bars if not bar.met]


def test_what_is_met_is_told_too() -> None:
    bars = judge_minilm([sentences(), sentences("peer", 0.3, 0.999, peer=True)])
    assert len(bars) == len(DOMAINS) + len(LENGTHS)
    assert missed(bars) == []
    bars = judge_mobilenet([pictures(), pictures("peer", peer=True, error="none")])
    assert missed(bars) == []
    assert [bar.what for bar in bars][1] == "ours: 0.280 x the bytes, bar 0.30"


@pytest.mark.parametrize(
    ("row", "clauses"),
    [
        (sentences(mean=0.9929), ["sst: mean cosine 0.9929", "docstrings: mean cosine 0.9929"]),
        (
            sentences(ratios={"16": (0.46, 0.4, 0.5), "32": (0.45, 0, 1), "128": (0.5, 0, 1)}),
            ["16 tokens: 0.460 x the latency, bar 0.45", "128 tokens: 0.500"],
        ),
        (sentences(error="no plan"), ["ours: no plan"]),
    ],
)
def test_what_sentences_miss_is_named(row: LengthsRow, clauses: list[str]) -> None:
    found = missed(judge_minilm([row]))
    assert len(found) == len(clauses)
    assert all(clause in line for clause, line in zip(clauses, found, strict=True)), found


@pytest.mark.parametrize(
    ("row", "clause"),
    [
        (pictures(same=0.968), "96.8% of the classes are the same, bar 97%"),
        (pictures(bytes=(1000, 301)), "0.301 x the bytes"),
        (pictures(against=(1.05, 1.0, 1.1)), "1.050 x the rival's latency (1.000 to 1.100)"),
    ],
)
def test_what_pictures_miss_is_named(row: ImagesRow, clause: str) -> None:
    (line,) = missed(judge_mobilenet([row]))
    assert clause in line


def test_one_model_has_to_meet_all() -> None:
    good, fast = sentences("good", ratio=0.9), sentences("fast", mean=0.9)
    bars = judge_minilm([good, fast])
    assert all(bar.what.startswith("fast") for bar in bars)  # three of five
    assert len(missed(bars)) == 2
    assert missed(judge_minilm([good, fast, sentences("both")])) == []


def test_without_a_rival_latency_is_not_judged() -> None:
    bars = judge_mobilenet([pictures(against=(math.nan,) * 3)])
    assert len(bars) == 2
    assert judge_mobilenet([pictures("peer", peer=True)]) == []


def other(**changes: Any) -> OtherRow:
    made = OtherRow(
        "model", bytes_before=100, bytes_after=100, cosine={"mean": 1.0}, ratio=1.0,
        reasons={"costs more": 2},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_models_gain_or_say_why_not() -> None:
    assert missed(judge_others([other(), other(reasons={}, bytes_after=50)])) == []
    assert missed(judge_others([other(reasons={})])) == ["model: gain or reason"]
    assert missed(judge_others([other(reasons={"": 1}, notes=["a note"])])) == [
        "model: gain or reason"
    ]
    assert missed(judge_others([other(ratio=1.06)])) == ["model: latency ratio <= 1.05"]


def test_reasons_are_counted() -> None:
    layers = [
        {"stages": ["a"], "skipped": None, "why": "smallest"},
        {"stages": [], "skipped": "too small", "why": ""},
        {"stages": [], "skipped": None, "why": "slower"},
        {"stages": [], "skipped": None, "why": "slower"},
    ]
    assert list(reasons({"layers": layers}).items()) == [("slower", 2), ("too small", 1)]


def test_memory_of_ranges_has_a_bar() -> None:
    found = {"images": 512, "float_mb": 200.0, "peak_mb": 1699.0}
    assert missed(judge_ranges(found)) == []
    assert "1501 MB above" in missed(judge_ranges({**found, "peak_mb": 1701.0}))[0]
    assert missed(judge_ranges({"error": "no pass"})) == ["ranges: no pass"]


@pytest.mark.parametrize(
    "row", [sentences(), pictures(), ImagesRow("failed", error="x"), other(notes=())]
)
def test_rows_survive_json(row: Any) -> None:
    back = row_of(type(row), json.loads(json.dumps(table_of(row), allow_nan=False)))
    assert repr(back) == repr(row)


def test_rows_that_failed_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    found = Found(["one"], 1, path, resume=False)
    for row in (sentences("a"), sentences("b", error="none")):
        found.add("one", row)
    found.put("missed", ["b"])
    again = Found(["one"], 1, path, resume=True)
    assert again.rows("one", LengthsRow) == [sentences("a")]
    assert "missed" not in again.all
    assert Found(["one"], 1, path, resume=False).rows("one", LengthsRow) == []


def test_two_halves_are_one_row() -> None:
    first = pictures(same=1.0, accuracy=(0.8, 0.7), seconds=9.0)
    second = pictures(
        same=0.9, accuracy=(0.6, 0.6), ratio=0.6, bytes=(1000, 300), against=(0.9, 0.8, 1.0),
        cosine={"images": (0.96, 0.95)}, chosen={"a": 1},
    )  # fmt: skip
    (row,) = both(iter([first]), iter([second]))
    assert row.same == pytest.approx(0.95)
    assert row.accuracy == pytest.approx((0.7, 0.65))
    assert row.cosine["images"] == pytest.approx((0.97, 0.96))
    assert (row.ratio, row.bytes, row.seconds) == (0.6, (1000, 300), 9.0)
    assert row.against[0] == 0.98
    assert row.chosen == {"a": 1}
    (row,) = both([first], [pictures(error="no plan")])
    assert row.error == "no plan"


def test_jobs_can_be_asked_for() -> None:
    for jobs in (MINILM_JOBS, MOBILENET_JOBS):
        for fields in jobs.values():
            assert Job("a", "b", **fields).budget
    assert any("quantize-static" in job.get("only", ()) for job in MOBILENET_JOBS.values())
    assert any(job.get("metric") == "agreement" for job in MOBILENET_JOBS.values())


def test_all_tools_of_the_comparison_are_asked() -> None:
    assert {"ORT dynamic INT8, per tensor", "ORT dynamic INT8, per channel"} < set(peers.MINILM)
    for table in (peers.MINILM, peers.MOBILENET):
        named = " ".join(table)
        assert all(word in named for word in ("NNCF", "quantize_auto", "onnxsim quantize_static"))
        assert not any(peer.after for peer in table.values())
    named = " ".join(peers.MOBILENET)
    assert all(word in named for word in (peers.RIVAL, "entropy", "percentile"))
    assert set(peers.PEERS) >= {*peers.MINILM, *peers.MOBILENET, *peers.GROWING}


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(bench_int8, "ASSETS", tmp_path)
    return tmp_path


def rows_of(
    make: Callable[..., Row], asked: list[Any], **fields: Any
) -> Callable[..., Iterator[Row]]:
    def rows(judge: Any, data: Any, work: Path, names: list[str], *_: Any) -> Iterator[Row]:
        asked.append(names)
        return (make(name, **fields) for name in names)

    return rows


def test_sentences_are_measured_once(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(bench_int8, "prepare", lambda folder: None)
    monkeypatch.setattr(bench_int8, "LengthsJudge", lambda *args: None)
    monkeypatch.setattr(bench_int8, "own_rows", rows_of(sentences, asked))
    monkeypatch.setattr(bench_int8, "peer_rows", rows_of(sentences, asked, peer=True))
    told = assets / "found.json"
    options = ["minilm", "--json", str(told), "--work", str(assets), "--jobs", "latency at 0.994"]
    assert bench_int8.main(options) == 0
    out = capsys.readouterr().out
    assert " 16 tokens: latency x 0.400 (0.390 to 0.400)" in out
    assert "met     latency at 0.994: sst: mean cosine 0.9940, bar 0.993" in out
    tool = "onnxsim quantize_static"
    more = ["--resume", "--peers", "python", "--tools", tool]
    assert bench_int8.main([*options, *more]) == 0
    assert asked == [["latency at 0.994"], [], [], [tool]]
    found = json.loads(told.read_text(encoding="utf-8"))
    assert [one["name"] for one in found["minilm"]] == ["latency at 0.994", tool]
    assert found["missed"] == []


def test_pictures_are_measured_from_both_halves(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    rivals: list[Path | None] = []
    half = Half(Data(assets, {}, []), [])
    made = iter([Made(assets / "rival.onnx", 1.0, 1.0), Made(assets, 1.0, 1.0, "no kernel")])
    monkeypatch.setattr(bench_int8, "halves", lambda *args: [half, half])
    monkeypatch.setattr(bench_int8, "ImagesJudge", lambda *args: rivals.append(args[-1]))
    monkeypatch.setattr(bench_int8, "converted", lambda *args: assets)
    monkeypatch.setattr(bench_int8, "peer_file", lambda *args: next(made))
    monkeypatch.setattr(bench_int8, "own_rows", rows_of(pictures, asked, same=0.96))
    monkeypatch.setattr(bench_int8, "peer_rows", rows_of(pictures, asked, peer=True))
    told = assets / "found.json"
    options = ["mobilenet", "--json", str(told), "--work", str(assets), "--peers", "python"]
    options += ["--jobs", "cosine 0.997", "--tools", "NNCF INT8"]
    assert bench_int8.main(options) == 1
    assert rivals == [assets / "rival.onnx", None]
    assert asked == [["NNCF INT8"], ["cosine 0.997"]] * 2
    out = capsys.readouterr().out
    assert "96.0% the same class, accuracy 80.0% > 79.0%" in out
    line = "cosine 0.997: 96.0% of the classes are the same, bar 97%"
    assert f"MISSED  {line}" in out
    assert json.loads(told.read_text(encoding="utf-8"))["missed"] == [line]


def test_other_models_and_ranges_are_kept(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = Half(Data(assets, {}, []), [])
    ours = {
        "images": 9, "layers": 1, "tensors": 2, "seconds": 3.0, "cpu_seconds": 4.0,
        "methods": {"entropy": 0.5}, "float_mb": 100.0, "peak_mb": 300.0,
    }  # fmt: skip
    seen: list[int] = []

    def ranges(model: Path, folder: Path, count: int) -> dict[str, Any]:
        seen.append(count)
        return ours

    monkeypatch.setattr(bench_int8, "other_row", lambda name, *args: other(name=name))
    monkeypatch.setattr(bench_int8, "halves", lambda *args: [half, half])
    monkeypatch.setattr(bench_int8, "measure_ranges", ranges)
    monkeypatch.setattr(bench_int8, "converted", lambda *args: assets)
    monkeypatch.setattr(bench_int8, "peer_file", lambda *args: Made(assets, 7.0, 800.0))
    told = assets / "found.json"
    options = ["--json", str(told), "--work", str(assets), "--resume"]
    assert bench_int8.main(["others", "--models", "magika_fast_v2_1", *options]) == 0
    assert bench_int8.main(["ranges", "--images", "9", "--peers", "python", *options]) == 0
    assert seen == [9]
    out = capsys.readouterr().out
    assert "2 left: costs more" in out
    assert "then entropy 0.5 s; 300 MB, 200 above the float model's" in out
    assert "ORT static, entropy, 16 images: 7 s CPU, 800 MB" in out
    found = json.loads(told.read_text(encoding="utf-8"))
    assert [one["name"] for one in found["others"]] == ["magika_fast_v2_1"]
    assert set(found["ranges"]["peers"]) == set(peers.GROWING)


def test_without_assets_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_int8, "ASSETS", tmp_path / "none")
    assert bench_int8.main(["all"]) == 2
    assert "ONNXSLIM_RX_ASSETS" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench_int8.main(["minilm", "--resume"])
