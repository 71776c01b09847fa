"""tools/bench_quantize.py judges what it measured; its rows survive JSON, its plot is drawn."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from tools import bench_quantize, bench_quantize_memory, bench_quantize_rows
from tools.bench_quantize_bars import judge_minilm
from tools.bench_quantize_data import DOMAINS, Data, sentences_in, short
from tools.bench_quantize_peer_files import Made
from tools.bench_quantize_peers import PEERS, STEPS
from tools.bench_quantize_plot import draw, front
from tools.bench_quantize_rows import BUDGETS, Judge, Row, done_to_layers, own_rows, peer_rows
from tools.bench_run import Done, Job
from tools.bench_tables import row_of, table_of


def row(
    name: str = "ours", times: float = 8.1, mean: float = 0.991, p5: float = 0.986,
    ratio: float = 0.5, **changes: Any,
) -> Row:  # fmt: skip
    made = Row(
        name, bytes=(81000, round(81000 / times)), cosine=dict.fromkeys(DOMAINS, (mean, p5)),
        ratio=ratio, seconds=239.0, peak_mb=2999.0,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def peer(**changes: Any) -> Row:
    return row("ORT", **({"mean": 0.97, "times": 5.0, "ratio": 0.6} | changes), peer=True)


def test_what_is_met_is_silent() -> None:
    slow = peer(seconds=1e6, peak_mb=1e6)
    failed = peer(error="no kernel", times=99.0)
    assert judge_minilm([row(), peer(), slow, failed]) == []


@pytest.mark.parametrize(
    ("rows", "clause"),
    [
        ([row(times=6.1)], "sst: bytes at 0.99 / 0.985: 1/6.10, bar 1/6.2"),
        ([row(p5=0.984)], "docstrings: bytes at 0.99 / 0.985: none"),
        ([row(times=7.9)], "bytes at 0.96 / 0.0: 1/7.9"),
        ([row(seconds=241.0)], "241 s of CPU time, bar 240"),
        ([row(peak_mb=3001.0)], "3001 MB, bar 3000"),
        ([row(error="no plan")], "ours: no plan"),
        ([row(), peer(times=8.2)], "sst: ORT with 0.9700 at 1/8.20 of the bytes is above"),
        ([row(), peer(ratio=0.48)], "docstrings: ORT with 0.9700 at 0.48 x the latency is above"),
        ([row(), peer(mean=0.9912)], "ORT with 0.9912 at 1/5.00 of the bytes is above"),
        ([row(ratio=2.0), peer(ratio=0.9)], "ORT with 0.9700 at 0.90 x the latency is above"),
    ],
)
def test_what_is_missed_is_named(rows: list[Row], clause: str) -> None:
    missed = judge_minilm(rows)
    assert any(clause in line for line in missed), missed


def test_the_model_as_it_came_is_a_point_of_the_front() -> None:
    better = peer(mean=0.9999, times=0.9, ratio=1.0)
    assert judge_minilm([row(), better]) == []
    assert len(judge_minilm([row(), dataclasses.replace(better, ratio=0.9)])) == 2


def test_a_domain_alone_is_not_enough() -> None:
    one = row(cosine={"sst": (0.999, 0.998), "docstrings": (0.95, 0.94)})
    missed = judge_minilm([one])
    assert len(missed) == 2
    assert all(line.startswith("docstrings") for line in missed)


def test_rows_survive_json() -> None:
    made = row(chosen={"kept": 2}, phases={"load": (1.0, 2.0)}, interval=(0.4, 0.6))
    for one in (made, Row("failed", peer=True, error="no kernel")):
        back = row_of(Row, json.loads(json.dumps(table_of(one), allow_nan=False)))
        assert repr(back) == repr(one)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "found.svg"
    draw([row(), row(times=4.0, mean=0.999), peer(), peer(error="no kernel")], target)
    assert "<svg" in target.read_text(encoding="utf-8")


def test_a_front_has_no_point_that_another_beats() -> None:
    points = [(0.2, 0.05), (0.1, 0.1), (0.3, 0.06), (0.1, 0.2), (0.4, 0.01)]
    assert front(points) == [(0.1, 0.1), (0.2, 0.05), (0.4, 0.01)]


def test_sentences_of_docstrings_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""A module of some use to those who read it. Too short.\n\n'
        '    >>> print("code, not English, that takes some words")\n"""\n'
        'def call():\n    """Return the number of things that were found\n    in the list."""\n'
        'name = "This is a string of words, but no docstring."\n',
        encoding="utf-8",
    )
    assert sorted(sentences_in(path)) == [
        "A module of some use to those who read it.",
        "Return the number of things that were found in the list.",
    ]
    path.write_text("def (:", encoding="utf-8")
    assert list(sentences_in(path)) == []


