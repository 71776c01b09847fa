"""What comes in through `ir.load`: kinds of models, external data, order of nodes."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import parser

from onnxslim_rx import ir
from onnxslim_rx.errors import InputError

TEXT = """
<ir_version: 8, opset_import: ["": 17], producer_name: "test">
agraph (float[N, 4] x) => (float[N, 3] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
    h = MatMul(x, w)
    y = Relu(h)
}
"""


@pytest.fixture
def proto() -> onnx.ModelProto:
    return parser.parse_model(TEXT)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight `w`, a float32 ramp of shape (64, 32), lies in `data/weights.bin`."""
    (tmp_path / "data").mkdir()
    weight = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    (tmp_path / "data" / "weights.bin").write_bytes(b"\0" * 100 + weight.tobytes())
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[N, 64] x) => (float[N, 32] y) { y = MatMul(x, w) }"""
    )
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[64, 32], data_location=1)
    for key, value in (("location", "data/weights.bin"), ("offset", "100"), ("length", "8192")):
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def weight_of(model: onnx_ir.Model, name: str = "w") -> onnx_ir.TensorProtocol:
    tensor = ir.constant(model.graph.initializers[name])
    assert tensor is not None
    return tensor


def test_every_kind_loads_to_the_same_model_and_goes_out_as_it_came(proto, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    loaded = ir.load(path)
    sources = {"path": str(path), "proto": proto, "ir": loaded}

    for kind, source in sources.items():
        assert ir.kind_of(source) == kind
        model = ir.load(source)
        assert ir.digest(model) == ir.digest(loaded)
        out = ir.to_kind(model, ir.kind_of(source))
        assert isinstance(out, type(proto) if kind == "proto" else onnx_ir.Model)
    again: Any = ir.to_kind(ir.load(proto), "proto")
    assert again.graph.input == proto.graph.input
    assert again.graph.initializer == proto.graph.initializer


def test_graphsurgeon_graphs_come_in_and_go_out():
    gs = pytest.importorskip("onnx_graphsurgeon")
    proto = parser.parse_model(TEXT)
    graph = gs.import_onnx(proto)

    assert ir.kind_of(graph) == "graphsurgeon"
    model = ir.load(graph)
    back = ir.to_kind(model, "graphsurgeon")

    assert isinstance(back, gs.Graph)
    assert [node.op for node in back.nodes] == ["MatMul", "Relu"]
    np.testing.assert_array_equal(
        back.tensors()["w"].values, onnx.numpy_helper.to_array(proto.graph.initializer[0])
    )


def test_the_source_is_never_changed(proto):
    before = proto.SerializeToString(deterministic=True)
    model = ir.load(proto)
    source = ir.load(proto)
    copy = ir.load(source)

    for changed in (model, copy):
        changed.graph.initializers["w"].name = "renamed"
        changed.graph[0].name = "first"
        changed.metadata_props["a"] = "b"
        changed.graph.outputs[0].shape = onnx_ir.Shape([1, 3])

    assert proto.SerializeToString(deterministic=True) == before
    assert ir.serialize(source) == ir.serialize(ir.load(proto))


@pytest.mark.parametrize("thing", [b"bytes", 3, None, ["model.onnx"]])
def test_other_types_are_refused(thing):
    with pytest.raises(InputError, match=r"cannot be of type .*; expected a path"):
        ir.load(thing)


def test_external_data_is_mapped_not_read(tmp_path):
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (int64[2] i) => (float[2] y) { y = Gather(w, i) }"""
    )
    elements = 1 << 34  # 64 GiB in a file without blocks, more than can be read
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * elements)
        file.seek(4 * elements - 4)
        file.write(np.float32(7).tobytes())
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[elements], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    onnx.save(proto, tmp_path / "m.onnx")

    model = ir.load(tmp_path / "m.onnx")

    assert weight_of(model).numpy()[-1] == 7
    assert ir.size_bytes(model) > 4 * elements
    with pytest.raises(InputError, match=r"68\.7 GB .* below 2 GB.* use a path"):
        ir.serialize(model)
    with pytest.raises(InputError, match="use a path"):
        ir.to_kind(model, "proto")


