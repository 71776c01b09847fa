"""tools/bench_linalg.py runs, and says what missed."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tools import bench_linalg
from tools import bench_linalg_tensors as tensors


def test_it_runs_on_tiny_sizes(tmp_path, capsys):
    target = tmp_path / "found.json"
    arguments = ["--shapes", "24x40:4", "40x24:6", "--spectra", "power", "flat", "--full"]
    code = bench_linalg.main([*arguments, "--repeats", "1", "--json", str(target)])
    found = json.loads(target.read_text(encoding="utf-8"))
    assert code in (0, 1)  # times of such sizes say nothing
    assert len(found["cases"]) == 4
    for case in found["cases"]:
        assert {"full", "gram", "randomized", "srht", "auto", "numpy"} <= set(case["methods"])
        assert all(row["excess"] <= 1e-2 for row in case["methods"].values())
        assert case["sketches"]["memory_ratio"] > 0
    assert "24 x 40, rank 4, power" in capsys.readouterr().out


def test_it_judges():
    rows = {
        name: {"seconds": 1.0, "excess": 1e-9} for name in ("full", "gram", "randomized", "srht")
    }
    rows["gram"]["seconds"] = 0.5
    rows["auto"] = {"seconds": 0.6, "excess": 0.5}
    rows["numpy"] = {"seconds": 1.2, "excess": 0.0}
    case = {"methods": rows, "shape": [4096, 11008], "rank": 512}
    case["sketches"] = {"speed_ratio": 0.5, "memory_ratio": 39.0}
    missed = bench_linalg.judge(case, 1e-2)
    assert len(missed) == 5
    assert case["speedup"] == pytest.approx(2.0)
    rows["auto"] = {"seconds": 0.1, "excess": 1e-9}
    case["sketches"] = {"speed_ratio": 1.5, "memory_ratio": 50.0}
    assert bench_linalg.judge(case, 1e-2) == []


def test_it_measures_tensors(tmp_path, capsys, rng):
    kernel = rng.standard_normal((6, 8, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 5, 5])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(kernel, "w")],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    target = tmp_path / "found.json"
    arguments = ["--suite", "tensors", "--shapes", "9x8x5", "--model", str(tmp_path / "model.onnx")]
    assert bench_linalg.main([*arguments, "--repeats", "1", "--json", str(target)]) in (0, 1)
    made, real = json.loads(target.read_text(encoding="utf-8"))["cases"]
    assert (made["shape"], real["shape"], real["name"]) == ([9, 8, 5], [6, 8, 9], "w")
    for name in ("tucker", "cp", "tensor train"):
        for case in (made, real):
            assert 0 < case["methods"][name]["error"] < 1
            assert {"seconds", "error"} == set(case["methods"][name]["peer"])
    assert "made up, 9 x 8 x 5" in capsys.readouterr().out


def test_it_judges_tensors():
    row = {"error": 0.2, "seconds": 1.0}
    assert tensors.judge({"cp": row}) == []
    assert tensors.judge({"cp": row | {"peer": row}}) == []
    missed = tensors.judge({"cp": row | {"peer": {"error": 0.19, "seconds": 0.5}}})
    assert missed == ["cp: error 0.20000 above 0.19000", "cp: 2.00 times as long"]
