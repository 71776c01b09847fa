"""The table of layers: its columns, its totals, its ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest

from onnxslim_rx.analysis import inspect_model, params
from onnxslim_rx.analysis.spectrum import SPECTRUM_LIMIT
from onnxslim_rx.ir import load, size_bytes

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"


def with_spectrum(rng, rows, columns, singular):
    """A float32 matrix with the given singular values."""
    u, _ = np.linalg.qr(rng.standard_normal((rows, len(singular))))
    v, _ = np.linalg.qr(rng.standard_normal((columns, len(singular))))
    return (u * np.asarray(singular)) @ v.T


@pytest.mark.parametrize("shape", [(50, 40), (40, 50), (40, 30, 3, 3)])
def test_ranks_are_those_of_the_singular_values(build, rng, shape):
    # energies 89, 9, 1.5, 0.45, 0.05 of 100: the sums pass 90, 99 and 99.9 at 2, 3 and 4
    singular = np.sqrt([89, 9, 1.5, 0.45, 0.05])
    matrix = with_spectrum(rng, shape[0], int(np.prod(shape[1:])), singular)
    weight = matrix.reshape(shape).astype(np.float32)
    body, inputs = "y = MatMul(x, w)", f"float[1,{shape[0]}] x"
    if len(shape) > 2:
        body, inputs = "y = Conv(x, w)", "float[1,30,9,9] x"

    row = inspect_model(build(inputs, body, w=weight)).rows[0]

    assert (row.rank90, row.rank99, row.rank999) == (2, 3, 4)


def test_ranks_are_bounded_where_nothing_is_to_be_kept(build):
    weights = {"w": np.zeros((40, 40), np.float32), "v": np.full((40, 40), np.nan, np.float32)}
    model = build("float[1,40] x", "z = MatMul(x, w) y = MatMul(z, v)", **weights)

    zero, broken, _ = inspect_model(model).rows

    assert zero.rank90 is not None
    assert 1 <= zero.rank90 <= 40
    assert broken.rank90 is None


def test_big_spectra_are_left_out_unless_asked(build, rng):
    side = SPECTRUM_LIMIT + 1
    weight = np.zeros((side, side), np.float32)
    weight[:2, :2] = np.eye(2)
    model = build(f"float[1,{side}] x", "y = MatMul(x, w)", w=weight)

    assert inspect_model(model).rows[0].rank999 is None
    assert inspect_model(model, spectra="all").rows[0].rank999 == 2
    assert inspect_model(model, spectra=False).rows[0].rank999 is None


def test_weights_in_blocks_count_what_they_stand_for(build):
    body = """e = com.microsoft.GatherBlockQuantized<bits=4, block_size=32>(table, i, s)
              b = Reshape(packed, shape)
              h = com.microsoft.MatMulNBits<K=64, N=10, bits=2, block_size=32>(e, b, r)
              y = Neg(h)"""
    weights = {
        "table": np.ones((50, 32), np.uint8),
        "s": np.ones((50, 2), np.float32),
        "packed": np.ones((10, 16), np.uint8),
        "shape": np.array([10, 2, 8]),
        "r": np.ones((10, 2), np.float32),
    }
    model = build("int64[5] i", body, **weights)

    inspection = inspect_model(model)

    table, product, rest = inspection.rows
    assert (table.name, table.kind, table.params, table.bytes) == ("table", "embedding", 3200, 1600)
    assert (product.name, product.kind, product.params) == ("packed", "linear", 640)
    assert product.macs == 5 * 640
    assert (table.why, product.why) == ("already quantized", "already quantized")
    assert rest.params == 120
    assert inspection.totals["params"] == params(model) == 3200 + 640 + 120


def test_rows_and_totals_of_a_small_network(build):
    body = """e = Gather(table, i) h = Gemm(e, w, b) a = Relu(h) t = Transpose(a)
              s = MatMul(a, t) y = Neg(s)"""
    model = build("int64[5] i", body, table=(100, 40), w=(40, 60), b=(60,))

    inspection = inspect_model(model)

    table, gemm, product, rest = inspection.rows
    assert (table.name, table.op, table.kind, table.shape) == (
        "table",
        "Gather",
        "embedding",
        (100, 40),
    )
    assert (gemm.name, gemm.params, gemm.bytes, gemm.macs) == ("w", 2400, 9600, 5 * 2400)
    assert (product.kind, product.macs, product.params) == ("activations", 5 * 5 * 60, 0)
    assert (rest.kind, rest.params, rest.bytes) == ("rest", 60, 240)
    assert [row.compressible for row in inspection.rows] == [True, True, False, False]
    assert all(bool(row.why) != row.compressible for row in inspection.rows)
    assert inspection.totals["params"] == 4000 + 2400 + 60 == params(model)
    assert inspection.totals["weight_bytes"] == 4 * 6460
    assert inspection.totals["compressible_bytes"] == 4 * 6400
    assert inspection.totals["file_bytes"] == size_bytes(model)
    assert inspection.totals["ops"]["MatMul"] == 1
    assert inspection.totals["dtypes"] == {
        "FLOAT": {"tensors": 3, "elements": 6460, "bytes": 25840}
    }
    assert sum(row.share for row in inspection.rows) == pytest.approx(1.0)


def test_tied_weights_count_once_and_equal_ones_are_reported(build):
    same = np.arange(1600, dtype=np.float32).reshape(40, 40)
    model = build("float[1,40] x", "a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, v)",
                  w=same, v=same.copy())  # fmt: skip

    inspection = inspect_model(model)

    assert [row.params for row in inspection.rows[:3]] == [1600, 1600, 1600]
    assert inspection.totals["params"] == 3200
    assert inspection.totals["duplicates"] == [["w", "v"]]
    assert inspection.totals["duplicate_bytes"] == 6400


def test_weights_of_one_node_share_its_products(build):
    model = build(
        "float[7,1,40] x", "y = LSTM<hidden_size=20>(x, w, r)", w=(1, 80, 40), r=(1, 80, 20)
    )

    w, r, _ = inspect_model(model).rows

    assert (w.macs, r.macs) == (7 * 80 * 40, 7 * 80 * 20)


def test_weights_that_still_have_to_be_folded_are_named(build):
    model = build("float[1,40] x", "v = Neg(w) y = MatMul(x, v)", w=(40, 40))

    row = next(row for row in inspect_model(model).rows if row.op == "MatMul")

    assert "simplify first" in row.why


def test_ports_keep_their_symbols(build):
    model = build("float[batch,?,40] x", "y = MatMul(x, w)", w=(40, 40))

    (port,) = inspect_model(model).totals["inputs"]

    assert port == {"name": "x", "type": "FLOAT", "shape": ["batch", None, 40]}


def test_int64_constants_are_no_parameters(build):
    model = build("float[4,10] x", "y = Reshape(x, s)", s=np.array([10, 4]))

    assert params(model) == 0
    assert inspect_model(model).totals["dtypes"]["INT64"]["elements"] == 2


def test_real_models_can_be_inspected(assets):
    paths = sorted((assets / "models").glob("*.onnx"))
    assert paths
    for path in paths:
        inspection = inspect_model(load(path))
        again = json.loads(json.dumps(inspection.to_dict()))
        assert again["rows"][-1]["kind"] == "rest"
        assert again["totals"]["params"] == sum(row.params for row in inspection.rows), path
        assert inspection.totals["macs_unknown"] == [], path


def test_the_parameters_of_minilm_and_mobilenet(assets):
    # 22.7 million and 3.5 million by their authors; the exporter drops the pooler of MiniLM
    # (384 * 385) and merges its token type embeddings
    minilm = inspect_model(load(assets / "models" / "minilm.onnx"), spectra=False)
    mobilenet = inspect_model(load(assets / "models" / "mobilenetv2_fp32.onnx"), spectra=False)

    assert minilm.totals["params"] == pytest.approx(22_713_216 - 384 * 385, abs=100)
    # 3,504,872 with BatchNorm, which folds: 4 numbers a channel become 1 bias
    assert mobilenet.totals["params"] == pytest.approx(3_504_872, rel=0.01)
    assert round(mobilenet.totals["macs"] / 1e6) == 301  # 300 million by its authors


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_public_models_can_be_inspected(path):
    inspection = inspect_model(load(path), spectra=False)

    assert inspection.totals["macs"] > 1e8
    assert inspection.totals["custom_domains"] == []