def test_timed_sequences_have_32_tokens() -> None:
    def sample(ids: Any) -> dict[str, Any]:
        return {"input_ids": np.concatenate([[101], ids, [102]])[None]}

    samples = [sample(np.arange(start, start + 7)) for start in range(0, 700, 7)]
    made = short(samples)
    assert {found["input_ids"].shape for found in made} == {(1, 32)}
    rows = np.concatenate([found["input_ids"] for found in made])
    assert (rows[:, 0] == 101).all()
    assert (rows[:, -1] == 102).all()
    assert (rows[:, 1:-1].ravel() == np.arange(240)).all()
    assert all((found["attention_mask"] == 1).all() for found in made)


@pytest.fixture
def judge(tmp_path: Path, network: Callable[[float], Path]) -> Judge:
    rng = np.random.default_rng(0)
    score = {}
    for domain in DOMAINS:
        score[domain] = tmp_path / domain
        score[domain].mkdir()
        for number in range(6):
            x = rng.normal(size=(1, 4)).astype(np.float32)
            np.savez(score[domain] / f"{number}.npz", x=x)
    timed = [{"x": np.ones((1, 4), np.float32)}]
    return Judge(network(0.0), Data(tmp_path, score, timed), 1, 0.01)


@pytest.fixture
def network(tmp_path: Path) -> Callable[[float], Path]:
    """Adds a number to each entry; 0: the original."""

    def make(number: float) -> Path:
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[1, 4] x) => (float[1, 4] y)'
            f" {{ c = Constant <value_float = {number}> () y = Add (x, c) }}"
        )
        path = tmp_path / f"model_{number}.onnx"
        onnx.save(model, path)
        return path

    return make


def test_results_are_judged_by_plain_onnxruntime(
    judge: Judge, network: Callable[[float], Path], tmp_path: Path
) -> None:
    same = judge.measured(Row("same"), network(0.0))
    assert all(found == pytest.approx((1.0, 1.0)) for found in same.cosine.values())
    assert set(same.cosine) == set(DOMAINS)
    assert same.times_smaller == 1.0
    assert same.ratio > 0
    other = judge.measured(Row("other"), network(1.0))
    mean, p5 = other.cosine["sst"]
    assert p5 <= mean < 1.0
    (tmp_path / "broken.onnx").write_bytes(b"none")
    assert judge.measured(Row("broken"), tmp_path / "broken.onnx").error.startswith("does not run")


def test_each_budget_is_asked_for(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Callable[[float], Path]
) -> None:
    asked: list[Job] = []

    def run(job: Job) -> Done:
        asked.append(job)
        if len(asked) == 2:
            return Done(1, "no plan", 1.0, None, {})
        Path(job.output).write_bytes(network(0.5).read_bytes())
        layers = [{"stages": ["a(bits=4)"]}, {"stages": []}, {"stages": ["a(bits=4)"]}]
        report = {"layers": layers, "environment": {"min_onnxruntime": "1.23"}}
        return Done(0, "", 2.0, 3.0, report, {"load": (1.0, 2.0)})

    monkeypatch.setattr(bench_quantize_rows, "run", run)
    data = Data(tmp_path / "calibrate", {}, [])
    names = ["bytes at 0.99", "latency at p5 0.985"]
    good, bad = own_rows(judge, data, tmp_path, names)
    assert [dict(job.budget) for job in asked] == [BUDGETS[name] for name in names]
    assert asked[0].data == str(tmp_path / "calibrate")
    assert good.chosen == {"a(bits=4)": 2, "kept": 1}
    assert (good.runtime, good.seconds, good.peak_mb) == ("1.23", 2.0, 3.0)
    assert 0 < good.cosine["sst"][0] < 1
    assert bad.error == "no plan"
    assert math.isnan(bad.peak_mb)
    assert list(done_to_layers(Done(0, "", 1.0, 1.0, {"layers": []}))) == []


