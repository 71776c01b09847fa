"""AWQ's scales against a loop over exponents on activations written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant import (
    BlockFormat,
    awq_scales,
    damped,
    error,
    restore,
    round_clipped,
    round_nearest,
)


@pytest.mark.parametrize("rounding", [round_nearest, round_clipped])
def test_the_exponent_with_the_least_error_of_outputs(rounding, rng):
    form = BlockFormat(4, 32)
    w, x = rng.standard_normal((24, 64)), rng.standard_normal((500, 64))
    x[:, ::9] *= 20.0
    found = awq_scales(
        w, form, x.T @ x, damping=0.01, rounding=lambda part: rounding(part, form), steps=10
    )
    sizes = np.sqrt(np.mean(x**2, axis=0) / np.mean(x**2) + 0.01)
    errors, choices = [], []
    for exponent in np.linspace(0, 1, 11):
        s = sizes**exponent / np.sqrt((sizes**exponent).max() * (sizes**exponent).min())
        back = restore(rounding(w * s, form)) / s
        noise = np.sqrt(0.01 * np.mean(np.sum(x**2, axis=0))) * (w - back)
        errors.append(np.sum((x @ (w - back).T) ** 2) + np.sum(noise**2))
        choices.append(s)
    assert 0 < int(np.argmin(errors)) < 10
    np.testing.assert_allclose(found, choices[int(np.argmin(errors))], rtol=1e-9)
    plain = error(w, rounding(w, form), x.T @ x)
    assert error(w, restore(rounding(w * found, form)) / found, x.T @ x) < 0.8 * plain


def test_channels_alike_need_no_scales(rng):
    np.testing.assert_array_equal(
        awq_scales(rng.standard_normal((4, 32)), BlockFormat(), np.eye(32)), np.ones(32)
    )


def test_a_channel_that_was_never_active_gets_a_scale(rng):
    x = rng.standard_normal((100, 32))
    x[:, 3] = 0.0
    scales = awq_scales(rng.standard_normal((4, 32)), BlockFormat(), x.T @ x)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert (damped(x.T @ x, 32)[3] > 0).sum() == 1


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="0 steps"):
        awq_scales(np.ones((2, 16)), BlockFormat(), np.eye(16), steps=0)
