"""The verb `dequantize`, `optimize --requantize`, and the functions behind them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxslim_rx as rx
from onnxslim_rx import api
from onnxslim_rx.cli import main
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, nodes, size_bytes
from onnxslim_rx.runtime import Runner
from tests.passes.quantized import run

SIDE = 64


def quantized(rng, *, rank=6):
    """Two MatMuls whose weights are INT8 behind DequantizeLinear, of low rank before they were."""
    made, weights = [], {}
    for index in range(2):
        factors = (rng.standard_normal(shape) for shape in ((SIDE, rank), (rank, SIDE)))
        weight = np.matmul(*factors) / np.sqrt(rank * SIDE)
        scale = np.abs(weight).max() / 127
        weights[f"w{index}_quantized"] = np.rint(weight / scale).astype(np.int8)
        weights[f"w{index}_scale"] = np.float32(scale)
        linear = [f"w{index}_quantized", f"w{index}_scale"]
        made.append(helper.make_node("DequantizeLinear", linear, [f"d{index}"]))
    made += [
        helper.make_node("MatMul", ["x", "d0"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "d1"], ["y"]),
    ]
    shape: list[int | str | None] = ["N", SIDE]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """A working folder with a quantized model and samples for it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(quantized(rng), tmp_path / "q.onnx")
    steps = rng.standard_normal((32, 4, SIDE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=steps)
    return tmp_path


def ops(model):
    return [node.op_type for node in nodes(load(model))]


def test_the_verb_writes_a_model_in_floating_point(folder, rng, capsys):
    assert main(["dequantize", "q.onnx", "-o", "f.onnx", "--json", "r.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "2 weights came quantized; the model was brought back" in out.replace("\n", " ")
    assert ops("f.onnx") == ["MatMul", "Relu", "MatMul"]
    assert set(load("f.onnx").graph.initializers) == {"w0", "w1"}
    report = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    assert report["quality"]["cosine"]["min"] > 0.999  # onnxruntime multiplies q.onnx in INT8
    assert "dequantize" in [row["name"] for row in report["passes"]]
    x = {"x": rng.standard_normal((3, SIDE)).astype(np.float32)}
    right, found = (run((folder / name).read_bytes(), x) for name in ("q.onnx", "f.onnx"))
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-6 * np.abs(right).max())


def test_options_of_the_verb_reach_the_api(folder, monkeypatch):
    found = []

    class Result:
        report = api.dequantize("q.onnx", progress=False).report

        def save(self, path):
            found.append(path)

    def dequantize(model, **options):
        found.append((model, options))
        return Result()

    monkeypatch.setattr(api, "dequantize", dequantize)
    words = ["dequantize", "q.onnx", "-o", "o.onnx", "--type", "float16", "--keep-activations"]
    assert main([*words, "--verify", "off", "--skip", "fold-constants", "-q"]) == 0
    (model, options), path = found
    assert (model, path) == ("q.onnx", "o.onnx")
    assert options == {
        "dtype": "float16", "keep_activations": True, "verify": None, "progress": False,
        "skip": ["fold-constants"], "also": [], "freeze_weights": False, "fold_limit": None,
    }  # fmt: skip


def test_half_precision_halves_the_file(folder, capsys):
    assert main(["dequantize", "q.onnx", "-o", "h.onnx", "--type", "float16", "-q"]) == 0
    assert ops("h.onnx") == ["Cast", "Cast", "MatMul", "Relu", "MatMul"]
    assert size_bytes(load("h.onnx")) < 2 * size_bytes(load("q.onnx")) + 500


def test_the_input_is_not_overwritten(folder, capsys):
    before = (folder / "q.onnx").read_bytes()
    assert main(["dequantize", "q.onnx", "-o", "q.onnx"]) == 2
    assert (folder / "q.onnx").read_bytes() == before


def test_a_model_without_integers_comes_back_cleaned(root, tmp_path, capsys):
    shutil.copy(root / "models" / "digits.onnx", tmp_path)
    source = str(tmp_path / "digits.onnx")
    assert main(["dequantize", source, "-o", str(tmp_path / "o.onnx")]) == 0
    assert "Nothing that is known as quantized was found." in capsys.readouterr().out


def test_what_stays_on_integers_is_told(rng):
    proto = quantized(rng)
    del proto.graph.initializer[1]  # its scale is fed
    proto.graph.input.append(helper.make_tensor_value_info("w0_scale", onnx.TensorProto.FLOAT, []))
    found = rx.dequantize(proto, progress=False)
    assert type(found.model) is onnx.ModelProto
    assert found.report.notes[1] == (
        "1 nodes still compute on integers; of 1 the reason is: the weight: a scale or zero point"
        " is no constant."
    )


def test_requantize_plans_anew_against_the_model_as_it_came(folder, rng):
    budget = rx.Budget(min_cosine=0.99, minimize="bytes")
    given: dict[str, Any] = {"calibration": "data.npz", "budget": budget, "progress": False}
    given["only"] = ["factorize-gemm", "quantize-weights"]
    found = rx.optimize("q.onnx", requantize=True, **given)
    assert found.plan.changes
    assert not any("stayed as they are" in note for note in found.report.notes)
    size = (folder / "q.onnx").stat().st_size
    assert found.report.bytes.before == size
    assert found.report.bytes.after is not None
    assert found.report.bytes.after < 0.8 * size
    x = {"x": rng.standard_normal((32, SIDE)).astype(np.float32)}
    right, after = (Runner(m)(x)["y"] for m in (load("q.onnx"), found.model))
    cosines = (right * after).sum(1) / np.linalg.norm(right, axis=1) / np.linalg.norm(after, axis=1)
    assert cosines.mean() >= 0.99

    again = rx.optimize("q.onnx", requantize=True, plan=found.plan, **given)
    assert again.report.bytes.after == found.report.bytes.after


def test_without_the_flag_a_note_says_what_it_does(folder):
    found = rx.optimize("q.onnx", calibration="data.npz", progress=False)
    assert not found.plan.changes
    (note,) = (note for note in found.report.notes if "requantize" in note)
    assert note.startswith("2 weights came quantized and stayed as they are.")


def test_requantize_gives_nothing_larger(folder):
    given: dict[str, Any] = {"calibration": "data.npz", "only": ["quantize-weights"]}
    given["budget"] = rx.Budget(min_cosine=0.9999999)
    found = rx.optimize("q.onnx", requantize=True, progress=False, **given)
    assert found.report.bytes.after is not None
    assert found.report.bytes.after <= (folder / "q.onnx").stat().st_size
    assert found.report.quality.cosine.mean == pytest.approx(1)


def test_requantize_needs_a_search(rng):
    with pytest.raises(InputError, match="the preset safe plans nothing"):
        rx.optimize(quantized(rng), requantize=True, preset="safe", progress=False)
