"""Weights with real and imaginary parts: which are found, and what shares a scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import load
from onnxslim_rx.passbase import CompressionPass, Layer, Skipped
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._complex_parts import Layout, scale_layout
from onnxslim_rx_passes._part_layers import part_layers
from onnxslim_rx_passes._stored_layers import stored_layers
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from onnxslim_rx_passes.quantize_static import QuantizeStatic

Array = npt.NDArray[Any]
OUT = "float[?, 24, 2] u"


def model(text: str, shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    found = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = {v for n in found.graph.all_nodes() for v in n.inputs if v and v.name == name}
        (value,) = values
        array = rng.integers(0, 2, shape) if name == "i" else rng.standard_normal(shape)
        dtype = np.int64 if name == "i" else np.float32
        value.const_value = ir.tensor(array.astype(dtype), name=name)
        found.graph.register_initializer(value)
    return load(ir.to_proto(found))


FOUND = {
    "Einsum": (
        f'g (float[?, 16] x) => ({OUT}) {{ u = Einsum<equation="bd,ndp->bnp">(x, w) }}',
        (24, 16, 2),
        (0, 2),
    ),
    "Einsum, channels in the middle": (
        f'g (float[?, 16] x) => ({OUT}) {{ u = Einsum<equation="bd,dnp->bnp">(x, w) }}',
        (16, 24, 2),
        (1, 2),
    ),
    "Einsum, parts summed": (
        'g (float[?, 24, 2] h) => (float[?, 8] y) { y = Einsum<equation="onp,bnp->bo">(w, h) }',
        (8, 24, 2),
        (0, 2),
    ),
    "Mul": (
        "g (float[?, 1, 16, 1] x) => (float[?, 24, 16, 2] u) { u = Mul(x, w) }",
        (24, 16, 2),
        (0, 2),
    ),
    "Gather of a part": (
        """g (float[?, 16] x) => (float[?, 24] u) {
            part = Gather<axis=2>(w, i)
            u = Gemm<transB=1>(x, part)
        }""",
        (24, 16, 2),
        (0, 2),
    ),
    "Gather of rows": (
        "g (int64[7] x) => (float[7, 16, 2] u) { u = Gather(w, x) }",
        (24, 16, 2),
        (0, 2),
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_constants_with_a_last_axis_of_two_are_found(case: str) -> None:
    text, shape, axes = FOUND[case]
    found = model(text, {"w": shape, **({"i": ()} if "i)" in text else {})})
    (layer,) = (one for one in stored_layers(found, 64, lambda _: None) if _is(one, "w"))
    assert isinstance(layer, Layer)
    assert layer.kind == "parts"
    assert layer.weight.name == "w"
    assert channel_axes(layer) == axes
    assert scale_layout(layer, np.ones(shape)) == Layout(shape, axes)


def _is(one: Layer | Skipped, name: str) -> bool:
    return (one.name if isinstance(one, Layer) else one.where) == name


REFUSED = {
    "below 10000": (FOUND["Mul"][0], (24, 16, 2), 10_000),
    "read by Add": ("g (float[?, 24, 16, 2] x) => (float[?, ?, ?, ?] u) { u = Add(x, w) }",
                    (24, 16, 2), 64),
    "has an ellipsis": (
        'g (float[?, 24, 2] h) => (float[?, 8] y) { y = Einsum<equation="onp,...np->...o">(w, h) }',
        (8, 24, 2), 64,
    ),
    "folds away": ("g () => (float[24, 16, 2] u) { u = Mul(w, w) }", (24, 16, 2), 64),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_others_are_refused_with_a_reason(why: str) -> None:
    text, shape, least = REFUSED[why]
    (layer,) = part_layers(model(text, {"w": shape}), least)
    assert isinstance(layer, Skipped)
    assert why in layer.why


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("g (float[?, 24, 2] h) => (float[?, 24, 2] y) { y = Mul(h, w) }", (24, 2)),  # poles
        ("g (float[?, 24, 16, 3] h) => (float[?, 24, 16, 3] y) { y = Mul(h, w) }", (24, 16, 3)),
        ("g (float[?, 16] x) => (float[24, ?, 2] y) { y = MatMul(x, w) }", (24, 16, 2)),
        ("g (float[1, 4, 9, 9] x) => (float[1, 8, 8, 8] y) { y = Conv(x, w) }", (8, 4, 2, 2)),
    ],
)
def test_what_is_no_pair_of_parts_is_left_to_others(text: str, shape: tuple[int, ...]) -> None:
    assert list(part_layers(model(text, {"w": shape}), 4)) == []


LINEAR = "g (float[?, 32] x) => (float[?, 24] y) { y = MatMul(x, w) }"
CONV = "g (float[1, 32, 9, 9] x) => (float[1, 8, 7, 7] y) { y = Conv(x, w) }"
BACK = "g (float[1, 32, 9, 9] x) => (float[1, 8, 11, 11] y) { y = ConvTranspose(x, w) }"
TABLE = "g (int64[7] x) => (float[7, 32] y) { y = Gather(w, x) }"
STATE = """g (float[5, 1, 32] x) => (float[5, 1, 1, 8] y) { y = GRU<hidden_size = 8>(x, w, r) }"""
LAYOUTS: dict[str, tuple[str, tuple[int, ...], int, Layout, Layout]] = {
    "MatMul": (
        LINEAR, (32, 24), 0, Layout((16, 2, 24), (1, 2), True), Layout((2, 16, 24), (0, 2)),
    ),
    "Conv": (
        CONV, (8, 32, 3, 3), 1,
        Layout((8, 16, 2, 3, 3), (0, 2), True), Layout((8, 2, 16, 3, 3), (0, 1)),
    ),
    "ConvTranspose": (
        BACK, (32, 8, 3, 3), 0,
        Layout((16, 2, 8, 3, 3), (1, 2), True), Layout((2, 16, 8, 3, 3), (0, 2)),
    ),
    "Gather": (TABLE, (24, 32), 1, Layout((24, 16, 2), (0, 2), True), Layout((24, 2, 16), (0, 1))),
    "GRU": (
        STATE, (1, 24, 32), 2,
        Layout((1, 24, 16, 2), (0, 1, 3), True), Layout((1, 24, 2, 16), (0, 1, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_parts_are_told_apart_where_their_sizes_differ(case: str, rng: np.random.Generator) -> None:
    text, shape, axis, pairs, halves = LAYOUTS[case]
    shapes = {"w": shape, **({"r": (1, 24, 8)} if case == "GRU" else {})}
    layer = next(one for one in stored_layers(model(text, shapes), 64, lambda _: None))
    assert isinstance(layer, Layer)
    array = rng.standard_normal(shape)
    plain = Layout(shape, channel_axes(layer))
    assert scale_layout(layer, array) == plain
    sizes = np.expand_dims(np.tile([1.0, 0.02], 16), [i for i in range(len(shape)) if i != axis])
    assert scale_layout(layer, array * sizes) == pairs
    assert scale_layout(layer, array * np.sort(sizes, axis)) == halves
    # parts that are zeros lose nothing, and neither do weights of zeros
    assert scale_layout(layer, array * (sizes == 1)) == plain
    assert scale_layout(layer, array * 0) == plain
    # both ways are of the same entries
    assert np.prod(pairs.shape) == np.prod(halves.shape) == array.size


def test_grouped_convolutions_and_odd_lengths_have_no_parts(rng: np.random.Generator) -> None:
    grouped = "g (float[1, 64, 9, 9] x) => (float[1, 8, 7, 7] y) { y = Conv<group=2>(x, w) }"
    odd = "g (float[?, 31] x) => (float[?, 24] y) { y = MatMul(x, w) }"
    short = "g (float[?, 6] x) => (float[?, 24] y) { y = MatMul(x, w) }"
    for text, shape in ((grouped, (8, 32, 3, 3)), (odd, (31, 24)), (short, (6, 24))):
        (layer,) = stored_layers(model(text, {"w": shape}), 4, lambda _: None)
        assert isinstance(layer, Layer)
        array = rng.standard_normal(shape)
        array[:, ::2] *= 0.01
        array[::2] *= 0.01
        assert scale_layout(layer, array) == Layout(shape, channel_axes(layer))


@pytest.mark.parametrize("one", [QuantizeDynamic(min_elements=64), QuantizeStatic(min_elements=64)])
def test_inputs_with_parts_are_not_rounded_with_one_scale(one: CompressionPass) -> None:
    found = model(LINEAR, {"w": (32, 24)})
    assert all(isinstance(layer, Layer) for layer in one.layers(found))
    weight = found.graph.initializers["w"].const_value
    assert weight is not None
    array = weight.numpy() * np.tile([1.0, 0.02], 16)[:, None]
    found.graph.initializers["w"].const_value = ir.tensor(array.astype(np.float32), name="w")
    (layer,) = one.layers(found)
    assert isinstance(layer, Skipped)
    assert "would share one scale" in layer.why


def test_blocks_do_not_hold_parts_in_turns(rng: np.random.Generator) -> None:
    (layer,) = stored_layers(model(LINEAR, {"w": (32, 24)}), 64, lambda _: None)
    assert isinstance(layer, Layer)
    assert isinstance(BlockWeight.of(layer), BlockWeight)
    sizes = np.tile([1.0, 0.02], 16)
    for order, refused in ((sizes, True), (np.sort(sizes), False)):
        array = (rng.standard_normal((32, 24)) * order[:, None]).astype(np.float32)
        layer.weight.const_value = ir.tensor(array, name="w")
        assert isinstance(BlockWeight.of(layer), str) == refused
