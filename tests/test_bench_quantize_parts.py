"""Parts of tools/bench_quantize.py: peers' files, single layers, types of scales."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxslim_rx as rx
from onnxslim_rx.quant import BlockFormat, restore, round_nearest
from tools import bench_quantize_layers as layers_
from tools import bench_quantize_layers_peers as layers_peers
from tools import bench_quantize_peer_files as files
from tools import bench_quantize_peers as peers
from tools.bench_quantize_layers import Layer, judge_layers, spent, with_more
from tools.bench_quantize_layers_peers import one_layer, relative_error
from tools.bench_quantize_peer_files import OPSET, converted, peer_file
from tools.bench_quantize_peers import Peer, pruned
from tools.bench_quantize_scales import judge_scales, with_float32_scales

Array = Any


def run(model: onnx.ModelProto, **inputs: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, inputs)[0]


@pytest.fixture
def weight() -> Array:
    return np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)


def test_what_nothing_reads_is_removed(weight: Array) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 48] y) {
        a = Neg (w) b = Add (a, v) y = MatMul (x, w) }"""
    model = onnx.parser.parse_model(text)
    for name in ("w", "v", "u"):
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    made = pruned(model)
    assert [node.op_type for node in made.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in made.graph.initializer] == ["w"]
    onnx.checker.check_model(made)


def test_a_layer_is_judged_by_its_outputs(weight: Array) -> None:
    rows = np.random.default_rng(1).normal(size=(30, 64))
    assert relative_error(one_layer(weight), weight, rows) < 1e-6
    found = relative_error(one_layer(weight * np.float32(1.25)), weight, rows)
    assert found == pytest.approx(0.25, rel=1e-4)


def test_a_tool_that_fails_is_no_end(
    weight: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> onnx.ModelProto:
        raise RuntimeError("no  such\nkernel")

    seen: list[int] = []

    def twice(model: onnx.ModelProto, before: onnx.ModelProto, samples: Any) -> onnx.ModelProto:
        seen.append(len(samples))
        tensor = before.graph.initializer[0]
        tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), "w"))
        return before

    monkeypatch.setitem(peers.STEPS, "first", Peer(twice))
    methods = {"good": Peer(twice, "first"), "bad": Peer(fail), "same": Peer(lambda m, *_: m)}
    monkeypatch.setattr(layers_peers, "METHODS", methods)
    rows = np.random.default_rng(1).normal(size=(70, 64)).astype(np.float32)
    np.savez(tmp_path / "in.npz", w0=weight, x0=rows, y0=rows, w1=weight, x1=rows, y1=rows)
    assert layers_peers.main([str(tmp_path / "in.npz"), str(tmp_path / "out.json")]) == 0
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert told["failed"] == {"bad": "no such kernel"}
    assert told["errors"]["good"] == pytest.approx([3.0, 3.0], rel=1e-4)
    assert told["errors"]["same"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert all(math.isnan(error) for error in told["errors"]["bad"])
    assert set(seen) == {peers.FEW}


@pytest.fixture
def model(tmp_path: Path, weight: Array) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(one_layer(weight), path)
    return path


def test_onnxruntimes_own_tools_make_files_that_run(
    model: Path, tmp_path: Path, weight: Array
) -> None:
    pytest.importorskip("onnxruntime.quantization")
    (tmp_path / "data").mkdir()
    rows = np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32)
    np.savez(tmp_path / "data" / "0.npz", x=rows)
    for name in ("ORT MatMulNBits INT4 g32", "ORT MatMulNBits INT8 g128"):
        output = tmp_path / "made.onnx"
        words = [name, str(model), str(model), str(tmp_path / "data"), str(output)]
        assert peers.main(words) == 0
        made = onnx.load(output)
        assert [node.op_type for node in made.graph.node] == ["MatMulNBits"]
        assert relative_error(made, weight, rows) < 0.2
        assert json.loads(output.with_suffix(".peak").read_text(encoding="utf-8")) > 10


