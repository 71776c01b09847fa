"""What is summed up of what enters convolutions, against loops and the runtime's outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxslim_rx.calibration import readings
from onnxslim_rx.passbase import Layer, LayerStatistics, channel_gram
from onnxslim_rx.runtime import Runner


def layer_of(node):
    return Layer("w", node.op_type, "conv", node, 1, 0)


CASES = [
    ({"pads": [2, 0, 1, 3]}, (4, 3, 3, 2), 1),
    ({"auto_pad": '"SAME_LOWER"', "strides": [2, 1]}, (4, 3, 2, 3), 1),
    ({"dilations": [3]}, (5, 2, 3), 1),
    ({"strides": [1, 2, 2], "pads": [1] * 6}, (4, 2, 2, 3, 1), 1),
    ({"group": 2, "pads": [1, 1, 1, 1]}, (4, 2, 3, 3), 2),
    ({"group": 3, "strides": [2, 2]}, (6, 2, 1, 1), 3),
    ({"pads": [1, 0, 0, 1]}, (4, 3, 1, 1), 1),
]


@pytest.mark.parametrize(("attributes", "shape", "groups"), CASES)
@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_gram_matrices_tell_the_energy_of_outputs(
    rng, monkeypatch, collect, conv, layers_of, attributes, shape, groups, memory_bytes
):
    monkeypatch.setattr(readings, "_LEAST", 1 << 20)  # all positions
    weight = rng.standard_normal(shape).astype(np.float32)
    rank, channels = len(shape) - 2, groups * shape[1]
    sizes = {1: (20,), 2: (7, 6), 3: (5, 4, 5)}[rank]
    model = conv(attributes, weight, rank, channels=channels)
    data = [{"x": rng.standard_normal((n, channels, *sizes)).astype(np.float32)} for n in (1, 2)]
    found = collect(model, layers_of(model), data, memory_bytes=memory_bytes)["w:y"]
    outputs = np.concatenate(
        [np.moveaxis(Runner(model)(s)["y"], 1, -1).reshape(-1, shape[0]) for s in data]
    ).astype(np.float64)
    assert found.patches
    assert found.rows == found.positions == len(outputs)
    assert found.shape == data[1]["x"].shape
    width = channels * math.prod(shape[2:])
    assert found.gram.shape == (width, width)
    side = width // groups
    for group in range(groups):
        filters = slice(group * shape[0] // groups, (group + 1) * shape[0] // groups)
        w = weight[filters].reshape(-1, side).astype(np.float64)
        own = slice(group * side, (group + 1) * side)
        y = outputs[:, filters]
        np.testing.assert_allclose(
            w @ found.gram[own, own] @ w.T, y.T @ y, rtol=1e-5, atol=1e-5 * np.sum(y * y)
        )


def test_wide_patches_and_their_channels(rng, monkeypatch, collect, conv, layers_of, noise):
    """What is summed up over patches and tap by tap is the same for the channels."""
    model = conv({"pads": [1, 1, 0, 2], "group": 2}, noise(rng, 4, 2, 3, 3), 2, channels=4)
    data = [{"x": noise(rng, n, 4, 9, 8)} for n in (1, 3)]
    (layer,) = layers_of(model)
    whole = collect(model, [layer], data)["w:y"]
    monkeypatch.setattr(readings, "_WIDEST", 4 * 9 - 1)
    narrow = collect(model, [layer], data)["w:y"]
    assert (whole.patches, narrow.patches) == (True, False)
    assert whole.positions == narrow.positions == 4 * 8 * 9
    assert whole.rows == 72 + 144  # at most 8 * 36 / 2 of a sample
    assert narrow.rows == 9 * 2 * 64
    monkeypatch.setattr(readings, "_LEAST", 1 << 20)  # all positions
    narrow = collect(model, [layer], data)["w:y"]
    monkeypatch.setattr(readings, "_WIDEST", 4 * 9)
    whole = collect(model, [layer], data)["w:y"]
    assert narrow.rows == 9 * whole.rows == 9 * whole.positions
    channels = channel_gram(narrow, 4, 9)
    assert channels is narrow.gram
    summed = channel_gram(whole, 4, 9)
    assert summed is not None
    np.testing.assert_allclose(summed, channels, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(whole.sample.shape, (256, 36))
    np.testing.assert_array_equal(narrow.mean.shape, (4,))


def test_channels_of_a_gram_matrix_that_does_not_fit():
    stats = LayerStatistics(np.eye(18), None, 20, None, (), patches=True)
    np.testing.assert_array_equal(channel_gram(stats, 2, 9), 9 * np.eye(2))
    with pytest.raises(ValueError, match=r"\(18, 18\), not \(27, 27\)"):
        channel_gram(stats, 3, 9)
    with pytest.raises(ValueError, match=r"\(18, 18\), not \(2, 2\)"):
        channel_gram(LayerStatistics(np.eye(18), None, 20, None, ()), 2, 9)
    assert channel_gram(LayerStatistics(None, None, 20, None, ()), 2, 9) is None
    assert stats.positions == 20


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_positions_are_sampled(
    rng, collect, model_of, layers_of, loop_patches, noise, memory_bytes
):
    body = "a = Sin(x) b = Conv<pads = [1,1,1,1]>(a, v) y = Conv<strides = [2,3]>(a, w)"
    model = model_of(
        "float[N,3,H,W] x => float y, float b",
        body,
        v=noise(rng, 4, 3, 3, 3),
        w=noise(rng, 5, 3, 2, 2),
    )
    data = [{"x": noise(rng, n, 3, 40, 30)} for n in (1, 2, 1)]
    layers = layers_of(model)
    runs = [
        collect(model, layers, data, memory_bytes=memory_bytes, seed=seed) for seed in (0, 0, 1)
    ]
    images = [np.sin(sample["x"].astype(np.float64)) for sample in data]
    for name, width, places, arguments in (
        ("v:b", 27, 40 * 30, ((3, 3), (1, 1), (1, 1), (1,) * 4)),
        ("w:y", 12, 20 * 10, ((2, 2), (2, 3), (1, 1), (0,) * 4)),
    ):
        found, again, other = (run[name] for run in runs)
        np.testing.assert_array_equal(found.gram, again.gram)
        assert not np.array_equal(found.gram, other.gram)
        most = -(-8 * width // 3)
        assert found.rows == 3 * max(64, most)
        assert found.positions == 4 * places
        assert found.shape == (2, 3, 40, 30)
        rows = np.concatenate([loop_patches(one, *arguments).reshape(-1, width) for one in images])
        nearest = np.abs(found.sample[:, None] - rows[None]).max(axis=2)
        assert (nearest.min(axis=1) < 1e-6).all()
        typical = rows.T @ rows / len(rows)
        error = np.linalg.norm(found.gram / found.rows - typical) / np.linalg.norm(typical)
        assert error < 1.5 * np.sqrt((width + 1) / found.rows)  # expected of rows of noise


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_read_channels(rng, collect, conv, noise, groups):
    weight = noise(rng, 6, 3, 3, 3)
    attributes = {"strides": [2, 2], "group": groups, "pads": [1, 0, 1, 0]}
    model = conv(attributes, weight, 2, operator="ConvTranspose", channels=6)
    data = [{"x": noise(rng, n, 6, 9, 11)} for n in (1, 2)]
    found = collect(model, [layer_of(model.graph[0])], data)["w"]
    rows = np.concatenate([np.moveaxis(s["x"], 1, -1).reshape(-1, 6) for s in data]).astype(float)
    assert not found.patches
    assert found.rows == found.positions == len(rows)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-6)
    assert channel_gram(found, 6, 9) is found.gram


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_depthwise_convolutions_have_rows_and_shape(
    rng, collect, conv, noise, operator, memory_bytes
):
    attributes = {"group": 3, "strides": [2, 2]}
    model = conv(attributes, noise(rng, 3, 1, 3, 3), 2, operator=operator, channels=3)
    data = [{"x": noise(rng, n, 3, s, 9)} for n, s in ((1, 9), (2, 13), (1, 11))]
    found = collect(model, [layer_of(model.graph[0])], data, memory_bytes=memory_bytes)["w"]
    assert found.gram is found.counts is found.sample is None
    assert found.shape == (2, 3, 13, 9)
    places = 4 * 4 + 2 * 6 * 4 + 5 * 4 if operator == "Conv" else 81 + 2 * 13 * 9 + 11 * 9
    assert found.rows == found.positions == places
    assert not found.patches


def test_quantized_convolutions_have_rows_and_shape(rng, collect, model_of):
    weight = rng.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8)
    model = model_of("uint8[N,3,H,W] x => int32 y", "y = ConvInteger(x, w)", w=weight)
    data = [{"x": rng.integers(0, 9, (2, 3, 6, 8)).astype(np.uint8)}]
    found = collect(model, [layer_of(model.graph[0])], data)["w"]
    assert (found.gram, found.rows, found.shape) == (None, 2 * 4 * 6, (2, 3, 6, 8))


def test_convolutions_in_a_branch_count_when_it_is_taken(rng, collect, model_of, noise):
    model = model_of(
        "float[N,2,9] x, bool c => float y",
        """
        h = Sin(x)
        y = If (c) <
            then_branch = t () => (float p) { p = Conv(h, w) },
            else_branch = e () => (float q) { q = Conv<group = 2>(h, v) }
        >
        """,
        w=noise(rng, 4, 2, 3),
        v=noise(rng, 2, 1, 3),
    )
    inner = [node for node in model.graph.all_nodes() if node.op_type == "Conv"]
    layers = [layer_of(node) for node in inner]
    data = [{"x": noise(rng, n, 2, 9), "c": np.array(n < 3)} for n in (1, 2, 3)]
    for layer, rows, shape in zip(layers, (21, 21), ((2, 2, 9), (3, 2, 9)), strict=True):
        for memory_bytes in (1, 1 << 30):
            found = collect(model, [layer], data, memory_bytes=memory_bytes)["w"]
            assert (found.rows, found.shape) == (rows, shape)
    assert found.gram is None


def test_what_was_measured_is_found_again(rng, tmp_path, collect, conv, layers_of, noise):
    model = conv({}, noise(rng, 4, 2, 3, 3), 2)
    data = [{"x": noise(rng, 1, 2, 30, 30)}]
    first, second = (collect(model, layers_of(model), data, cache=tmp_path) for _ in range(2))
    assert len(list(tmp_path.glob("statistics-*/index"))) == 1
    for found in (first["w:y"], second["w:y"]):
        assert (found.rows, found.positions, found.patches) == (8 * 18, 28 * 28, True)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(rng, collect, model_of, layers_of, loop_patches, dtype):
    name = "float16" if dtype == np.float16 else "double"
    weight = rng.standard_normal((4, 2, 3)).astype(dtype)
    model = model_of(f"{name}[N,2,W] x => {name} y", "h = Neg(x) y = Conv(h, w)", w=weight)
    data = [{"x": rng.standard_normal((2, 2, 9)).astype(dtype)}]
    found = collect(model, layers_of(model), data)["w:y"]
    rows = loop_patches(-data[0]["x"], (3,), (1,), (1,), (0, 0)).reshape(-1, 6)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-12, atol=1e-12)
    assert found.sample.dtype == (np.float32 if dtype == np.float16 else np.float64)
