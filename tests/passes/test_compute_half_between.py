"""ComputeHalf.finish: what follows the layers, and how many Casts are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx import PassManager, simplify
from onnxslim_rx.ir import clone, load, nodes, serialize, size_bytes
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.verify import generate_inputs
from onnxslim_rx_passes.compute_half import ComputeHalf
from onnxslim_rx_passes.store_half import StoreHalf
from tests.passes.halves import TARGET, casts, cosine, in_half, model, types

Array = npt.NDArray[Any]


def square(*names: str, side: int = 8) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal((side, side)).astype(np.float32) / 3 for name in names}


def between(body: str, **constants: Array) -> ir.Model:
    """Two layers, `a = x v` and `y = b w`; the body makes b of a."""
    lines = "\n".join(["a = MatMul(x, v)", *body.split("; "), "y = MatMul(b, w)"])
    text = f"g (float[4, 8] x, float[4, 8] z) => (float[4, 8] y) {{\n{lines}\n}}"
    return model(text, {**square("v", "w"), **constants}, opset=20)


def feeds(found: ir.Model) -> dict[str, Array]:
    rng = np.random.default_rng(8)
    made = {}
    for value in found.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        made[str(value.name)] = rng.standard_normal(value.shape.numpy()).astype(value.dtype.numpy())
    return made


def check(found: ir.Model, **options: Any) -> list[str]:
    """All layers in half: as before up to rounding, and a second time nothing changes."""
    before = clone(found)
    in_half(found, **options)
    once = serialize(found)
    onnx.checker.check_model(once, full_check=True)
    for again in (found, load(onnx.load_from_string(once))):
        written = serialize(again)
        ComputeHalf(min_elements=16, **options).finish(again)
        assert serialize(again) == written
    x = feeds(before)
    assert cosine(Runner(before)(x), Runner(found)(x)) > 0.99999
    return types(found)


VECTOR = np.linspace(0.5, 1.5, 8, dtype=np.float32)
FOLLOWS = [
    "b = Relu(a)",
    "b = Add(a, c)",
    "b = Mul(a, c)",
    "n = Relu(a); s = Sigmoid(a); b = Mul(n, s)",
    "e = Erf(a); f = Add(e, c); b = Mul(a, f)",
    "t = Transpose<perm=[1, 0]>(a); p = Concat<axis=0>(t, t); q, r = Split<num_outputs=2>(p); "
    "b = Transpose<perm=[1, 0]>(r)",
]
STAYS = {
    "b = Softmax(a)": "Softmax",
    "b = LayerNormalization(a, c)": "LayerNormalization",
    "m = ReduceMean(a); b = Sub(a, m)": "ReduceMean",
    "e = Exp(a); b = Relu(e)": "Exp",
    "r = Relu(a); b = Mul(a, r)": "Mul",
    "b = Div(c, a)": "Div",
}


@pytest.mark.parametrize("body", FOLLOWS)
def test_what_lies_between_two_layers_follows(body: str) -> None:
    found = between(body, **({"c": VECTOR} if "c)" in body else {}))
    made = check(found)
    assert (made[0], made[-1], casts(found)) == ("Cast", "Cast", 2)
    assert all(op.endswith("16") for op in made[1:-1])


@pytest.mark.parametrize("body", STAYS)
def test_what_may_overflow_or_sums_much_stays(body: str) -> None:
    found = between(body, **({"c": VECTOR} if "c" in body else {}))
    made = check(found)
    assert STAYS[body] in made
    assert casts(found) == 4
    loose = check(between(body, **({"c": VECTOR} if "c" in body else {})), sums=True)
    free = STAYS[body] not in ("Mul", "Div")
    assert loose.count("Cast") == (2 if free else 4)


def test_constants_beyond_the_range_keep_a_node_in_float32() -> None:
    mask = np.where(np.arange(8) < 6, 0, -3e38).astype(np.float32)
    text = "s = Add(a, m); b = Softmax(s)"
    assert "Add" in check(between(text, m=mask), sums=True)
    assert "Add16" in check(between(text, m=np.maximum(mask, -1e4)), sums=True)


def test_a_residual_in_float32_is_read_through_one_cast() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        n = LayerNormalization(x, c)
        a = MatMul(n, v)
        b = MatMul(n, w)
        s = Mul(a, k)
        r = Add(n, s)
        y = LayerNormalization(r, c)
        }"""
    # b is not read; LayerNormalization makes n, which two layers and an Add read
    found = model(text, {**square("v", "w"), "c": VECTOR, "k": VECTOR[:1]})
    check(found)
    assert casts(found) == 2  # one into both layers, one out of the Mul or the Add


def test_layers_that_were_left_in_float32_stay() -> None:
    found = model(
        """g (float[4, 8] x) => (float[4, 8] y) {
            a = MatMul(x, u)
            b = MatMul(a, v)
            y = MatMul(b, w)
        }""",
        square("u", "v", "w"),
    )
    in_half(found, ["u", "w"])
    assert [op for op in types(found) if op != "Cast"] == ["MatMul16", "MatMul", "MatMul16"]
    small = between("b = MatMul(a, c)", c=square("c")["c"][:, :8])
    assert in_half(small, min_elements=64) == ["v", "c", "w"]
    # a product that is too small to be a layer follows
    tiny = between("m = MatMul(a, c); b = MatMul(m, d)", c=square("c")["c"][:, :1], d=VECTOR[None])
    assert in_half(tiny, min_elements=64) == ["v", "w"]
    assert casts(tiny) == 2


