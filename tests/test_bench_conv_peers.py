"""Plain decompositions that tools/bench_conv.py compares with: right, and of the stated cost."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxslim_rx.analysis import flops
from onnxslim_rx.ir import load
from tools import bench_conv_peers, bench_conv_plain, bench_conv_simple
from tools.bench_conv_macs import macs, sites

CONV = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6, 11, 9] x) => (float[N, 8, H, W] y) {
    y = Conv <kernel_shape = [3, 3], pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>
        (x, w, b)
}
"""
MIXED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4, 9, 8] x) => (float[N, 5] y) {
    a = Conv <kernel_shape = [3, 2], strides = [2, 1], group = 2> (x, w1)
    b = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (a, w2)
    c = Relu (b)
    d = Conv <kernel_shape = [1, 1]> (c, w3)
    e = Flatten (d)
    f = MatMul (e, w4)
    y = Gemm <transB = 1> (f, w5)
}
"""
SIMPLE = """
<ir_version: 8, opset_import: ["" : 17]>
simple (float[N, 3, 32, 32] image) => (float[N, 10] logits) {
    c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c1)
    c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p1, w2, b2)
    p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c2)
    c3 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p2, w3, b3)
    p3 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c3)
    flat = Flatten (p3)
    f1 = Gemm <transB = 1> (flat, w4, b4)
    logits = Gemm <transB = 1> (f1, w5, b5)
}
"""
SIMPLE_SHAPES = {
    "w1": (32, 3, 3, 3), "b1": (32,), "w2": (64, 32, 3, 3), "b2": (64,), "w3": (128, 64, 3, 3),
    "b3": (128,), "w4": (256, 2048), "b4": (256,), "w5": (10, 256), "b5": (10,),
}  # fmt: skip


def network(text, arrays):
    model = onnx.parser.parse_model(text)
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def random(shapes, rng):
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def outputs(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    serialized = model.SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_multiply_adds_are_those_of_the_analysis(tmp_path, rng):
    shapes = {
        "w1": (6, 2, 3, 2), "w2": (6, 3, 2, 2), "w3": (2, 3, 1, 1), "w4": (224, 7), "w5": (5, 7),
    }  # fmt: skip
    model = network(MIXED, random(shapes, rng))
    onnx.save(model, tmp_path / "m.onnx")
    counted = flops(load(tmp_path / "m.onnx"), {"x": (1, 4, 9, 8)})
    assert macs(tmp_path / "m.onnx") == counted.macs > 0
    assert [site.node.op_type for site in sites(model)] == [
        "Conv", "ConvTranspose", "Conv", "MatMul", "Gemm",
    ]  # fmt: skip


def test_what_cannot_be_counted_is_refused(rng):
    model = network(CONV, random({"w": (8, 6, 3, 3), "b": (8,)}, rng))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ValueError, match="the shape of x, y is not known"):
        sites(model)
    model.graph.node.add(op_type="MatMulInteger", input=["x", "w"], output=["z"])
    with pytest.raises(ValueError, match="MatMulInteger are not counted"):
        sites(model)


def cp_kernel(rng, rank):
    a, b, s = (rng.standard_normal((n, rank)) for n in (8, 6, 9))
    return np.einsum("mr,cr,sr->mcs", a, b, s).reshape(8, 6, 3, 3)


@pytest.mark.parametrize(
    ("make", "rank"),
    [
        (bench_conv_plain.channel, 8),
        (bench_conv_plain.spatial, 18),
        (bench_conv_plain.tucker, 8),
        (lambda kernel, _: bench_conv_plain.tt_at(kernel, 6, 8), 8),
        (bench_conv_plain.cp, 2),
    ],
)
def test_full_rank_is_exact_whatever_the_geometry(make, rank, rng):
    pytest.importorskip("tensorly")
    kernel = cp_kernel(rng, 2) if rank == 2 else rng.standard_normal((8, 6, 3, 3))
    model = network(CONV, {"w": kernel, "b": rng.standard_normal(8)})
    made = bench_conv_peers.replaced(model, {"y": make(kernel, rank)})
    onnx.checker.check_model(made, full_check=True)
    feeds = {"x": rng.standard_normal((2, 6, 11, 9)).astype(np.float32)}
    expected = outputs(model, feeds)
    error = np.linalg.norm(outputs(made, feeds) - expected) / np.linalg.norm(expected)
    # the least squares of CP stop at a tolerance of tensorly's
    assert error < (1e-3 if rank == 2 else 1e-5)


@pytest.mark.parametrize("method", list(bench_conv_plain.METHODS))
def test_costs_are_those_of_what_is_emitted(method, rng):
    pytest.importorskip("tensorly")
    kernel = rng.standard_normal((8, 6, 3, 3))
    model = network(CONV, {"w": kernel, "b": rng.standard_normal(8)})
    make, cost = bench_conv_plain.METHODS[method]
    for rank in (1, 5):
        made = bench_conv_peers.replaced(model, {"y": make(kernel, rank)})
        assert sum(site.macs for site in sites(made)) == cost(sites(model)[0], rank)


@pytest.mark.parametrize("method", list(bench_conv_plain.METHODS))
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_the_share_is_kept_and_used(method, share, rng):
    pytest.importorskip("tensorly")
    shapes = {"w1": (24, 16, 3, 3), "w2": (8, 24, 1, 1), "w3": (20, 8)}
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 16, 12, 12] x) => (float[N, 20] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1)
        b = Conv <kernel_shape = [1, 1]> (a, w2)
        c = GlobalAveragePool (b)
        d = Flatten (c)
        y = Gemm <transB = 1> (d, w3)
    }
    """
    model = network(text, random(shapes, rng))
    made = bench_conv_peers.uniform(model, method, share)
    before, after = (sum(site.macs for site in sites(one)) for one in (model, made))
    assert 0.85 * share * before < after <= share * before
    names = {tensor.name for tensor in made.graph.initializer}
    assert {"w2", "w3"} < names  # pointwise kernels and Gemms stay
    assert "w1" not in names
    feeds = {"x": rng.standard_normal((3, 16, 12, 12)).astype(np.float32)}
    assert outputs(made, feeds).shape == (3, 20)


