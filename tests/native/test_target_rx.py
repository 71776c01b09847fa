"""The target rx end to end: made, verified and run through the native library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxslim_rx as rx
from onnxslim_rx.analysis import inspect_model
from onnxslim_rx.cli import main
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, nodes
from onnxslim_rx.planner import limits
from onnxslim_rx.runtime import library_path, native, survey
from onnxslim_rx.runtime.native import shared_object

Array = npt.NDArray[Any]
DOMAIN = "ai.onnxslim.rx"


@pytest.fixture(autouse=True)
def built() -> None:
    if library_path() is None:
        pytest.skip("the native library is not built: python3 tools/dev.py build")


@pytest.fixture(scope="module")
def digits(root: Path) -> Path:
    return root / "models" / "digits.onnx"


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    return root / "models" / "digits_calibration.npz"


@pytest.fixture(scope="module")
def small(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with weights of 4 bits, in our own operators."""
    if library_path() is None:
        pytest.skip("the native library is not built: python3 tools/dev.py build")
    path: Path = tmp_path_factory.mktemp("rx") / "small.onnx"
    rx.quantize(digits, path, target="rx", progress=False)
    return path


def ops(path: Path) -> dict[str, int]:
    """How often each operator of our domain is used."""
    found: dict[str, int] = {}
    for node in nodes(load(path)):
        if node.domain == DOMAIN:
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def test_quantize_makes_our_operators(digits, small, data) -> None:
    assert ops(small) == {"QuantConv": 1, "QuantMatMul": 3}
    # all weights of Gemm take 4 bits and a scale of 16 for 32 of them: 4.5 of 32
    assert small.stat().st_size < 0.2 * digits.stat().st_size
    feeds = first_inputs(digits, data)
    right = rx.InferenceSession(digits).run(None, feeds)[0]
    found = rx.InferenceSession(small, device="cpu").run(None, feeds)[0]
    cosine = (right * found).sum() / np.linalg.norm(right) / np.linalg.norm(found)
    assert cosine > 0.99


