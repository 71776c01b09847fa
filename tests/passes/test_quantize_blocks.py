"""QuantizeWeights in blocks: what is emitted, in stock ONNX Runtime, against float64."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import serialize, size_bytes
from onnxslim_rx.manager import PassManager
from onnxslim_rx.passbase import Skipped
from onnxslim_rx.runtime import least_onnxruntime
from onnxslim_rx_passes.fold_constants import FoldConstants
from tests.passes.blocks import (
    LOOK_UP,
    PRODUCTS,
    TIED,
    feeds_for,
    modelled,
    most_off,
    quantize,
    quantizer,
    run,
)

GRIDS = [(4, 32, True), (4, 16, False), (4, 128, True), (8, 32, True), (8, 64, False)]
NARROW = [(2, 16, True), (2, 32, False)]
TIED_GEMM = (
    "g (int64[7] x) => (float[7, 96] y, float[7, 100] z)"
    " { y = Gather(w, x)  z = Gemm<transB = 1>(y, w) }"
)
CASES = [
    *itertools.product(["nbits"], GRIDS + NARROW),
    *itertools.product(["dequantize-linear"], GRIDS),
]


def options(grid):
    bits, group, symmetric = grid
    return {"bits": bits, "group": group, "symmetric": symmetric, "method": "nearest"}


def product(model, feeds, w, c):
    """What the products give, in float64, and the rows and activations that they have."""
    x = feeds["x"].astype(np.float64)
    node = next(node for node in model.graph if node.op_type in ("Gemm", "MatMul"))
    plain = node.attributes.get_int("transB", 0) == 0
    x = x.T if node.attributes.get_int("transA", 0) else x
    rows = w.T if plain else w
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    bias = beta * c if len(node.inputs) > 2 else 0.0
    return alpha * (x @ rows.T) + bias, x, alpha * rows


@pytest.mark.parametrize(("form", "grid"), CASES)
@pytest.mark.parametrize("case", PRODUCTS)
def test_products_are_those_of_the_rounded_weight(case, form, grid, rng):
    text, shape = PRODUCTS[case]
    w = rng.standard_normal(shape).astype(np.float32)
    c = rng.standard_normal(33).astype(np.float32)
    plain, found = (modelled(text, w, form=form, c=c) for _ in range(2))
    if not (stored := quantize(found, form, **options(grid))):
        assert w.nbytes < 1200  # too small to pay
        return
    _, dense = stored["w"]
    feeds = feeds_for(plain, rng)
    expected, x, rows = product(plain, feeds, dense, c)

    kinds = {node.op_type for node in found.graph}
    assert ("MatMulNBits" if form == "nbits" else "DequantizeLinear") in kinds
    assert (np.abs(run(found, feeds)["y"] - expected) <= most_off(x, rows, grid[1])).all()
    # with nothing folded and nothing packed, activations stay as they are
    exact = run(found, feeds, optimize=False)["y"]
    np.testing.assert_allclose(exact, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("form", "grid"), CASES)
def test_rows_that_are_looked_up_are_those_of_the_rounded_table(form, grid, rng):
    text, shape = LOOK_UP
    w = rng.standard_normal(shape).astype(np.float32)
    found = modelled(text, w, form=form)
    _, dense = quantize(found, form, **options(grid))["w"]
    feeds = {"x": np.array([0, 99, 3, -1, 5, 5, -100])}
    for optimize in (True, False):
        y = run(found, feeds, optimize=optimize)["y"]
        np.testing.assert_allclose(y, dense[feeds["x"]], rtol=1e-6, atol=1e-7)
    (table,) = (v for v in found.graph.initializers.values() if str(v.name).startswith("w.q"))
    assert table.const_value is not None
    assert table.const_value.nbytes == w.size * grid[0] // 8


@pytest.mark.parametrize("form", ["nbits", "dequantize-linear"])
@pytest.mark.parametrize("text", [TIED[0], TIED_GEMM])
def test_a_tied_table_is_one_packed_tensor(form, text, rng):
    w = rng.standard_normal(TIED[1]).astype(np.float32)
    found = modelled(text, w, form=form)
    before = size_bytes(found)
    _, dense = quantize(found, form, bits=4, group=32)["w"]
    large = [v for v in found.graph.initializers.values() if v.const_value.nbytes > w.size // 8]  # type: ignore[union-attr]
    assert len(large) == 1
    assert size_bytes(found) < before / 4
    feeds = {"x": np.array([0, 99, 3, 1, 5, 5, 50])}
    rows = dense[feeds["x"]]
    for optimize in (True, False):
        made = run(found, feeds, optimize=optimize)
        np.testing.assert_allclose(made["y"], rows, rtol=1e-6, atol=1e-7)
        assert (np.abs(made["z"] - rows @ dense.T) <= most_off(rows, dense, 32)).all()


def test_a_tied_table_in_int8_is_shared_too(rng):
    w = rng.standard_normal(TIED[1]).astype(np.float32)
    found = modelled(TIED[0], w)
    stage, dense = quantize(found)["w"]
    assert dict(stage.options) == {"bits": 8, "form": "cast-mul", "method": "clip"}
    feeds = {"x": np.array([0, 99, 3, 1, 5, 5, 50])}
    made = run(found, feeds)
    np.testing.assert_allclose(made["y"], dense[feeds["x"]], rtol=1e-6)
    np.testing.assert_allclose(made["z"], dense[feeds["x"]] @ dense.T, rtol=1e-4, atol=1e-4)
    assert [v.name for v in found.graph.initializers.values()] == ["w.int8", "w.scale"]


def test_all_readers_of_a_weight_read_one_tensor(rng):
    text, shape = PRODUCTS["twice"]
    w = rng.standard_normal(shape).astype(np.float32)
    found = modelled(text, w)
    _, dense = quantize(found, bits=4, group=32)["w"]
    products = [node for node in found.graph if node.op_type == "MatMulNBits"]
    assert len({node.inputs[1] for node in products}) == 1 < len(products)
    feeds = feeds_for(found, rng)
    s = 1 / (1 + np.exp(-feeds["x"].astype(np.float64)))
    off = np.abs(run(found, feeds)["z"] - s @ dense)
    assert (off <= most_off(s, dense.T, 32) + 1e-5).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_half_precision_keeps_its_type_and_needs_no_cast(bits, rng):
    text = "g (float16[5, 96] x) => (float16[5, 40] y) { y = MatMul(x, w) }"
    w = rng.standard_normal((96, 40)).astype(np.float16)
    found = modelled(text, w)
    stage, dense = quantize(found, bits=bits, group=32)["w"]
    assert stage.options["scales"] == "float16"
    assert [node.op_type for node in found.graph] == ["MatMulNBits"]
    feeds = feeds_for(found, rng)
    y = run(found, feeds)["y"]
    assert y.dtype == np.float16
    x = feeds["x"].astype(np.float64)
    half = 2.0**-10 * np.abs(x) @ np.abs(dense)  # sums are rounded to float16
    assert (np.abs(y - x @ dense) <= most_off(x, dense.T, 32) + half).all()


@pytest.mark.parametrize("form", ["nbits", "dequantize-linear"])
def test_a_weight_in_a_constant_node_and_in_a_branch(form, rng):
    text = """g (bool c, float[5, 64] x) => (float[5, 64] y) {
        y = If (c) <
            then_branch = t () => (float[5, 64] a) { a = MatMul(x, w) },
            else_branch = e () => (float[5, 64] b) { b = Identity(x) }
        >
    }"""
    w = rng.standard_normal((64, 64)).astype(np.float32)
    found = modelled(text, w, form=form)
    stored = quantize(found, form, bits=4, group=32)
    if form == "dequantize-linear":  # a branch does not say which version it has
        assert stored == {}
        return
    x = rng.standard_normal((5, 64)).astype(np.float32)
    y = run(found, {"c": np.array(True), "x": x})["y"]
    dense = stored["w"][1]
    assert (np.abs(y - x @ dense) <= most_off(x, dense.T, 32)).all()


def test_a_second_run_finds_nothing_and_changes_nothing(rng):
    found = modelled(TIED[0], rng.standard_normal(TIED[1]).astype(np.float32))
    quantize(found, bits=4, group=32)
    assert [
        "already quantized" in s.why for s in quantizer().layers(found) if isinstance(s, Skipped)
    ]
    before = serialize(found)
    assert quantize(found) == {}
    assert serialize(found) == before


@pytest.mark.parametrize(
    ("case", "form", "grid", "dtype", "least"),
    [
        ("matmul", "nbits", (4, 32, True), "float", "1.17"),
        ("matmul", "nbits", (8, 32, True), "float", "1.22"),
        ("matmul", "nbits", (2, 32, True), "float", "1.24"),
        ("matmul", "nbits", (2, 32, True), "float16", "1.28"),
        ("look-up", "nbits", (4, 32, True), "float", "1.23"),
        ("look-up", "nbits", (4, 32, False), "float", "1.27"),
        ("look-up", "nbits", (8, 32, False), "float", "1.23"),
        ("look-up", "nbits", (2, 32, True), "float", "1.27"),
        ("matmul", "dequantize-linear", (4, 32, True), "float", "1.18"),
        ("matmul", "dequantize-linear", (8, 32, True), "float", "1.26"),
    ],
)
def test_the_least_version_is_known(case, form, grid, dtype, least, rng):
    text, shape = PRODUCTS["matmul"] if case == "matmul" else LOOK_UP
    text = text.replace("float[", f"{dtype}[")
    w = rng.standard_normal(shape).astype(np.float16 if dtype == "float16" else np.float32)
    found = modelled(text, w, form=form)
    quantize(found, form, **options(grid))
    assert least_onnxruntime(found) == least


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("y = ms.MatMulNBits<K=64, N=8, bits=4, block_size=32>(x, q, s)", "1.17"),
        ("y = ms.MatMulNBits<K=64, N=8, bits=4, block_size=32>(x, q, s, , , b)", "1.20"),
        ("y = ms.MatMulNBits<K=64, N=8, bits=2, block_size=32>(x, q, s, , , b)", "1.24"),
        ("y = ms.GatherBlockQuantized<block_size=32, bits=4>(t, i, s)", "1.20"),
        ("w = DequantizeLinear(q, c)  y = MatMul(x, w)", "1.17"),
        ("y = ms.Gelu(x)", "1.17"),
    ],
)
def test_the_least_version_of_models_of_others(body, least):
    weights = {
        "q": np.ones((8, 2, 16), np.uint8),
        "t": np.ones((8, 64), np.int8),
        "s": np.ones((8, 2), np.float32),
        "b": np.ones(8, np.float32),
        "c": np.float32(0.1),
    }
    imports = '"": 17, "com.microsoft": 1'
    text = f"<ir_version: 8, opset_import: [{imports}]> g (float[5, 64] x, int64[3] i) => (y)"
    body = body.replace("ms.", "com.microsoft.")
    proto = onnx.parser.parse_model(f"{text} {{ {body} }}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    assert least_onnxruntime(ir.from_proto(proto)) == least


def test_int8_as_dequantize_linear_is_for_versions_that_are_fast_with_it(rng):
    text, shape = PRODUCTS["matmul"]
    found = modelled(text, rng.standard_normal(shape).astype(np.float32))
    quantize(found, bits=8, form="dequantize-linear")
    assert [node.op_type for node in found.graph] == ["DequantizeLinear", "MatMul"]
    assert least_onnxruntime(found) == "1.26"


def test_cleaning_leaves_what_keeps_the_product_right(rng):
    w = rng.standard_normal(TIED[1]).astype(np.float32)
    found = modelled(TIED[0], w)
    _, dense = quantize(found, bits=4, group=32)["w"]
    done = PassManager([FoldConstants()], verify=None).run(found)
    kinds = [node.op_type for node in done.model.graph]
    assert sorted(kinds) == ["Cast", "GatherBlockQuantized", "MatMulNBits", "Reshape"]
    feeds = {"x": np.arange(7)}
    rows = dense[feeds["x"]]
    z = run(done.model, feeds, optimize=False)["z"]
    np.testing.assert_allclose(z, rows @ dense.T, rtol=1e-4, atol=1e-4)


def test_names_of_what_is_stored(rng):
    text, shape = PRODUCTS["matmul"]
    found = modelled(text, rng.standard_normal(shape).astype(np.float32))
    quantize(found, bits=4, group=32, symmetric=False)
    types = {
        str(name): value.const_value.dtype.name  # type: ignore[union-attr]
        for name, value in found.graph.initializers.items()
    }
    assert types == {"w.q4": "UINT8", "w.shape": "INT64", "w.scale": "FLOAT16", "w.zero": "UINT8"}
    assert found.opset_imports["com.microsoft"] == 1
    assert isinstance(found.graph.outputs[0].producer(), ir.Node)