def test_models_are_converted_once(tmp_path: Path) -> None:
    old = tmp_path / "old.onnx"
    onnx.save(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x) => (float[n, 1] y) { y = ReduceMax <axes = [1]> (x) }"""),
        old,
    )
    made = converted(old, tmp_path)
    model = onnx.load(made)
    assert model.opset_import[0].version == OPSET
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (run(model, x=x) == [[2], [5]]).all()
    old.unlink()
    assert converted(old, tmp_path) == made


def test_steps_are_chained_and_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"a b": Peer(lambda m, *_: m), "c": Peer(lambda m, *_: m, "a b")}
    monkeypatch.setattr(peers, "PEERS", table)
    asked: list[Sequence[str]] = []

    def spend(command: Sequence[str], log: Path) -> tuple[int, float, str]:
        asked.append(command)
        output = Path(command[-1])
        output.write_bytes(b"made")
        output.with_suffix(".peak").write_text(str(100.0 * len(asked)), encoding="utf-8")
        return 0, 3.0, ""

    monkeypatch.setattr(files, "spend", spend)
    made = peer_file("c", sys.executable, model, tmp_path, tmp_path)
    assert (made.seconds, made.peak_mb, made.error) == (6.0, 200.0, "")
    assert [command[2] for command in asked] == ["a b", "c"]
    assert asked[1][4] == str(tmp_path / "peer_a_b.onnx")
    peer_file.cache_clear()
    assert peer_file("c", sys.executable, model, tmp_path, tmp_path) == made
    assert len(asked) == 2


def test_a_step_that_fails_ends_the_chain(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"e": Peer(lambda m, *_: m), "f": Peer(lambda m, *_: m, "e")}
    monkeypatch.setattr(peers, "PEERS", table)
    monkeypatch.setattr(files, "spend", lambda command, log: (1, 2.0, "ImportError: torch"))
    made = peer_file("f", sys.executable, model, tmp_path, tmp_path)
    assert (made.seconds, made.error) == (2.0, "ImportError: torch")


@pytest.fixture
def layers() -> list[Layer]:
    rng = np.random.default_rng(0)
    found = []
    for rows, k in ((96, 128), (64, 256)):
        mixing = rng.normal(size=(k, k)) * rng.gamma(1.0, size=k)
        fitted, held = (rng.normal(size=(count, k)) @ mixing for count in (900, 300))
        found.append(Layer(rng.normal(size=(rows, k)), fitted.T @ fitted, fitted, held))
    return found


def test_errors_are_those_of_the_outputs(layers: list[Layer]) -> None:
    layer = layers[0]
    found = restore(round_nearest(layer.weight, BlockFormat(4, 32)))
    wanted = layer.held @ layer.weight.T
    expected = np.linalg.norm(layer.held @ found.T - wanted) / np.linalg.norm(wanted)
    assert layer.error(found) == pytest.approx(expected)
    assert layer.error(layer.weight) == 0.0


def test_all_methods_are_measured(layers: list[Layer], tmp_path: Path) -> None:
    found = layers_.measure_layers(layers, tmp_path, "")
    means = {name: float(np.mean(errors)) for name, errors in found["ours"].items()}
    assert all(0 < mean < 0.3 for mean in means.values())
    assert means["GPTQ, refined"] < means["GPTQ"] < means["nearest"]
    assert set(layers_.PAIRS) <= set(means)
    errors = found["more"][1]["errors"]
    assert found["more"][1]["group"] == 128
    assert errors["correction"] < errors["GPTQ"]
    assert errors["smaller groups"] <= errors["GPTQ, refined"]
    assert {line.split(":")[0] for line in judge_layers(found)} <= {
        "correction of g32", "correction of g128",
    }  # fmt: skip


def test_ranks_of_corrections_fit_the_bytes(layers: list[Layer]) -> None:
    base = BlockFormat(4, 32)
    for layer, rank in zip(layers, with_more(layers, base)["ranks"], strict=True):
        one = sum(layer.weight.shape) + 8
        assert rank == 1 or rank * one <= layers_.MORE * layer.bytes(base) < (rank + 1) * one


def test_bytes_are_spent_where_they_help_most() -> None:
    options = [(0, 10, 0.5), (0, 5, 0.9), (1, 10, 0.2), (2, 10, 1.5)]
    assert spent([1.0, 1.0, 1.0], options, 10) == [1.0, 0.2, 1.0]
    assert spent([1.0, 1.0, 1.0], options, 20) == [0.5, 0.2, 1.0]
    assert spent([1.0, 1.0, 1.0], options, 15) == [0.9, 0.2, 1.0]
    assert spent([1.0, 1.0, 1.0], options, 4) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("theirs", "correction", "clauses"),
    [
        (0.1, 0.091, []),
        (0.0997, 0.091, ["GPTQ: layer error 0.1000, onnxsim GPTQ has 0.0997"]),
        (0.1, 0.093, ["correction of g32: 7.0% less error than GPTQ, bar 8%"]),
        (math.nan, 0.092, []),
    ],
)
def test_layers_are_judged(theirs: float, correction: float, clauses: list[str]) -> None:
    found = {
        "ours": {name: [0.1, 0.1] for name in layers_.PAIRS},
        "others": {"onnxsim GPTQ": [theirs, theirs]},
        "failed": {},
        "more": [{"group": 32, "errors": {"GPTQ": 0.1, "correction": correction}}],
    }
    assert judge_layers(found) == clauses


def test_scales_in_both_types_give_the_same(tmp_path: Path, weight: Array) -> None:
    source, half = tmp_path / "source.onnx", tmp_path / "half.onnx"
    onnx.save(one_layer(weight), source)
    rx.quantize(source, half, method="nearest", progress=False)
    narrow = onnx.load(half)
    assert "Cast" in {node.op_type for node in narrow.graph.node}
    wide = with_float32_scales(narrow)
    assert "Cast" not in {node.op_type for node in wide.graph.node}
    types = {tensor.data_type for tensor in wide.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in types
    x = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    assert (run(wide, x=x) == run(narrow, x=x)).all()
    assert len(onnx.load(half).graph.node) == len(narrow.graph.node)


def test_scales_are_judged() -> None:
    good = {"ratio": 1.05, "ratio_one_token": 0.9, "cosine": 1.0}
    assert judge_scales(good) == []
    assert judge_scales(good | {"ratio_one_token": 1.06}) != []
    assert judge_scales(good | {"cosine": 0.999}) != []
    assert judge_scales(good | {"cosine": math.nan}) != []
