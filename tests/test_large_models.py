"""Sessions of large models: nothing is copied, and the numbers are the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxslim_rx import registry
from onnxslim_rx.ir import MappedTensor, SpooledTensor, clone, load, save, spool
from onnxslim_rx.ir.walk import FOLDED
from onnxslim_rx.passbase import CompressionPass, Layer
from onnxslim_rx.pipeline import clean
from onnxslim_rx.runtime import Runner, frugal
from onnxslim_rx.runtime.folding import Run, folded
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target

HEADER = """<ir_version: 8, opset_import: ["": 17]>
g (int64[n] i, float[m, 40] z) => (float[n, 30] y, float[m, 200] t) {"""
BODY = """
    e = Gather(table, i)
    y = MatMul(e, w)
    u = Transpose<perm = [1, 0]>(table)
    t = MatMul(z, u)
}"""
STORED = """
    a = Cast<to = 1>(table_q)
    table = Mul(a, table_s)
    b = Cast<to = 1>(w_q)
    w = Mul(b, w_s)"""
SHAPES = {"table": (200, 40), "w": (40, 30)}
FEEDS = {"i": np.array([3, 1, 199]), "z": np.ones((2, 40), np.float32)}


@pytest.fixture(autouse=True)
def all_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as large, and every tensor."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "LARGE_BYTES", 1)
    monkeypatch.setattr(spool, "SPOOLED_BYTES", 1)


def give(model: ir.Model, constants: Mapping[str, np.ndarray]) -> ir.Model:
    """`model` with values of these names as initializers."""
    read = {value for node in model.graph for value in node.inputs if value is not None}
    for value in sorted(read, key=lambda v: str(v.name)):
        if value.name in constants:
            array = constants[str(value.name)]
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(array.shape)
            model.graph.register_initializer(value)
    return model


def tied(rng: np.random.Generator) -> ir.Model:
    """A table that is read by rows and, transposed, by a product; and a matrix."""
    arrays = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    constants = {name: array.astype(np.float32) for name, array in arrays.items()}
    return give(ir.from_onnx_text(HEADER + BODY), constants)


def quantized(rng: np.random.Generator) -> ir.Model:
    """The same, stored as INT8."""
    constants: dict[str, np.ndarray] = {}
    for name, shape in SHAPES.items():
        constants[f"{name}_q"] = rng.integers(-127, 128, shape).astype(np.int8)
        constants[f"{name}_s"] = rng.uniform(0.01, 0.02, (shape[0], 1)).astype(np.float32)
    model = give(ir.from_onnx_text(HEADER + STORED + BODY), constants)
    for node in model.graph:
        name = str(node.outputs[0].name)
        if name in SHAPES:
            node.outputs[0].shape = ir.Shape(SHAPES[name])
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return load(model)


def stock(model: ir.Model) -> dict[str, np.ndarray]:
    """What onnxruntime gives for a file, with its own settings."""
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip(["y", "t"], session.run(["y", "t"], FEEDS), strict=True))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("form", ["path", "model"])
def test_weights_stay_in_their_files(form, external, tmp_path, monkeypatch, rng) -> None:
    model = tied(rng)
    wanted = stock(model)
    monkeypatch.setattr("onnxslim_rx.runtime.weights._LARGE_BYTES", 1)
    save(model, tmp_path / "m.onnx", external=external)
    source = tmp_path / "m.onnx" if form == "path" else load(tmp_path / "m.onnx")
    for kind in (MappedTensor, SpooledTensor):
        monkeypatch.setattr(kind, "numpy", lambda self: pytest.fail("a weight was read"))
        monkeypatch.setattr(kind, "tobytes", lambda self: pytest.fail("a weight was copied"))
    runner = Runner(source)
    assert runner.frugal
    found = runner(FEEDS)
    for name, right in wanted.items():
        # sums of 40 products of standard normal numbers, in another order
        np.testing.assert_allclose(found[name], right, atol=40 * 2**-24 * 40)
    assert not runner._weights


def test_weights_of_two_folders_are_mapped(tmp_path, monkeypatch, rng) -> None:
    monkeypatch.setattr("onnxslim_rx.runtime.weights._LARGE_BYTES", 1)
    wanted = stock(tied(rng))
    (tmp_path / "a").mkdir()
    save(tied(np.random.default_rng(20261121)), tmp_path / "a" / "m.onnx", external=True)
    model = load(tmp_path / "a" / "m.onnx")
    w = model.graph.initializers["w"]
    w.const_value = spool.spooled(model, ir.tensor(w.const_value.numpy(), name="w"))  # type: ignore[union-attr]
    assert isinstance(w.const_value, SpooledTensor)
    runner = Runner(model)
    assert not runner._weights
    np.testing.assert_allclose(runner(FEEDS)["y"], wanted["y"], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["table.int8", "table.scale", "w.int8", "w.scale"]),
        # rows of 40 are no whole groups of 16
        ({"bits": 8, "group": 16}, ["table", "w.q8", "w.scale", "w.shape"]),
    ],
)
def test_what_passes_make_is_in_files(options, names, rng) -> None:
    model = load(tied(rng))
    wanted = stock(tied(np.random.default_rng(20261121)))
    one = registry.all_passes()["quantize-weights"](**options)
    assert isinstance(one, CompressionPass)
    target, treatments = load_target("ort-cpu"), []
    for layer in one.layers(model):
        assert isinstance(layer, Layer)
        first = next(iter(one.candidates(layer, None, target)), None)
        treatments += [] if first is None else [(layer, first.stages, None)]
    assert not apply_treatments(model, treatments, {one.name: one})
    assert sorted(model.graph.initializers) == names
    for value in model.graph.initializers.values():
        assert isinstance(value.const_value, SpooledTensor)
    found = Runner(model)(FEEDS)["y"]
    assert np.linalg.norm(found - wanted["y"]) < 0.02 * np.linalg.norm(wanted["y"])


def test_what_clean_up_makes_is_in_files(rng) -> None:
    constants = {"a": rng.standard_normal((5, 6)), "s": rng.standard_normal(6)}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 5] x) => (float[n, 6] y) { p = MatMul(x, a) y = Mul(p, s) }"""
    found = clean(load(give(ir.from_onnx_text(text), constants)), verify=None).model
    (weight,) = (value.const_value for value in found.graph.initializers.values())
    assert isinstance(weight, SpooledTensor)
    np.testing.assert_allclose(weight.numpy(), constants["a"] * constants["s"], rtol=1e-6)


