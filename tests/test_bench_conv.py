"""tools/bench_conv.py judges what it measured; its rows survive JSON, and its plot is drawn."""

from __future__ import annotations

import dataclasses
import json
import math

import onnx
import pytest

import onnxslim_rx as rx
from tools import (
    bench_conv_bars,
    bench_conv_cifar,
    bench_conv_models,
    bench_conv_simple,
    bench_run,
)
from tools.bench_conv_cifar import Row, chosen
from tools.bench_conv_macs import macs
from tools.bench_conv_models import ModelRow
from tools.bench_conv_plot import draw
from tools.bench_conv_simple import SimpleRow
from tools.bench_run import Done, Job
from tools.bench_tables import row_of, table_of


def row(method="mix", allocation="program", share=0.4, accuracy=0.808, ratio=0.6, kept=None):
    macs = (1000, round(1000 * (share if kept is None else kept)))
    return Row(method, allocation, share, macs, (9, 4), (0.81, accuracy), 0.99, ratio)


def test_what_is_met_is_silent():
    rows = [
        row(), row(share=0.25, accuracy=0.79, ratio=0.9), row(allocation="uniform", accuracy=0.808),
        row("tucker", accuracy=0.1, ratio=3.0),
    ]  # fmt: skip
    assert bench_conv_bars.judge_cifar(rows) == []


@pytest.mark.parametrize(
    ("changed", "clause"),
    [
        ([row(accuracy=0.8049)], "0.51 points lost, bar 0.5"),
        ([row(share=0.25, accuracy=0.789)], "2.10 points lost, bar 2.0"),
        ([row(ratio=0.66), row(share=0.25, ratio=0.7)], "0.66, bar 0.65"),
        ([row(accuracy=0.806), row(allocation="uniform", accuracy=0.807)], "below 0.8070 uniform"),
        ([row("cp", kept=0.41)], "cp program 0.4: 0.410 of the multiply-adds"),
        ([Row("cp", "program", 0.4, error="no plan")], "cp program 0.4: no plan"),
        ([Row("mix", "program", 0.4, error="no plan")], "mix at 0.4: nan points lost"),
    ],
)
def test_what_cifar_misses_is_named(changed, clause):
    missed = bench_conv_bars.judge_cifar(changed)
    assert any(clause in line for line in missed), missed


def model_row(**changes):
    good = ModelRow(
        "net", "all", bytes=(100, 90), macs=(100, 60), cosine=0.995, ratio=0.8, cpu_seconds=179,
        peak_mb=2999, why={"a": "costs more than it saves"},
    )  # fmt: skip
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"cosine": 0.9899}, "cosine 0.9899"),
        ({"bytes": (100, 101)}, "grows from 100 to 101"),
        ({"ratio": 1.06}, "latency x 1.06, bar 1.05"),
        ({"ratio": 0.86}, "fewer multiply-adds, latency x 0.86"),
        ({"why": {"a": "reason", "b": " "}}, "1 convolutions were left without a reason"),
        ({"error": "killed"}, "killed"),
        ({"ratio": None}, "not measured"),
    ],
)
def test_what_kept_models_miss_is_named(changes, clause):
    assert bench_conv_bars.judge_kept([model_row()]) == []
    assert bench_conv_bars.judge_kept([model_row(ratio=0.86, macs=(100, 67))]) == []
    missed = bench_conv_bars.judge_kept([model_row(**changes)])
    assert any(clause in line for line in missed), missed


def test_time_and_memory_of_vgg():
    assert bench_conv_bars.judge_vgg(model_row()) == []
    assert len(bench_conv_bars.judge_vgg(model_row(cpu_seconds=181.0, peak_mb=3001.0))) == 2
    assert bench_conv_bars.judge_vgg(model_row(error="killed")) == ["vgg16: killed"]


def test_simple_is_compared_with_the_same_ranks():
    plain = SimpleRow("tucker", "plain", 7.0, (700, 100), (0.75, 0.5))
    ours = dataclasses.replace(plain, way="ours", accuracy=(0.75, 0.56))
    assert bench_conv_bars.judge_simple([ours, plain]) == []
    worse = dataclasses.replace(ours, accuracy=(0.75, 0.51), params=(700, 103), error="left out")
    assert len(bench_conv_bars.judge_simple([worse, plain])) == 3
    assert len(bench_conv_bars.judge_simple([ours])) == 1