def test_tensors_of_one_file_share_its_map(external):
    proto = onnx.load(external, load_external_data=False)
    second = proto.graph.initializer.add()
    second.CopyFrom(proto.graph.initializer[0])
    second.name = "v"
    onnx.save(proto, external)
    model = ir.load(external)

    bases = set()
    for name in ("w", "v"):
        array = weight_of(model, name).numpy()
        np.testing.assert_array_equal(array, np.arange(2048, dtype=np.float32).reshape(64, 32))
        assert not array.flags.writeable
        base: Any = array
        while isinstance(base, (np.ndarray, memoryview)):
            base = base.obj if isinstance(base, memoryview) else base.base
        bases.add(base)
    assert len(bases) == 1
    assert isinstance(bases.pop(), mmap.mmap)


def test_data_at_an_odd_offset_is_aligned(external):
    proto = onnx.load(external, load_external_data=False)
    proto.graph.initializer[0].external_data[1].value = "97"
    onnx.save(proto, external)
    array = weight_of(ir.load(external)).numpy()
    assert array.flags.aligned
    content = (external.parent / "data" / "weights.bin").read_bytes()
    assert array.tobytes() == content[97 : 97 + 8192]


@pytest.mark.parametrize("dtype", [onnx_ir.DataType.INT4, onnx_ir.DataType.BFLOAT16])
def test_types_that_numpy_lacks_come_out_of_external_data(dtype, tmp_path):
    values = np.array([[-8, 7, 1], [0, -1, 3]]).astype(dtype.numpy())
    array = np.tile(values, (1, 1000))
    weight = onnx_ir.Value(name="w", const_value=onnx_ir.Tensor(array, dtype, name="w"))
    graph = onnx_ir.Graph([], [], nodes=[], initializers=[weight], opset_imports={"": 21}, name="g")
    ir.save(onnx_ir.Model(graph, ir_version=10), tmp_path / "m.onnx", external=True)

    tensor = weight_of(ir.load(tmp_path / "m.onnx"))

    assert isinstance(tensor, ir.MappedTensor)
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_link_to_a_folder_with_model_and_data_is_followed(external, tmp_path):
    # as caches of downloads do: both are links into one folder
    snapshot = tmp_path / "snapshot"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to(external)
    (snapshot / "data" / "weights.bin").symlink_to(tmp_path / "data" / "weights.bin")

    assert ir.digest(ir.load(snapshot / "model.onnx")) == ir.digest(ir.load(external))


def test_unsorted_nodes_are_sorted():
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[N] x, bool c) => (float[N] y)
        {
            y = If (c) <then_branch = t () => (float[N] z) { z = Neg(b) },
                        else_branch = e () => (float[N] z) { z = Neg(a)  }>
            b = Relu(a)
            a = Abs(x)
        }"""
    )
    assert [node.op_type for node in ir.load(proto).graph] == ["Abs", "Relu", "If"]


def test_an_unsorted_model_in_memory_is_refused(proto):
    model = ir.load(proto)
    model.graph.insert_before(model.graph[0], [model.graph[1]])
    with pytest.raises(InputError, match="uses 'h', which no earlier node"):
        ir.load(model)


def test_an_invalid_model_in_memory_is_refused(proto):
    model = ir.load(proto)
    model.graph[1].op_type = "Rellu"
    with pytest.raises(InputError, match="Rellu that makes 'y': the operator is unknown"):
        ir.load(model)


def test_external_data_of_a_model_in_memory_must_be_there(external):
    model = onnx_ir.load(external)
    (external.parent / "data" / "weights.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="ends at byte 8292"):
        ir.load(model)
    (external.parent / "data" / "weights.bin").unlink()
    with pytest.raises(InputError, match="No such file"):
        ir.load(model)


def test_maps_come_through_although_onnx_ir_lacks_them(assets):
    path = assets / "models" / "sklearn_randomforest.onnx"
    before = onnx.load(path)
    after: Any = ir.to_kind(ir.load(path), "proto")

    assert after.graph.output == before.graph.output
    assert [node.op_type for node in after.graph.node] == [
        "TreeEnsembleClassifier",
        "Cast",
        "ZipMap",
    ]


def test_lists_of_a_tree_ensemble_must_have_one_length():
    text = """
    <ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
    trees (float[N, 2] x) => (float[N, 1] y)
    { y = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, target_ids = [0],
        target_nodeids = [0], target_treeids = [0], target_weights = [1.0],
        nodes_treeids = [0], nodes_nodeids = [0], nodes_modes = ["LEAF"]> (x) }
    """
    ir.load(parser.parse_model(text))
    damaged = text.replace("target_ids = [0]", "target_ids = [0, 0]")
    with pytest.raises(InputError, match="target_ids has 2, target_nodeids has 1"):
        ir.load(parser.parse_model(damaged))