def test_kernels_that_read_images_stay(rng):
    text = CONV.replace("N, 6, 11", "N, 3, 11")
    model = network(text, random({"w": (8, 3, 3, 3), "b": (8,)}, rng))
    with pytest.raises(ValueError, match=r"cannot keep 0\.9"):
        bench_conv_peers.uniform(model, "channel SVD (numpy)", 0.9)


def test_too_small_a_share_is_refused(rng):
    model = network(CONV, random({"w": (8, 6, 3, 3), "b": (8,)}, rng))
    with pytest.raises(ValueError, match=r"cannot keep 0\.01"):
        bench_conv_peers.uniform(model, "channel SVD (numpy)", 0.01)


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    rng = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("simple") / "simple.onnx"
    onnx.save(network(SIMPLE, random(SIMPLE_SHAPES, rng)), path)
    return path


@pytest.mark.parametrize("setting", bench_conv_simple.SETTINGS, ids=str)
def test_ranks_of_the_literature_give_its_compression(setting, simple, tmp_path):
    pytest.importorskip("tensorly")
    before = bench_conv_simple.parameters(simple)
    assert before == 620_362
    ranks = (setting.rank_in, setting.rank_out)
    made = bench_conv_peers.at_ranks(onnx.load(simple), setting.method, ranks)
    onnx.save(made, tmp_path / "made.onnx")
    after = bench_conv_simple.parameters(tmp_path / "made.onnx")
    assert before / after == pytest.approx(setting.literature, rel=0.01)
    # ours treats the same layers at the same ranks; plain trains of a matrix have two cars, so
    # that another matrix pays
    stages = bench_conv_simple.stages(simple, setting)
    names = {tensor.name for tensor in made.graph.initializer}
    plain = {name for name in SIMPLE_SHAPES if name not in names}
    assert set(stages) == (plain - {"w5"} if setting.method == "tt" else plain)
    sizes = {
        name: (bench_conv_simple.conv_size if name < "w4" else bench_conv_simple.linear_size)(
            setting.method, bench_conv_simple._cut(setting, SIMPLE_SHAPES[name]),
            SIMPLE_SHAPES[name],
        )
        for name in stages
    }  # fmt: skip
    whole = sum(sizes.get(name, math.prod(shape)) for name, shape in SIMPLE_SHAPES.items())
    assert whole == (pytest.approx(after, rel=0.01) if setting.method == "tt" else after)
    feeds = {"image": np.zeros((1, 3, 32, 32), np.float32)}
    assert outputs(made, feeds).shape == (1, 10)


def test_stages_spell_their_ranks_out(simple):
    tucker, _, train = bench_conv_simple.SETTINGS
    found = bench_conv_simple.stages(simple, tucker)
    assert found["w2"].options["rank_in"] == 32
    assert found["w2"].options["rank_out"] == 16
    assert "w1" not in found  # cut to 3 input channels it would take more than it does
    linear = bench_conv_simple.stages(simple, train)["w4"]
    assert linear.pass_name == bench_conv_simple.LINEAR_PASS
    assert linear.options == {"method": "tt", "rank_in": 8, "rank_out": 16, "split": 8}