def test_rows_survive_json(tmp_path):
    rows = [row(), Row("cp", "uniform", 0.8, error="no plan", chosen={"cp": 2})]
    for one in rows:
        text = json.dumps(table_of(one), allow_nan=False)
        back = row_of(Row, json.loads(text))
        assert repr(back) == repr(one)
        assert hash(back.key) == hash(one.key)


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        row(), row(share=0.8), row(allocation="uniform"), row("CP (tensorly)", "uniform"),
        Row("cp", "program", 0.4, error="no plan"),
    ]  # fmt: skip
    target = tmp_path / "found.svg"
    draw(rows, target)
    assert "<svg" in target.read_text(encoding="utf-8")


def layer(name, stages=(), why="", skipped=None, op="Conv"):
    return {"name": name, "op": op, "stages": list(stages), "why": why, "skipped": skipped}


def test_reports_say_what_was_done_to_convolutions(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_conv_models, "macs", lambda path: len(str(path)))
    report = {
        "layers": [
            layer("a", ["factorize-conv(method=tucker, rank=3)", "quantize-weights(bits=8)"]),
            layer("b", ["quantize-weights(bits=8)"], why="saves 74%"),
            layer("f", why="nothing saves"),
            layer("c", skipped="Conv: depthwise"), layer("d"), layer("e", op="Gemm"),
        ]
    }  # fmt: skip
    done = Done(0, "", 1.0, 2.0, report)
    found = bench_conv_models._ran(ModelRow("n", "all"), done, tmp_path / "a", tmp_path / "bb")
    assert found.done == {
        "factorize-conv + quantize-weights": 1, "quantize-weights": 1, "refused": 1, "kept": 2,
    }  # fmt: skip
    assert found.why == {"c": "Conv: depthwise", "d": "", "f": "nothing saves"}
    assert bench_conv_models.unexplained(found) == 1
    assert chosen(done) == {"tucker": 1, "quantize-weights(bits=8)": 2}


def test_each_method_is_asked_for_alone(tmp_path, monkeypatch, root):
    asked = []

    def run(job):
        asked.append(job)
        return Done(1, "no plan", 1.0, None, {})

    monkeypatch.setattr(bench_conv_cifar, "run", run)
    model = root / "models" / "digits.onnx"
    keys: list[bench_conv_cifar.Asked] = [("mix", "program", 0.5), ("cp", "uniform", 0.25)]
    rows = list(bench_conv_cifar.own_rows(model, tmp_path, tmp_path, keys, 1, 0.1))
    assert [row.key for row in rows] == keys
    assert all(row.error == "no plan" for row in rows)
    assert asked[0].options == {}
    assert asked[1].options == {"factorize-conv": {"method": "cp"}}
    assert asked[1].allocation == "uniform"
    counted = macs(model)
    assert [job.budget["max_flops"] for job in asked] == [counted, counted // 2]


def test_a_job_that_fails_says_why(tmp_path):
    done = bench_run.run(Job(str(tmp_path / "missing.onnx"), str(tmp_path / "out.onnx")))
    assert done.exit_code == 2
    assert "missing.onnx" in done.error
    assert done.cpu_seconds > 0


def test_a_job_that_works_leaves_model_and_report(tmp_path, root):
    model = root / "models" / "digits.onnx"
    empty = rx.plan(model, preset="safe", progress=False)
    plan = tmp_path / "plan.toml"
    plan.write_text(empty.to_toml(), encoding="utf-8")
    job = Job(str(model), str(tmp_path / "out.onnx"), plan=str(plan))
    (tmp_path / "job.json").write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    assert bench_run.main([str(tmp_path / "job.json")]) == 0
    found = json.loads((tmp_path / "out.found.json").read_text(encoding="utf-8"))
    assert 20 < found["peak_mb"] < 5000
    assert found["report"]["model"] == str(model)
    assert len(onnx.load(job.output).graph.node) > 5


def test_training_without_torch_is_refused_in_words(tmp_path):
    with pytest.raises(RuntimeError, match="--python"):
        bench_conv_simple.trained(tmp_path, "false")
    (tmp_path / "simpleconvnet.onnx").touch()
    assert bench_conv_simple.trained(tmp_path, "false").name == "simpleconvnet.onnx"


def test_sizes_that_are_known_only_after_measuring():
    assert math.isnan(Row("mix", "program", 0.4).kept)
    assert math.isnan(SimpleRow("tucker", "ours", 7.0).compression)