def first_inputs(digits: Path, data: Path) -> dict[str, Array]:
    """A few samples as one batch."""
    name = rx.InferenceSession(digits).get_inputs()[0].name
    with np.load(data) as file:
        return {name: file[name][:5]}


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two layers, 70 -> 96 -> 33: as they are, and in our own operators with 4 bits."""
    if library_path() is None:
        pytest.skip("the native library is not built: python3 tools/dev.py build")
    if len(survey().devices) < 2:
        pytest.skip("there is no OpenCL device: pip install pyopencl[pocl]")
    rng = np.random.default_rng(8)
    weights = {
        "a": rng.standard_normal((70, 96)) / 8, "b": rng.standard_normal((96, 33)) / 8,
        "c": rng.standard_normal(96),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Add", ["h", "c"], ["s"]),
            helper.make_node("Relu", ["s"], ["t"]),
            helper.make_node("MatMul", ["t", "b"], ["y"]),
        ],
        "layers",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 70])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 33])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    folder = tmp_path_factory.mktemp("layers")
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "m.onnx")
    rx.quantize(folder / "m.onnx", folder / "rx.onnx", target="rx", progress=False)
    return folder / "m.onnx", folder / "rx.onnx"


def test_devices_agree(layers, rng) -> None:
    small = layers[1]
    assert ops(small) == {"QuantMatMul": 2}
    feeds = {"x": rng.standard_normal((5, 70)).astype(np.float32)}
    right = rx.InferenceSession(small, device="cpu").run(None, feeds)[0]
    session = rx.InferenceSession(small, device="opencl")
    with session.profile() as profile:
        found = session.run(None, feeds)[0]
    # sums of at most 96 products of float32 in another order, two layers deep: 2 * 96 * 2^-24
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-5 * np.abs(right).max())
    kernels = profile.read().kernels
    assert sum(row.launches for row in kernels) >= 2
    assert all(row.seconds >= 0 and row.bytes > 0 and row.flops > 0 for row in kernels)


def test_our_operators_are_measured_and_compared(small, digits) -> None:
    comparison = rx.compare(digits, small)
    assert comparison.cosine() > 0.99
    before, after = inspect_model(load(digits)), inspect_model(load(small))
    assert after.to_dict()["totals"]["macs"] == before.to_dict()["totals"]["macs"]
    assert after.to_dict()["totals"]["macs_unknown"] == []
    assert after.to_dict()["totals"]["params"] == pytest.approx(
        before.to_dict()["totals"]["params"], rel=0.05
    )
    found = rx.bench([digits, small], seconds=0.05, device="cpu", profile=True, progress=False)
    assert found.rows[1].cosine is not None
    assert found.rows[1].cosine > 0.99
    assert found.rows[1].memory_bytes is not None
    assert found.rows[1].profile is not None
    clean = rx.simplify(load(small), progress=False)
    left = {node.op_type for node in nodes(load(clean)) if node.domain == DOMAIN}
    assert left == {"QuantConv", "QuantMatMul"}


def test_bench_says_what_ran_on_the_processor(layers, capsys) -> None:
    before, small = map(str, layers)
    words = ["bench", before, small, "--device", "opencl", "--profile"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"{before} has no operator of ai.onnxslim.rx: all of it ran on the processor" in out
    assert "quant" in out
    assert "launches" in out


def test_a_plan_is_verified_through_the_library(digits, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SLOWEST", 1e9)  # how fast the library is is not asked here
    how = {"calibration": data, "progress": False, "target": "rx", "only": ["quantize-weights"]}
    options = {"quantize-weights": {"form": "nbits"}}
    done = rx.optimize(digits, budget=rx.Budget(min_cosine=0.99, minimize="bytes"),
                       options=options, **how)  # fmt: skip
    assert (done.report.quality.cosine.mean or 0) > 0.99
    used = {node.op_type for node in nodes(load(done.model)) if node.domain == DOMAIN}
    assert "QuantMatMul" in used
    assert done.plan.target == "rx"
    again = rx.optimize(digits, plan=done.plan, options=options, **how)
    assert {n.op_type for n in nodes(load(again.model)) if n.domain == DOMAIN} == used


def test_a_quantized_model_is_brought_over(digits, tmp_path) -> None:
    rx.quantize(digits, tmp_path / "ort.onnx", progress=False)
    done = rx.optimize(tmp_path / "ort.onnx", preset="safe", target="rx", progress=False)
    done.save(tmp_path / "rx.onnx")
    assert ops(tmp_path / "rx.onnx") == {"QuantConv": 1, "QuantMatMul": 3}
    left = rx.optimize(
        tmp_path / "ort.onnx", preset="safe", target="rx", skip=["use-native"], progress=False
    )
    assert not native.uses_domain(load(left.model))


def test_without_the_library_the_target_is_refused(digits, data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shared_object, "library_path", lambda: None)
    with pytest.raises(InputError, match="no native library"):
        rx.quantize(digits, target="rx", progress=False)
    words = ["optimize", str(digits), "-o", str(tmp_path / "o.onnx"), "--target", "rx"]
    assert main([*words, "--calibration", str(data)]) == 2
    assert "no native library" in capsys.readouterr().err
    assert not (tmp_path / "o.onnx").exists()


def test_options_are_used_for_several_sessions(small, digits, data) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    first = rx.InferenceSession(small, options, device="cpu")
    second = rx.InferenceSession(small, options, device="cpu")
    feeds = first_inputs(digits, data)
    assert np.array_equal(first.run(None, feeds)[0], second.run(None, feeds)[0])
    with pytest.raises(InputError, match="belong to the device 'cpu'"):
        rx.InferenceSession(small, options, device="auto")


def test_a_file_and_its_content_run_alike(small, digits, data) -> None:
    feeds = first_inputs(digits, data)
    content = onnx.load(small).SerializeToString()
    runs = [rx.InferenceSession(one).run(None, feeds)[0] for one in (small, content)]
    assert np.array_equal(*runs)
