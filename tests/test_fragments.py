"""Fragments: what a pass emitted comes back from a file as it was, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.fragments import Fragment, nodes_around, pack, unpack, values_around
from onnxslim_rx.ir import load, save
from onnxslim_rx.passbase import Layer

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (int64[n] i, float[m, 4] x) => (float[n, 4] e, float[m, 6] t)
<float[6, 4] table = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24}> {
    e = Gather(table, i)
    u = Transpose<perm = [1, 0]>(table)
    t = MatMul(x, u)
}"""
ABOUT = {"options": {"bits": 4}, "error": 0.25, "why": ""}


@pytest.fixture
def layer() -> Layer:
    node = load(ir.to_proto(ir.from_onnx_text(TEXT))).graph[0]
    return Layer("table", "Gather", "embedding", node, 0, 1)


def around_of(layer: Layer) -> dict[str, ir.Value]:
    found = values_around(nodes_around(layer))
    assert found is not None
    return found


def two_readers(layer: Layer) -> Fragment:
    """Both readers of the table read one packed tensor."""
    around, tape = around_of(layer), ir.tape.Tape()
    packed = tape.initializer(ir.tensor(np.arange(12, dtype=np.uint8), name="table.int4"))
    scales = tape.initializer(ir.tensor(np.ones(6, np.float16), name="table.scales"))
    wide = tape.op("Cast", [scales], {"to": ir.DataType.FLOAT})
    rows = tape.op(
        "GatherBlockQuantized", [packed, around["i"], wide], {"bits": 4}, domain="com.microsoft"
    )
    product = tape.op(
        "MatMulNBits", [around["x"], packed, wide, None], {"K": 4, "N": 6},
        domain="com.microsoft", name="head",
    )  # fmt: skip
    product.name = "wish"
    return Fragment(tape, {around["e"]: rows, around["t"]: product}, ABOUT)


def one_weight(layer: Layer) -> Fragment:
    tape = ir.tape.Tape()
    stored = tape.initializer(ir.tensor(np.arange(24, dtype=np.int8).reshape(6, 4), name="table.q"))
    return Fragment(tape, tape.op("Cast", [stored], {"to": ir.DataType.FLOAT}), ABOUT)


def described(fragment: Fragment) -> list[object]:
    """All that matters of a fragment, values by where they come from."""
    tape = fragment.tape
    names = {v: f"constant {i}" for i, v in enumerate(tape.initializers)}
    for i, node in enumerate(tape.nodes):
        names |= {v: f"node {i}.{j}" for j, v in enumerate(node.outputs)}

    def of(value: ir.Value | None) -> object:
        return None if value is None else names.get(value, value)

    made = fragment.made
    pairs = [*made.items()] if isinstance(made, Mapping) else [(made, made)]
    return [
        [(str(v.name), v.dtype, v.const_value.numpy().tolist()) for v in tape.initializers],  # type: ignore[union-attr]
        [
            (n.domain, n.op_type, n.name or None, [of(v) for v in n.inputs],
             {a.name: a.value for a in n.attributes.values()}, [v.name for v in n.outputs])
            for n in tape.nodes
        ],
        [(of(old), of(new)) for old, new in pairs],
        fragment.about,
    ]  # fmt: skip


def test_all_readers_of_a_weight_are_found(layer: Layer) -> None:
    nodes = nodes_around(layer)
    assert [node.op_type for node in nodes] == ["Gather", "Transpose", "MatMul"]
    assert set(around_of(layer)) == {"table", "i", "x", "u", "e", "t"}


def test_a_name_that_means_two_things_is_refused(layer: Layer) -> None:
    nodes = nodes_around(layer)
    other = ir.node("Identity", [ir.Value(name="i")])
    assert values_around([*nodes, other]) is None


@pytest.mark.parametrize("make", [two_readers, one_weight])
def test_what_was_emitted_comes_back(layer: Layer, tmp_path: Path, make) -> None:
    fragment = make(layer)
    wanted, around = described(fragment), around_of(layer)
    model = pack(fragment, around, {"": 17})
    assert model is not None
    assert described(fragment) == wanted  # nothing was changed
    assert all(node.graph is None for node in fragment.tape.nodes)
    save(model, tmp_path / "f.onnx")
    found = unpack(load(tmp_path / "f.onnx"), around)
    assert found is not None
    assert described(found) == wanted


def test_what_reads_elsewhere_is_not_kept(layer: Layer) -> None:
    around, tape = around_of(layer), ir.tape.Tape()
    far = ir.Value(name="far")
    made = tape.op("Add", [around["x"], far])
    assert pack(Fragment(tape, {around["t"]: made}, ABOUT), around, {"": 17}) is None
    assert pack(Fragment(ir.tape.Tape(), far, ABOUT), around, {"": 17}) is None
    assert pack(Fragment(ir.tape.Tape(), {far: around["x"]}, ABOUT), around, {"": 17}) is None


def test_constants_of_one_name_are_not_kept(layer: Layer) -> None:
    tape = ir.tape.Tape()
    for _ in range(2):
        made = tape.initializer(ir.tensor([1.0], name="twice"))
    assert pack(Fragment(tape, made, ABOUT), around_of(layer), {"": 17}) is None


def damaged(model: ir.Model, how: str) -> ir.Model:
    if how == "weight":
        model.graph.initializers["table.q"].const_value = ir.tensor(
            np.zeros((6, 4), np.int8), name="table.q"
        )
    elif how == "about":
        model.metadata_props["rx.about"] = model.metadata_props["rx.about"].replace("0.25", "0.01")
    elif how == "another":
        model.metadata_props.clear()
    return model


@pytest.mark.parametrize("how", ["weight", "about", "another"])
def test_a_damaged_file_is_no_fragment(layer: Layer, how: str) -> None:
    around = around_of(layer)
    model = pack(one_weight(layer), around, {"": 17})
    assert model is not None
    assert unpack(damaged(model, how), around) is None


def test_a_fragment_of_another_place_is_none(layer: Layer) -> None:
    around = around_of(layer)
    model = pack(two_readers(layer), around, {"": 17})
    assert model is not None
    del around["x"]
    assert unpack(model, around) is None
