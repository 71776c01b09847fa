"""Walks along networks whose convolutions became chains: patches of what the chain stands for."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import Patches, Stop, readings, walk
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner

GEOMETRY = "strides=[2,3], pads=[2,0,1,2], dilations=[1,2]"
PATCHES = Patches((3, 2), (2, 3), (2, 0, 1, 2), (1, 2))
ALL = (PATCHES.kernel, PATCHES.strides, PATCHES.dilations, PATCHES.pads)


def matrix(kernel):
    """(C * taps, M) in float64."""
    return kernel.reshape(len(kernel), -1).T.astype(np.float64)


def composed(column, row):
    """The kernel that a convolution along height and one along width stand for."""
    return np.einsum("rcx,mry->mcxy", column[..., 0], row[:, :, 0])


def found_at(model, small, stops, data, **options):
    found = {}

    def react(at, moments):
        found[at.name] = moments
        return {}

    assert walk(model, small, stops, data, react, **options) == {}
    return found


def stop(model, producer, output, target, columns, patches=None, name="s"):
    node = producer(model, output)
    layer = Layer(output, node.op_type, "conv", node, 1, 0)
    return Stop(name, layer, target, columns, False, (str(layer.weight.name),), patches)


@pytest.fixture
def pair(rng, noise, model_of):
    """A convolution, and a chain of two with the kernel along one axis each, behind a change."""

    def make(change=0.0):
        kernel, first = noise(rng, 4, 3, 3, 2), noise(rng, 3, 3, 1, 1)
        column, row = noise(rng, 5, 3, 3, 1), noise(rng, 4, 5, 1, 2)
        signature = "float[N,3,H,W] x => float[N,4,P,Q] y"
        before = "h = Conv(x, f) a = Tanh(h)"
        one = model_of(
            signature, f"{before} c = Conv<{GEOMETRY}>(a, w) y = Add(c, c)", w=kernel, f=first
        )
        two = model_of(
            signature,
            f"""{before} m = Conv<strides=[2,1], pads=[2,0,1,0]>(a, p)
            c = Conv<strides=[1,3], pads=[0,0,0,2], dilations=[1,2]>(m, q) y = Add(c, c)""",
            p=column, q=row, f=first + np.float32(change),
        )  # fmt: skip
        return one, two, matrix(kernel) - matrix(composed(column, row))

    return make


def test_the_patches_of_a_chain_are_those_of_what_it_stands_for(
    rng, noise, pair, producer, loop_patches
):
    model, small, _ = pair(change=0.3)
    data = [{"x": noise(rng, n, 3, 9, 11)} for n in (1, 2)]
    found = found_at(model, small, [stop(small, producer, "m", "y", 4, PATCHES)], data)["s"]
    weight = small.graph.initializers["f"].const_value.numpy()[:, :, 0, 0].astype(np.float64)
    inputs = [np.tanh(np.einsum("mc,nchw->nmhw", weight, s["x"])) for s in data]
    x = np.concatenate([loop_patches(one, *ALL).reshape(-1, 18) for one in inputs])
    wanted, now = (
        np.concatenate([np.moveaxis(Runner(m)(s)["y"], 1, -1).reshape(-1, 4) for s in data])
        for m in (model, small)
    )
    missing = wanted.astype(np.float64) - now
    assert found.rows == len(x) == 3 * 5 * 4
    np.testing.assert_allclose(found.gram, x.T @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.cross, x.T @ missing, atol=1e-4)
    assert found.missing == pytest.approx(np.sum(missing**2), rel=1e-5)
    assert found.wanted == pytest.approx(np.sum(np.square(wanted, dtype=np.float64)), rel=1e-5)


def test_sampled_positions_are_the_same_of_all_three(rng, noise, pair, producer):
    """Whatever is drawn, what is missing is what the difference of the kernels makes of it."""
    model, small, change = pair()
    data = [{"x": noise(rng, n, 3, 60, 70)} for n in (1, 2, 1)]
    stops = [stop(small, producer, "m", "y", 4, PATCHES)]
    found, again, other = (found_at(model, small, stops, data, seed=n)["s"] for n in (0, 0, 1))
    assert found.rows == 3 * math.ceil(16 * 18 / 3)
    np.testing.assert_array_equal(found.gram, again.gram)
    assert not np.array_equal(found.gram, other.gram)
    for one in (found, other):
        cross = one.gram @ change * 2  # y is the double of what the convolutions make
        np.testing.assert_allclose(one.cross, cross, atol=1e-5 * np.abs(cross).max())
        assert one.missing == pytest.approx(2 * np.sum(change * cross), rel=1e-5)


def test_what_a_layer_reads_itself(rng, monkeypatch, noise, pair, producer):
    """Patches too wide for statistics are not for moments, which memory alone bounds."""
    _, small, _ = pair()
    monkeypatch.setattr(readings, "_WIDEST", 4)
    data = [{"x": noise(rng, n, 3, 12, 9)} for n in (1, 2)]
    found = found_at(small, small, [stop(small, producer, "m", "m", 5)], data)["s"]
    places = (12 + 3 - 3) // 2 + 1
    assert found.gram.shape == (9, 9)
    assert found.rows == min(72, places * 9) + min(72, 2 * places * 9)
    assert found.missing == 0.0
    assert not found.cross.any()
    stops = [stop(small, producer, "m", "m", 5)]
    reasons = walk(small, small, stops, data, lambda *_: {}, memory_bytes=9)
    assert "its moments take" in reasons["s"]


def test_channels_of_all_groups(rng, noise, model_of, producer):
    weight = noise(rng, 4, 3, 3)
    model = model_of(
        "float[N,6,W] x => float[N,4,V] y", 'y = Conv<group=2, auto_pad="SAME_LOWER">(x, w)',
        w=weight,
    )  # fmt: skip
    small = model.clone()
    small.graph.initializers["w"].const_value = ir.tensor(0.5 * weight, name="w")
    data = [{"x": noise(rng, n, 6, 9)} for n in (1, 2)]
    found = found_at(model, small, [stop(small, producer, "y", "y", 4)], data)["s"]
    assert (found.rows, found.gram.shape) == (27, (18, 18))
    for group in range(2):
        rows, columns = slice(9 * group, 9 * group + 9), slice(2 * group, 2 * group + 2)
        cross = found.gram[rows, rows] @ matrix(0.5 * weight[columns])
        np.testing.assert_allclose(found.cross[rows, columns], cross, atol=1e-5)


def test_targets_that_do_not_fit_say_why(rng, noise, model_of, producer):
    model = model_of(
        "float[N,4,9] x => float z, float d, float t",
        "y = Conv(x, w) z = Flatten(y) d = Conv<group=4>(x, v) t = ConvTranspose(x, u)",
        w=noise(rng, 2, 4, 3),
        v=noise(rng, 4, 1, 3),
        u=noise(rng, 4, 2, 1),
    )
    data = [{"x": noise(rng, 2, 4, 9)}]
    wide = Patches((5,), (1,), (0, 0), (1,))
    stops = [
        stop(model, producer, "y", "z", 2, name="flat"),
        stop(model, producer, "y", "y", 2, wide, name="wide"),
        stop(model, producer, "d", "d", 4, name="depthwise"),
        stop(model, producer, "t", "t", 2, name="transposed"),
    ]
    no = "it is no linear layer of the main graph"
    assert walk(model, model, stops, data, lambda *_: {}) == {
        "flat": "(2, 2, 7) would leave and (2, 14) do on calibration sample 0",
        "wide": "(2, 2, 5) would leave and (2, 2, 7) do on calibration sample 0",
        "depthwise": no,
        "transposed": no,
    }