def test_peers_are_measured_or_say_why_not(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Callable[[float], Path]
) -> None:
    made = {
        "a": Made(network(1.0), 5.0, 6.0),
        "b": Made(tmp_path / "none.onnx", 1.0, math.nan, "No module named torch"),
    }
    monkeypatch.setattr(bench_quantize_rows, "peer_file", lambda name, *_: made[name])
    first, second = peer_rows(judge, Data(tmp_path, {}, []), tmp_path, ["a", "b"], "python")
    assert first.peer
    assert (first.seconds, first.peak_mb, first.error) == (5.0, 6.0, "")
    assert first.cosine["docstrings"][0] < 1
    assert second.error == "No module named torch"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(bench_quantize, "ASSETS", tmp_path)
    return tmp_path


def test_the_suite_writes_shows_and_judges(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def rows_of(kind: bool) -> Callable[..., list[Row]]:
        def rows(judge: Any, data: Any, work: Path, names: list[str], *rest: Any) -> list[Row]:
            asked.append(tuple(names))
            return [row(name, peer=kind, phases={"load": (1.5, 20.0)}) for name in names]

        return rows

    monkeypatch.setattr(bench_quantize, "prepare", lambda folder: None)
    monkeypatch.setattr(bench_quantize, "Judge", lambda *args: None)
    monkeypatch.setattr(bench_quantize, "own_rows", rows_of(False))
    monkeypatch.setattr(bench_quantize, "peer_rows", rows_of(True))
    told = assets / "found.json"
    options = ["minilm", "--json", str(told), "--work", str(assets / "work")]
    budgets = ["--budgets", "bytes at 0.99"]
    assert bench_quantize.main([*options, *budgets]) == 0
    assert asked == [("bytes at 0.99",), ()]
    assert "1/8.10  sst 0.9910 / 0.9860" in capsys.readouterr().out
    tool = "ORT dynamic INT8, per channel"
    more = ["--resume", "--peers", "python", "--tools", tool]
    assert bench_quantize.main([*options, *budgets, *more]) == 0
    assert asked[2:] == [(), (tool,)]
    found = json.loads(told.read_text(encoding="utf-8"))
    assert [one["name"] for one in found["minilm"]] == ["bytes at 0.99", tool]
    assert found["missed"] == []


def test_a_missed_bar_is_told(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: Mapping[str, Any] = {"ratio": 1.1, "ratio_one_token": 1.0, "cosine": 1.0}
    monkeypatch.setattr(bench_quantize, "prepare", lambda folder: Data(folder, {}, []))
    monkeypatch.setattr(bench_quantize, "measure_scales", lambda *args: bad)
    assert bench_quantize.main(["scales", "--work", str(assets)]) == 1
    assert "missed: scales: ratio 1.10 with float16, bar 1.05" in capsys.readouterr().out


def test_without_assets_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_quantize, "ASSETS", tmp_path / "none")
    assert bench_quantize.main(["all"]) == 2
    assert "ONNXSLIM_RX_ASSETS" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench_quantize.main(["minilm", "--resume"])


def test_memory_needs_no_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quantize, "ASSETS", tmp_path / "none")
    asked: list[tuple[Any, ...]] = []

    def measured(*args: Any) -> dict[str, Any]:
        asked.append(args)
        return {"peak_bytes": 2.6e9, "loaded": {"finite": True}}

    monkeypatch.setattr(bench_quantize_memory, "measure_memory", measured)
    options = ["memory", "--work", str(tmp_path), "--layers", "2", "--width", "64"]
    assert bench_quantize.main(options) == 1
    assert asked == [(tmp_path, 2, 64)]


def test_all_tools_of_the_comparison_are_asked() -> None:
    named = " ".join(bench_quantize.TOOLS)
    for word in (
        "dynamic INT8, per tensor", "per channel", "HQQ", "NNCF INT8", "pipeline", "quantize_auto",
        "mixed precision", "LQER", "GPTQ", "SVDQuant",
    ):  # fmt: skip
        assert word in named
    assert all(peer.after in STEPS for peer in PEERS.values() if peer.after)
