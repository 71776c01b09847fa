"""The benchmarks' own arithmetic: bars, tables, JSON, metrics; and that every tool has a help."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

TOOLS = ("bench_data", "bench_measure", "bench_models", "bench_startup")


@pytest.fixture(scope="session")
def tool(root):
    """Load a script of tools/, which is no package."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look their annotations up
        spec.loader.exec_module(module)
        return module

    yield load
    for name in TOOLS:
        sys.modules.pop(name, None)


@pytest.fixture
def good(tool):
    """A row that meets every bar."""
    return tool("bench_models").Row(
        name="minilm",
        cpu_seconds=100.0,
        peak_mb=1000.0,
        bytes_before=90_000_000,
        bytes_after=22_900_000,
        cosine={"mean": 0.995, "p5": 0.99, "min": 0.97},
        latency_ms=[10.0, 8.0],
        ratio=0.8,
        task=("top1", 0.9, 0.89),
    )


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_has_a_help(root, name):
    script = root / "tools" / f"{name}.py"

    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert done.stderr == ""


def test_a_good_row_meets_every_bar(tool, good):
    bench = tool("bench_models")

    assert all(bench.bars(good).values())
    assert len(bench.bars(good)) == 7
    assert bench.gain(good) == "-75% bytes, -20% time"


@pytest.mark.parametrize(
    ("change", "bar"),
    [
        ({"exit_code": 3}, "done"),
        ({"cosine": {"mean": 0.9899, "p5": 1.0, "min": 1.0}}, "cosine >= 0.99"),
        ({"cosine": None}, "cosine >= 0.99"),
        ({"bytes_after": 90_000_001}, "not larger"),
        ({"ratio": 1.051}, "latency ratio <= 1.05"),
        ({"ratio": None}, "latency ratio <= 1.05"),
        ({"agreement": 0.98}, "integers agree >= 99%"),
        ({"cpu_seconds": 240.1}, "CPU <= 240 s"),
        ({"peak_mb": 3000.1}, "memory <= 3 GB"),
        ({"bytes_after": 23_000_001}, "<= 23 MB"),
    ],
)
def test_every_bar_can_be_missed(tool, good, change, bar):
    bench = tool("bench_models")
    row = dataclasses.replace(good, **change)

    assert bench.bars(row)[bar] is False
    assert bar in bench.table([row])


@pytest.mark.parametrize(("gains", "met"), [(6, True), (5, False)])
def test_six_gains_are_needed(tool, good, gains, met):
    bench = tool("bench_models")
    plain = dataclasses.replace(good, name="plain", ratio=1.0, bytes_after=90_000_000)
    fast = dataclasses.replace(plain, ratio=0.9)

    judged = bench.verdict([fast] * gains + [plain] * (11 - gains))

    assert list(judged.values()) == [True, met]


def test_gains_bought_by_missing_a_bar_do_not_count(tool, good):
    bench = tool("bench_models")
    bad = dataclasses.replace(good, cosine={"mean": 0.5, "p5": 0.5, "min": 0.5})

    assert list(bench.verdict([bad] * 11).values()) == [False, False]
    assert list(bench.verdict([]).values()) == [False, False]


def test_peers_are_shown_and_not_judged(tool, good):
    bench = tool("bench_models")
    peer = dataclasses.replace(good, name="peer", peer=True, ratio=9.0)

    assert bench.bars(peer) == {}
    assert list(bench.verdict([good] * 6 + [peer]).values()) == [True, True]
    assert "9.00" in bench.table([peer])


def test_the_table_is_aligned_and_shows_gaps(tool, good):
    bench = tool("bench_models")

    lines = bench.table([good, bench.Row("broken", exit_code=1)]).splitlines()

    assert len(lines) == 3
    column = lines[0].index("cosine")
    assert lines[1][column:].startswith("0.9950")
    assert lines[2][column:].startswith("-")
    assert "done" in lines[2]


def test_results_survive_json(tool, good):
    bench = tool("bench_models")

    again = json.loads(json.dumps(bench.results([good], bench.machine(2))))

    assert again["machine"]["threads"] == 2
    assert again["machine"]["versions"]["numpy"] == np.__version__
    assert again["models"][0]["bars"]["done"] is True
    assert again["models"][0]["ratio"] == 0.8
    assert again["verdict"]["every model meets its bars"] is True


def test_unknown_models_are_refused(tool, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool("bench_models").main(["--models", "nothing"])

    assert stopped.value.code == 2
    assert "unknown models nothing" in capsys.readouterr().err


def test_every_model_has_data(tool):
    assert set(tool("bench_models").MODELS) == set(tool("bench_data").PREPARE)


def test_cosine_of_corner_cases(tool):
    cosine = tool("bench_measure").cosine
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)

    assert cosine(one, one) == pytest.approx(1.0)
    assert cosine(one, -one) == pytest.approx(-1.0)
    assert cosine(one, zero) == cosine(one, np.ones(4)) == 0.0
    assert cosine(zero, zero) == 1.0


def test_the_worst_output_counts(tool):
    same, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    before = [{"a": same, "b": same, "i": np.array([1, 2])}] * 4
    after = [{"a": same, "b": other, "i": np.array([1, 3])}, *before[1:]]

    found = tool("bench_measure").quality(before, after)

    assert found["cosine"]["mean"] == 0.75
    assert found["cosine"]["min"] == 0.0
    assert found["agreement"] == 7 / 8


def test_area_under_the_curve_counts_pairs(tool):
    values = np.array([0.1, 0.4, 0.4, 0.8])
    labels = np.array([0, 0, 1, 1])
    pairs = [(p > n) + (p == n) / 2 for p in values[labels == 1] for n in values[labels == 0]]

    assert tool("bench_measure").auc(values, labels) == pytest.approx(np.mean(pairs))


def test_two_models_are_measured_end_to_end(tool, tmp_path, rng):
    """The second model is the first one with its classes shifted by one."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }"""
    for name, weight in {"a": np.eye(4), "b": np.roll(np.eye(4), 1, axis=1)}.items():
        tensor = ir.tensor(weight.astype(np.float32), name="w")
        ir.save(ir.from_onnx_text(text, [tensor]), tmp_path / f"{name}.onnx")
    task = tool("bench_data").Task(tmp_path / "data")
    for label in range(4):
        task.add("score", {"x": np.eye(4, dtype=np.float32)[label : label + 1]})
    task.facts = {"kind": "top1", "labels": [0, 1, 2, 0]}
    task.close()
    measure = tool("bench_measure").measure

    found = measure(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "data", 1, 0.0)

    assert found["task"] == ["top1", 0.75, 0.25]  # shifted, only the last label is right
    assert found["cosine"] == {"mean": 0.0, "p5": 0.0, "min": 0.0}
    assert found["bytes_before"] == found["bytes_after"] == (tmp_path / "a.onnx").stat().st_size
    low, high = found["ratio_interval"]
    assert 0 < low <= found["ratio"] <= high


def test_start_up_is_judged_against_the_bar(tool):
    bench = tool("bench_startup")
    medians = {"python -c pass": 0.01, "onnxslim-rx --help": 0.2}

    assert bench.results(medians, 0.3, 10)["met"] is True
    assert bench.results(medians, 0.1, 10)["met"] is False


def test_cpu_time_is_that_of_the_process(tool):
    bench = tool("bench_startup")
    work = "sum(i * i for i in range(4_000_000))"

    assert bench.cpu_seconds(["-c", work]) > bench.cpu_seconds(["-c", "pass"]) > 0
    with pytest.raises(RuntimeError, match="exit code 3"):
        bench.cpu_seconds(["-c", "raise SystemExit(3)"])