@pytest.mark.parametrize("tail", ["b = Add(s, z)", "t = Softmax(s); b = Add(t, z)"])
def test_inputs_and_outputs_become_half_where_that_is_asked_for(tail: str) -> None:
    body = f"s = Softmax(a); {tail}"
    plain, found = between(body), between(body)
    check(found, io=True)
    assert {value.dtype for value in found.graph.inputs} == {ir.DataType.FLOAT}
    assert found.graph.outputs[0].dtype == ir.DataType.FLOAT
    x = {name: array.astype(np.float16) for name, array in feeds(found).items()}
    wide = {name: array.astype(np.float32) for name, array in x.items()}
    rounded = Runner(found)(wide)["y"]
    for _ in range(2):
        ComputeHalf(io=True).release(found)
        onnx.checker.check_model(serialize(found), full_check=True)
        assert [value.dtype for value in found.graph.inputs] == [ir.DataType.FLOAT16] * 2
        assert [(v.name, v.dtype) for v in found.graph.outputs] == [("y", ir.DataType.FLOAT16)]
        assert casts(found) == 2  # around what is left in float32
        made = Runner(found)(x)
        np.testing.assert_allclose(made["y"], rounded, rtol=2**-9, atol=1e-3)
        assert cosine(Runner(plain)(wide), made) > 0.99999


def test_runs_hand_out_half_inputs_where_that_is_asked_for(root: Path) -> None:
    path = root / "models/digits.onnx"
    made = PassManager([ComputeHalf(type="float16", io=True)])(str(path))
    assert isinstance(made, ir.Model)
    images = np.load(root / "models/digits_test.npz")["image"][:50]
    expected, found = Runner(path)({"image": images}), Runner(made)({"image": images.astype("f2")})
    assert found["logits"].dtype == np.float16
    assert cosine(expected, found) > 0.99999
    same = PassManager([ComputeHalf(type="float16")])(str(path))
    assert isinstance(same, ir.Model)
    assert same.graph.inputs[0].dtype == same.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_bodies_of_nodes_compute_in_half() -> None:
    text = """g (float[4, 8] h, float[5, 4, 8] xs) => (float[4, 8] y, float[5, 4, 8] ys) {
        k = MatMul(h, u)
        y, ys = Scan<num_scan_inputs = 1, body = b (float[4, 8] s, float[4, 8] x)
            => (float[4, 8] t, float[4, 8] o) {
            p = MatMul(s, v)
            q = MatMul(x, w)
            r = Add(p, q)
            m = Add(r, k)
            t = Tanh(m)
            o = Identity(t)
        }>(h, xs)
    }"""
    found, plain = model(text, square("u", "v", "w")), model(text, square("u", "v", "w"))
    assert sorted(in_half(found)) == ["u", "v", "w"]
    made = types(found)
    assert "Add16" in made
    x = feeds(plain)
    assert cosine(Runner(plain)(x), Runner(found)(x)) > 0.99999
    once = serialize(found)
    ComputeHalf(min_elements=16).finish(found)
    assert serialize(found) == once


# -- real models -----------------------------------------------------------------------------------


def peer(found: ir.Model) -> onnx.ModelProto:
    """What onnxruntime's own converter makes, with the same operators left in float32."""
    float16: Any = pytest.importorskip("onnxruntime.transformers.float16")
    stays = ["GlobalAveragePool", "LayerNormalization", "Pow", "ReduceMean", "ReduceSum", "Softmax"]
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *stays]
    made: onnx.ModelProto = float16.convert_float_to_float16(
        onnx.load_from_string(serialize(found)), keep_io_types=True, op_block_list=blocked
    )
    return made


@pytest.mark.parametrize(
    ("name", "layers", "least"),
    [
        ("cifar10_resnet_1m", 11, 0.999999),
        ("mobilenetv2_fp32", 52, 0.9999),
        ("silero_vad_16k_op15", 5, 0.999999),
        ("vit_ibp_3_3_8", 13, 0.999999),
    ],
)
def test_real_models_in_half(assets: Path, name: str, layers: int, least: float) -> None:
    plain = load(simplify(str(assets / "models" / f"{name}.onnx")))
    found = clone(plain)
    assert len(in_half(found, min_elements=512)) == layers
    # weights that are looked up, or belong to recurrent layers, are stored in half
    rest = StoreHalf()
    treatments = [
        (layer, candidate.stages, None)
        for layer in rest.layers(found)
        if isinstance(layer, Layer)
        for candidate in rest.candidates(layer, None, TARGET)
    ]
    apply_treatments(found, treatments, {rest.name: rest})
    data = generate_inputs(plain, samples=2)
    one, other = Runner(plain), Runner(found)
    assert min(cosine(one(sample), other(sample)) for sample in data) > least
    assert size_bytes(found) < 0.56 * size_bytes(plain)
    folded = len(treatments)
    theirs = sum(node.op_type == "Cast" for node in peer(plain).graph.node)
    assert casts(found) - folded <= theirs


def test_minilm_in_half(assets: Path) -> None:
    plain = load(assets / "models/minilm.onnx")
    found = clone(plain)
    in_half(found, min_elements=512)
    sample = generate_inputs(plain, samples=1)[0]
    assert cosine(Runner(plain)(sample), Runner(found)(sample)) > 0.99999
    before, after = casts(plain), casts(found)
    blocks = sum(node.op_type == "Erf" for node in nodes(plain))
    assert blocks == 6
    # a block: into attention, around the Softmax, out of it, into and out of the two layers behind
    assert after - before <= 6 * blocks + 2
