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


def one_block(w, form, *, penalty, power=0.7):
    """The least objective of the rounds of one block; a penalty near 0 sets nothing aside."""
    start = round_clipped(w[None], form)
    scale, zero = start.scales[0, 0], float(form.middle)
    if start.zeros is not None:
        zero = float(start.zeros[0, 0])
    peak = np.abs(w).max()
    least = np.inf
    for number in range(21):
        integers = np.clip(np.rint(w / scale + zero), 0, form.largest)
        wrong = w - (integers - zero) * scale
        least = min(least, np.sum(np.abs(wrong) ** power))
        size = np.maximum(np.abs(wrong) / peak, 1e-12)
        aside = np.maximum(size - size ** (power - 1) / penalty / 1.01**number, 0)
        rest = w - np.sign(wrong) * aside * peak
        if not form.symmetric:
            zero = np.clip(np.rint(np.mean(integers - rest / scale)), 0, form.largest)
        fitted = np.sum(rest * (integers - zero)) / max(np.sum((integers - zero) ** 2), 1e-30)
        scale = float(np.float16(fitted)) or scale
    return least


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_half_quadratic_splitting(symmetric):
    """Two bits and heavy tails, where errors are large enough to be set aside."""
    rng = np.random.default_rng(1)
    form = BlockFormat(2, 0, symmetric)
    w = rng.standard_t(2, (60, 16))
    found = np.sum(np.abs(w - restore(round_hqq(w, form))) ** 0.7, axis=1)
    wanted = np.array([one_block(row, form, penalty=10.0) for row in w])
    without = np.array([one_block(row, form, penalty=1e-30) for row in w])
    # float32 takes another turn now and then
    assert np.isclose(found, wanted, rtol=1e-4).mean() > 0.9
    assert np.isclose(without, wanted, rtol=1e-4).mean() < 0.8
    assert found.sum() < without.sum()


def test_zeros_and_constants_are_exact():
    w = np.repeat([[0.0, 0.25, -3.0]], 16, axis=1)
    for symmetric in (True, False):
        np.testing.assert_array_equal(restore(round_hqq(w, BlockFormat(4, 16, symmetric))), w)


@pytest.mark.parametrize(("options", "text"), [({"power": 0.0}, "power 0"), ({"rounds": -1}, "-1")])
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        round_hqq(np.ones((2, 16)), BlockFormat(), **options)
