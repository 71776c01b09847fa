"""Patches against what ONNX Runtime makes of the same images."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from onnxslim_rx.calibration.patches import Draw, Patches
from onnxslim_rx.runtime import Runner

SEEDS = range(40)


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
def test_patches_are_what_the_runtime_multiplies(conv, seed):
    rng = np.random.default_rng(seed)
    attributes, kernel, images = geometry(rng)
    model = conv(attributes, one_hot(2, kernel), len(kernel))
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
