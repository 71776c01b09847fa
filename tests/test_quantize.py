"""`quantize`: weights in a few bits without data; what is left alone, and why."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

import onnxslim_rx as rx
from models import make_gpt2
from onnxslim_rx.ir import load, spool
from onnxslim_rx.runtime import Runner

Array = npt.NDArray[Any]
TOKENS = np.random.default_rng(3).integers(0, 96, (2, 12))

MIXED = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 3, 8, 8] x, float[m, 64] a) => (float[n, 32, 6, 6] c, float[m, 32] y, float[m, 32] z) {
    c = Conv(x, kernel)
    y = MatMul(a, plain)
    z = MatMul(a, broken)
}"""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of width 128; the output layer is tied to the embedding."""
    path: Path = tmp_path_factory.mktemp("decoder") / "gpt2.onnx"
    make_gpt2.write(path, *make_gpt2.layout(2, 128, vocabulary=96, positions=16))
    return path


def logits(model: Path | str) -> Array:
    """What onnxruntime gives for a file, with its own settings."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"input_ids": TOKENS})[0]
    return found


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def mixed(broken: float = np.nan) -> onnx.ModelProto:
    """A convolution, a matrix, and a matrix with one bad entry."""
    rng = np.random.default_rng(5)
    model = parser.parse_model(MIXED)
    shapes = {"kernel": (32, 3, 3, 3), "plain": (64, 32), "broken": (64, 32)}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        if name == "broken":
            array[3, 4] = broken
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def operators(model: ir.Model) -> dict[str, int]:
    kinds = [node.op_type for node in model.graph]
    return {kind: kinds.count(kind) for kind in kinds}


def test_a_decoder_of_four_bits_runs_and_is_small(decoder: Path, tmp_path: Path) -> None:
    result = rx.quantize(decoder, tmp_path / "q.onnx")
    report = result.report
    names = [layer.name for layer in report.layers if layer.changed]
    assert len(names) == 10  # eight products, two tables: the output layer is one of these
    assert sum("token_embedding" in name for name in names) == 1
    assert report.bytes.before is not None
    assert report.bytes.after is not None
    assert report.bytes.after < report.bytes.before / 5.5
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size == pytest.approx(report.bytes.after, rel=0.01)
    found = operators(result.model)
    assert found["MatMulNBits"] == 9
    assert found["GatherBlockQuantized"] == 2
    answer = logits(tmp_path / "q.onnx")
    assert np.isfinite(answer).all()
    assert cosine(answer, logits(decoder)) > 0.98
    assert report.output == str(tmp_path / "q.onnx")


def test_errors_and_bytes_are_those_of_what_is_stored(decoder: Path) -> None:
    result = rx.quantize(decoder, method="nearest")
    stored = {name: v.const_value for name, v in result.model.graph.initializers.items()}
    (row,) = [one for one in result.report.layers if one.name == "l1_down_weight"]
    parts = {name: t for name, t in stored.items() if name.startswith("l1_down_weight.")}
    shapes = {ir.DataType.INT64}
    assert row.bytes_after == sum(t.nbytes for t in parts.values() if t and t.dtype not in shapes)
    (scales,) = [t.numpy() for t in parts.values() if t and t.dtype == ir.DataType.FLOAT16]
    (packed,) = [t.numpy() for t in parts.values() if t and t.dtype == ir.DataType.UINT8]
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(128, 16, 32).astype(float)
    dense = ((values - 8) * scales.reshape(128, 16, 1).astype(float)).reshape(128, 512).T
    (weight,) = [
        numpy_helper.to_array(t).astype(float)
        for t in onnx.load(decoder).graph.initializer
        if t.name == "l1_down_weight"
    ]
    error = np.linalg.norm(dense - weight) / np.linalg.norm(weight)
    assert row.error == pytest.approx(error, rel=1e-6)
    assert row.params_before == row.params_after == weight.size


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_other_formats(decoder: Path, tmp_path: Path, bits: int, symmetric: bool) -> None:
    rx.quantize(decoder, tmp_path / "q.onnx", bits=bits, group=16, symmetric=symmetric)
    least = {2: 0.7, 8: 0.9995}[bits]
    assert cosine(logits(tmp_path / "q.onnx"), logits(decoder)) > least


def test_better_methods_have_less_error(decoder: Path) -> None:
    errors = {}
    for method in ("nearest", "clip"):
        report = rx.quantize(decoder, method=method).report
        errors[method] = sum(layer.error or 0.0 for layer in report.layers)
    assert errors["clip"] < errors["nearest"]