def test_int8_is_folded_into_a_file(rng, monkeypatch) -> None:
    model = quantized(rng)
    wanted = stock(model)
    monkeypatch.setattr("onnxslim_rx.runtime.weights._LARGE_BYTES", 1)
    monkeypatch.setattr("onnxslim_rx.runtime.folding._PART", 1000)
    copy = folded(model, Runner)
    # the product reads the table as it lies
    assert [node.op_type for node in copy.graph] == ["Gather", "MatMul", "Transpose", "MatMul"]
    assert sorted(copy.graph.initializers) == ["table.folded", "w.folded"]
    for name in ("table", "w"):
        folded_tensor = copy.graph.initializers[f"{name}.folded"].const_value
        assert isinstance(folded_tensor, SpooledTensor)
        integers = model.graph.initializers[f"{name}_q"].const_value
        scales = model.graph.initializers[f"{name}_s"].const_value
        assert integers is not None
        assert scales is not None
        right = integers.numpy().astype(np.float32) * scales.numpy()
        np.testing.assert_array_equal(folded_tensor.numpy(), right)
    runner = Runner(model)
    assert not runner._weights
    found = runner(FEEDS)
    for name, right in wanted.items():
        np.testing.assert_allclose(found[name], right, atol=40 * 2**-24 * 40)


def test_what_was_folded_is_kept_for_the_next_session_and_no_longer(rng) -> None:
    model = quantized(rng)
    builds = []

    def build(part: ir.Model) -> Run:
        builds.append(part)
        return Runner(part)

    first = folded(model, build)
    assert len(builds) == 2
    again = folded(model, build)
    assert len(builds) == 2
    for name, value in first.graph.initializers.items():
        assert again.graph.initializers[name].const_value is value.const_value
    scale = model.graph.initializers["w_s"]
    assert scale.const_value is not None
    scale.const_value = ir.tensor(2 * scale.const_value.numpy(), name="w_s")
    changed = folded(model, build)
    assert len(builds) == 3
    before, after = (m.graph.initializers["w.folded"].const_value for m in (first, changed))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.numpy(), 2 * before.numpy())
    assert FOLDED not in clone(model).meta


