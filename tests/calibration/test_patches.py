"""Patches of convolutions against loops, and against what ONNX Runtime makes of the same images."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from onnxslim_rx.calibration import readings
from onnxslim_rx.calibration.patches import Draw, Patches
from onnxslim_rx.passbase import Layer, LayerStatistics, channel_gram
from onnxslim_rx.runtime import Runner

SEEDS = range(40)


def conv(model_of, attributes, kernels, rank, *, operator="Conv", channels=None):
    """One convolution of any image."""
    sizes = ",".join("HWD"[:rank])
    names = ", ".join(f"{key}={value}" for key, value in attributes.items())
    names = f"<{names}>" if names else ""
    channels = kernels.shape[1] if channels is None else channels
    return model_of(
        f"float[N,{channels},{sizes}] x => float y", f"y = {operator}{names}(x, w)", w=kernels
    )


def layer_of(node):
    return Layer("w", node.op_type, "conv", node, 1, 0)


def one_hot(channels, kernel):
    """Kernels that read each entry of a patch: what they make is the patches."""
    width = channels * math.prod(kernel)
    return np.eye(width, dtype=np.float32).reshape(width, channels, *kernel)


def geometry(rng):
    """Attributes of a convolution, its kernel and images that it fits."""
    rank = int(rng.integers(1, 4))
    kernel, strides = ([int(n) for n in rng.integers(1, 4, rank)] for _ in range(2))
    attributes: dict[str, list[int] | str] = {"strides": strides}
    auto = str(rng.choice(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if not auto.startswith("SAME"):  # the runtime refuses dilations there
        attributes["dilations"] = [int(n) for n in rng.integers(1, 3, rank)]
    if auto == "NOTSET":
        attributes["pads"] = [int(n) for n in rng.integers(0, 3, 2 * rank)]
    else:
        attributes["auto_pad"] = f'"{auto}"'
    sizes = [int(n) for n in rng.integers(5, 9, rank)]
    return attributes, kernel, rng.standard_normal((2, 2, *sizes)).astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_patches_are_what_the_runtime_multiplies(model_of, seed):
    rng = np.random.default_rng(seed)
    attributes, kernel, images = geometry(rng)
    model = conv(model_of, attributes, one_hot(2, kernel), len(kernel))
    made = Runner(model, optimize=False)({"x": images})["y"]
    expected = np.moveaxis(made, 1, -1).reshape(-1, 2, math.prod(kernel))

    patches = Patches.of(model.graph[0])
    assert patches.positions(images.shape) == (2, *made.shape[2:])
    every = np.arange(len(expected))
    np.testing.assert_array_equal(patches.read(images, every), expected)
    chosen = every[rng.random(len(every)) < 0.3]
    np.testing.assert_array_equal(patches.read(images, chosen), expected[chosen])


def test_patches_of_nodes_that_state_less(model_of):
    model = model_of(
        "float[N,1,H,W] x, float[4,1,3,2] w => float y, float z",
        "y = Conv<kernel_shape = [3,2]>(x, w) z = Conv(x, w)",
    )
    stated, unknown = model.graph
    assert Patches.of(stated) == Patches((3, 2), (1, 1), (0,) * 4, (1, 1))
    assert Patches.of(unknown, (3, 2)) == Patches.of(stated)
    with pytest.raises(ValueError, match="kernel"):
        Patches.of(unknown)


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
    rng, monkeypatch, collect, model_of, layers_of, attributes, shape, groups, memory_bytes
):
    monkeypatch.setattr(readings, "_LEAST", 1 << 20)  # all positions
    weight = rng.standard_normal(shape).astype(np.float32)
    rank, channels = len(shape) - 2, groups * shape[1]
    sizes = {1: (20,), 2: (7, 6), 3: (5, 4, 5)}[rank]
    model = conv(model_of, attributes, weight, rank, channels=channels)
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


def test_wide_patches_and_their_channels(rng, monkeypatch, collect, model_of, layers_of, noise):
    """What is summed up over patches and tap by tap is the same for the channels."""
    model = conv(
        model_of, {"pads": [1, 1, 0, 2], "group": 2}, noise(rng, 4, 2, 3, 3), 2, channels=4
    )
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


def test_no_position_is_drawn_twice_and_none_is_missed():
    draw, counts = Draw(10, 3), np.zeros(40)
    for _ in range(300):
        chosen = draw.of(40)
        assert (np.diff(chosen) > 0).all()
        assert len(chosen) == 10
        counts[chosen] += 1
    assert counts.min() > 40  # expected 75, standard deviation 7.5
    np.testing.assert_array_equal(draw.of(10), range(10))
    np.testing.assert_array_equal(Draw(None, 3).of(1000), range(1000))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_read_channels(rng, collect, model_of, noise, groups):
    weight = noise(rng, 6, 3, 3, 3)
    attributes = {"strides": [2, 2], "group": groups, "pads": [1, 0, 1, 0]}
    model = conv(model_of, attributes, weight, 2, operator="ConvTranspose", channels=6)
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
    rng, collect, model_of, noise, operator, memory_bytes
):
    attributes = {"group": 3, "strides": [2, 2]}
    model = conv(model_of, attributes, noise(rng, 3, 1, 3, 3), 2, operator=operator, channels=3)
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


def test_what_was_measured_is_found_again(rng, tmp_path, collect, model_of, layers_of, noise):
    model = conv(model_of, {}, noise(rng, 4, 2, 3, 3), 2)
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


def test_the_patches_of_a_large_image_are_never_there_together():
    image = np.zeros((1, 16, 300, 300), np.float32)
    patches = Patches((5, 5), (1, 1), (2,) * 4, (1, 1))
    chosen = Draw(6400, 0).of(300 * 300)
    tracemalloc.start()
    for part in patches.parts(chosen):
        patches.read(image, part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20  # all patches: 144 MB; those that are chosen: 10 MB


def test_images_and_kernels_at_the_edge():
    ones = Patches((3, 1), (1, 1), (0,) * 4, (1, 1))
    assert ones.positions((2, 1, 2, 5)) == (2, 0, 5)
    assert len(Patches.pointwise(2).read(np.zeros((0, 3, 2, 2)), np.arange(0))) == 0
    image = np.arange(4.0).reshape(1, 1, 4)
    far = Patches((2,), (1,), (3, 3), (6,))  # both taps lie outside, or one
    found = far.read(image, np.arange(4))
    np.testing.assert_array_equal(found[:, 0], [[0, 3], [0, 0], [0, 0], [0, 0]])