def test_embeddings_may_have_bits_of_their_own(decoder: Path) -> None:
    report = rx.quantize(decoder, embedding_bits=8).report
    for row in report.layers:
        if row.changed:
            assert f"bits={8 if 'embedding' in row.name else 4}," in row.stages[0]


def test_standard_operators_need_a_new_opset(decoder: Path, tmp_path: Path) -> None:
    report = rx.quantize(decoder, target="portable").report
    whys = [row.why for row in report.layers if row.changed]
    assert all("opset 21" in why and "raise-opset" in why for why in whys)
    assert all("bits=8" in row.stages[0] for row in report.layers if row.changed)
    found = rx.quantize(decoder, tmp_path / "q.onnx", target="portable", also=["raise-opset"])
    assert {node.domain for node in found.model.graph} == {""}
    assert all("bits=4" in row.stages[0] for row in found.report.layers if row.changed)
    assert cosine(logits(tmp_path / "q.onnx"), logits(decoder)) > 0.98


def test_what_cannot_be_treated_is_named_with_the_reason() -> None:
    result = rx.quantize(mixed())
    rows = {row.name: row for row in result.report.layers}
    assert "bits=4" in rows["plain"].stages[0]
    assert "bits=8" in rows["kernel"].stages[0]
    assert "blocks" in rows["kernel"].why
    assert rows["broken"].skipped is not None
    assert "NaN" in rows["broken"].skipped
    (note,) = [note for note in result.report.notes if "kernel" in note]
    assert "8 bits" in note
    session = onnxruntime.InferenceSession(
        result.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32), "a": np.ones((2, 64), np.float32)}
    assert np.isfinite(session.run(["c", "y"], feeds)[1]).all()


def test_only_and_skip_choose_by_name(decoder: Path) -> None:
    report = rx.quantize(decoder, only=["l?_*"], skip=["*_up_*", "l1_*"]).report
    changed = {row.name for row in report.layers if row.changed}
    assert {name.removesuffix(".fused") for name in changed} == {
        "l0_qkv_weight", "l0_out_weight", "l0_down_weight"
    }  # fmt: skip
    left = {row.name: row.skipped for row in report.layers if not row.changed}
    assert left["l1_up_weight"] == left["token_embedding"] == "left out, as asked"


def test_the_plan_does_it_again(decoder: Path) -> None:
    result = rx.quantize(decoder, skip=["l0_*"], method="nearest")
    assert len(result.plan.layers) == 6
    again = rx.optimize(decoder, plan=result.plan, budget=rx.Budget(min_cosine=0.5), progress=False)
    names = sorted(result.model.graph.initializers)
    assert sorted(again.model.graph.initializers) == names
    for name in names:
        one, other = (m.graph.initializers[name].const_value for m in (result.model, again.model))
        assert one is not None
        assert other is not None
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
def test_results_of_large_models_are_in_files(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "LARGE_BYTES", 1)
    monkeypatch.setattr(spool, "SPOOLED_BYTES", 1)
    model = rx.quantize(decoder, target=target, also=["raise-opset"]).model
    made = [v.const_value for name, v in model.graph.initializers.items() if "weight." in name]
    assert made
    assert all(isinstance(tensor, spool.SpooledTensor) for tensor in made)
    found = Runner(model)({"input_ids": TOKENS})["logits"]
    assert cosine(found, logits(decoder)) > 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits"),
        ({"group": 48}, "group"),
        ({"method": "gptq"}, "there is no method 'gptq'; expected nearest or clip or hqq"),
        ({"form": "qdq"}, "there is no form 'qdq'; expected nbits or dequantize-linear"),
        ({"embedding_bits": 5}, "bits"),
        ({"only": ["mlp*"]}, "no weight has a name like 'mlp.'"),
        ({"skip": ["mlp*"]}, "no weight has a name like 'mlp.'"),
        ({"target": "phone"}, "phone"),
        ({"cache": Path(__file__) / "kept"}, "cannot be made"),
    ],
)
def test_bad_options_are_refused(decoder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(rx.InputError, match=message):
        rx.quantize(decoder, **options)


def test_the_input_is_never_written_over(decoder: Path) -> None:
    before = decoder.read_bytes()
    with pytest.raises(rx.InputError, match="would replace the input file"):
        rx.quantize(decoder, decoder)
    assert decoder.read_bytes() == before


def test_the_kind_of_model_comes_back() -> None:
    model = mixed(0.5)
    before = model.SerializeToString()
    assert isinstance(rx.quantize(model).model, onnx.ModelProto)
    assert isinstance(rx.quantize(load(model)).model, ir.Model)
    assert model.SerializeToString() == before