CHAINS = {
    # what is made of rows of constants, of columns, of one number, and by more than one node
    "rows": ("Mul(a, r)", ()),
    "columns": ("Mul(a, c)", ()),
    "number": ("Add(a, s)", ()),
    "lower rank first": ("Sub(v, a)", ()),
    "whole": ("Concat<axis = 0>(a, a)", ()),
    "two": ("Mul(h, r)", ("h = Neg(a)",)),
    "shared": ("Add(h, k)", ("h = Neg(a)", "k = Mul(h, h)")),
}


@pytest.mark.parametrize("part", [1, 100, 1 << 20])
@pytest.mark.parametrize("chain", CHAINS)
def test_parts_give_the_whole(chain, part, monkeypatch, rng) -> None:
    monkeypatch.setattr("onnxslim_rx.runtime.folding._PART", part)
    last, others = CHAINS[chain]
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[6, 5] x) => (float[p, q] y) {{
        {" ".join(others)}
        w = {last}
        t = Tile(x, n)
        y = Add(t, w)
    }}"""
    model = ir.from_onnx_text(text)
    arrays = {"a": (6, 5), "r": (6, 1), "c": (1, 5), "s": (), "v": (5,)}
    constants = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in arrays.items()
    }
    rows = 12 if chain == "whole" else 6
    give(model, constants | {"n": np.array([rows // 6, 1])})
    for node in model.graph:
        if node.outputs[0].name == "w":
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            node.outputs[0].shape = ir.Shape((rows, 5))
    x = np.ones((6, 5), np.float32)
    wanted = Runner(model, optimize=False, frugal=False)({"x": x})["y"]
    copy = folded(model, Runner)
    assert [node.op_type for node in copy.graph] == ["Tile", "Add"]
    assert isinstance(copy.graph.initializers["w.folded"].const_value, SpooledTensor)
    np.testing.assert_allclose(Runner(copy, optimize=False)({"x": x})["y"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "w = RandomUniformLike(a) y = Add(x, w)",  # another each time
        "w = Neg(o) y = Add(x, w)",  # callers may give it
        "w = DequantizeLinear(q, s) y = MatMul(x, w)",  # its kernel takes integers
        "w = Transpose(a) y = MatMul(x, w)",  # is read as it lies
        "y = Neg(a)",  # an output stays what it is
    ],
)
def test_what_is_not_folded(body, rng) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[5, 5] x, float[5, 5] o) => (float[5, 5] y) {{ {body} }}"""
    model = ir.from_onnx_text(text)
    a = rng.standard_normal((5, 5)).astype(np.float32)
    constants = {"a": a, "o": a, "q": a.astype(np.int8), "s": np.float32(2).reshape(())}
    give(model, constants)
    for node in model.graph:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape((5, 5))
    before = [node.op_type for node in model.graph]
    copy = folded(model, lambda _: pytest.fail("something was computed"))
    assert [node.op_type for node in copy.graph] == before


def test_without_disk_nothing_is_folded(rng, monkeypatch) -> None:
    model = quantized(rng)
    wanted = stock(model)
    monkeypatch.setattr(spool.Spool, "put", lambda self, like, parts: None)
    assert len(folded(model, Runner).graph) == len(model.graph)
    np.testing.assert_allclose(Runner(model)(FEEDS)["y"], wanted["y"], atol=1e-4)


def test_older_versions_do_not_fold_at_all(rng, monkeypatch) -> None:
    monkeypatch.setattr(frugal, "version", lambda: (1, 26))
    assert frugal.set_frugal(onnxruntime.SessionOptions()) == ["ConstantFolding"]
    model = tied(rng)
    np.testing.assert_allclose(Runner(load(model))(FEEDS)["t"], stock(model)["t"], atol=1e-4)


@pytest.mark.parametrize(("limit", "large"), [(37_000, False), (36_800, True)])
def test_the_size_of_a_file_is_that_of_its_weights(limit, large, tmp_path, monkeypatch, rng):
    save(tied(rng), tmp_path / "m.onnx", external=True)  # 32,000 and 4,800 bytes
    monkeypatch.setattr(spool, "LARGE_BYTES", limit)
    assert (frugal.large_model_in(tmp_path / "m.onnx") is not None) == large
    assert Runner(tmp_path / "m.onnx").frugal == large
    assert not Runner(tmp_path / "m.onnx", frugal=False).frugal


@pytest.mark.parametrize("content", [None, b"", b"location", b"\xff" * 100])
def test_files_that_are_no_models_are_left_to_the_session(content, tmp_path, monkeypatch) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    for limit in (1, 1 << 20):
        monkeypatch.setattr(spool, "LARGE_BYTES", limit)
        assert frugal.large_model_in(path) is None
