"""Every verb on a small model, as a new user would type it; nothing is faked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxslim_rx.cli import main
from onnxslim_rx.plans import Plan
from onnxslim_rx.report import Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network of two layers, the second of rank 4, and samples for it."""
    place: Path = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(5)
    first = rng.standard_normal((48, 96)).astype(np.float32) / 7
    second = (rng.standard_normal((96, 4)) @ rng.standard_normal((4, 64)) / 20).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Identity", ["active"], ["same"]),
            helper.make_node("MatMul", ["same", "second"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, place / "m.onnx")
    np.savez(place / "data.npz", x=rng.standard_normal((40, 48)).astype(np.float32))
    return place


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs the command line in the folder; returns exit code, output and errors."""
    monkeypatch.chdir(folder)

    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_optimize_then_replay_its_plan(run, folder):
    code, out, err = run(
        "optimize", "m.onnx", "-o", "small.onnx", "--calibration", "data.npz",
        "--save-plan", "plan.toml", "--json", "report.json", "--preset", "small",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "Keeps cosine >= 0.99: 0.99" in out
    assert "smaller" in out
    report = Report.from_json((folder / "report.json").read_text(encoding="utf-8"))
    size = (folder / "small.onnx").stat().st_size
    assert report.bytes.after == size < (folder / "m.onnx").stat().st_size / 2
    assert {layer.name for layer in report.layers if layer.changed} == {"first", "second"}
    assert Plan.load(folder / "plan.toml").changes

    words = ["optimize", "m.onnx", "--plan", "plan.toml", "--calibration", "data.npz"]
    assert run(*words, "-o", "again.onnx")[0] == 0
    assert (folder / "again.onnx").read_bytes() == (folder / "small.onnx").read_bytes()


def test_simplify_then_compare(run, folder):
    code, out, err = run("simplify", "m.onnx", "-o", "clean.onnx", "--profile")
    assert (code, err) == (0, "")
    assert "eliminate-noop" in out
    assert "Identity" not in {node.op_type for node in onnx.load(folder / "clean.onnx").graph.node}

    code, out, err = run("compare", "m.onnx", "clean.onnx", "--json", "-")
    assert (code, err) == (0, "")
    (output,) = json.loads(out)["outputs"]
    assert output["name"] == "y"
    assert output["cosine_min"] == pytest.approx(1.0, abs=1e-6)
    assert "1.0000" in run("compare", "m.onnx", "clean.onnx", "--calibration", "data.npz")[1]


def test_inspect(run):
    code, out, err = run("inspect", "m.onnx")
    assert (code, err) == (0, "")
    assert "second  MatMul  [96, 64]    6144" in out
    assert "4/64  yes" in out
    assert "input          x: FLOAT [batch, 48]" in out
    assert json.loads(run("inspect", "m.onnx", "--json", "-")[1])["totals"]["params"] == 10752
    assert "and 2 more" in run("inspect", "m.onnx", "--top", "1")[1]


def test_plan_shows_and_writes(run, folder):
    words = ["plan", "m.onnx", "--calibration", "data.npz", "--preset", "small"]
    code, out, err = run(*words, "-o", "p.toml", "--json", "p.json")
    assert (code, err) == (0, "")
    assert "2 of 2 layers would be changed" in out
    assert "plans, predicted and measured" in out
    assert len(Plan.load(folder / "p.toml").changes) == 2
    table = json.loads((folder / "p.json").read_text(encoding="utf-8"))
    assert [layer["name"] for layer in table["layers"]] == ["first", "second"]
    assert Report.from_dict(table["report"]).command.startswith("onnxslim-rx plan m.onnx")


def test_spectra_are_shown_and_drawn(run, folder):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    words = ["inspect", "m.onnx", "--spectra", "--calibration", "data.npz"]
    code, out, err = run(*words, "--html", "s.html", "--json", "s.json")
    assert (code, err) == (0, "")
    assert "X 99 %" in out
    assert "wrote s.html" in out
    assert (folder / "s.html").read_text(encoding="utf-8").count("<figure>") == 2
    (first, second) = json.loads((folder / "s.json").read_text(encoding="utf-8"))["spectra"]
    assert (second["name"], second["rank99"]) == ("second", 4)
    assert first["whitened"][-1] == 1.0
    code, _, err = run(*words, "--html", "data.npz")
    assert code == 2
    assert "same file" in err


def test_bench(run):
    code, out, err = run("bench", "m.onnx", "m.onnx", "--calibration", "data.npz", "--json", "-")
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["m.onnx", "m.onnx"]
    assert all(row["latency_ms"] > 0 for row in rows)


def test_passes_and_devices(run):
    code, out, err = run("passes")
    assert (code, err) == (0, "")
    assert "factorize-gemm" in out
    names = [row["name"] for row in json.loads(run("passes", "--json", "-")[1])["passes"]]
    assert {"factorize-gemm", "quantize-weights"} <= set(names)
    code, out, err = run("devices")
    assert (code, err) == (0, "")
    assert "onnxruntime" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["optimize", "no.onnx", "-o", "o.onnx"], 2, "no.onnx"),
        (["optimize", "data.npz", "-o", "o.onnx"], 2, "data.npz"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--target", "rx9"], 2, "there is no target 'rx9'"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--plan", "no.toml"], 2, "no.toml"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--calibration", "no.npz"], 2, "no.npz"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--skip", "fold-shape"], 2, "fold-shapes"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--metric", "top9"], 2, "top9"),
        (["optimize", "m.onnx", "-o", "o.onnx", "--max-bytes", "1kB"], 1, "1,000"),
        (["inspect", "no.onnx"], 2, "no.onnx"),
        (["compare", "m.onnx", "data.npz"], 2, "data.npz"),
        (["bench", "m.onnx", "no.onnx"], 2, "no.onnx"),
    ],
)
def test_bad_input_is_one_line(run, folder, words, code, message):
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("onnxslim-rx: ")
    assert err.count("\n") == 1
    assert not (folder / "o.onnx").exists()
