"""HQQ against the plain algorithm in float64, and against its own objective."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant import BlockFormat, error, restore, round_clipped, round_hqq, round_nearest


def published(weight, form, rounds=20, power=0.7, penalty=10.0):
    """Badri & Shaji's loop: real zero points, the scale that of the range."""
    w = weight.reshape(-1, form.group)
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    inverse = form.largest / (high - low)
    zero = np.rint(-low * inverse)
    for number in range(rounds):
        integers = np.clip(np.rint(w * inverse + zero), 0, form.largest)
        wrong = w - (integers - zero) / inverse
        size = np.abs(wrong) + 1e-12
        aside = np.sign(wrong) * np.maximum(size - size ** (power - 1) / penalty / 1.01**number, 0)
        zero = np.mean(integers - (w - aside) * inverse, axis=1, keepdims=True)
    zero = np.clip(np.rint(zero), 0, form.largest)  # as it can be stored
    integers = np.clip(np.rint(w * inverse + zero), 0, form.largest)
    return ((integers - zero) / inverse).reshape(weight.shape)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (2, 16)])
def test_at_least_as_good_as_the_published_loop(bits, group, rng):
    form = BlockFormat(bits, group, symmetric=False)
    w = rng.standard_t(6, (40, 256))
    found = restore(round_hqq(w, form))
    theirs = published(w, form)
    for power in (0.7, 2.0):
        mine = np.sum(np.abs(w - found) ** power)
        assert mine < np.sum(np.abs(w - theirs) ** power)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("bits", "group", "k"), [(4, 16, 40), (2, 16, 16), (8, 0, 33)])
def test_the_objective_falls_and_blocks_are_valid(symmetric, signed, bits, group, k, rng):
    form = BlockFormat(bits, group, symmetric, signed=signed)
    w = rng.standard_t(3, (30, k)).astype(np.float32)
    blocks, start = round_hqq(w, form), round_clipped(w, form)

    def objective(found):
        return np.sum(np.abs(w - restore(found)) ** 0.7)

    assert objective(blocks) <= objective(start) * (1 + 1e-5)
    assert (blocks.scales == blocks.scales.astype(np.float16)).all()
    assert (blocks.scales > 0).all() or (symmetric and signed)
    assert error(w, blocks) < error(w, round_nearest(w, form)) * 1.1


def test_outliers_are_set_aside():
    """One entry far off: the others keep a finer grid than squares would leave them."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((200, 64))
    w[:, 5] *= 8
    form = BlockFormat(2, 0, symmetric=False)
    robust, squares = restore(round_hqq(w, form)), restore(round_clipped(w, form))
    assert np.median(np.abs(w - robust)) < np.median(np.abs(w - squares))


def test_zeros_and_constants_are_exact():
    w = np.repeat([[0.0, 0.25, -3.0]], 16, axis=1)
    for symmetric in (True, False):
        np.testing.assert_array_equal(restore(round_hqq(w, BlockFormat(4, 16, symmetric))), w)


@pytest.mark.parametrize(("options", "text"), [({"power": 0.0}, "power 0"), ({"rounds": -1}, "-1")])
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        round_hqq(np.ones((2, 16)), BlockFormat(), **options)
