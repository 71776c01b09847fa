"""Low-rank correction against its closed form, and against rounding alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from onnxslim_rx.quant import (
    BlockFormat,
    correct,
    damped,
    dequantize,
    error,
    quantize_symmetric,
    restore,
    round_nearest,
    round_refined,
)


def activations(rng, rows, k):
    return rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) * rng.uniform(0.1, 2, k))


def test_the_product_is_the_best_of_its_rank(rng):
    """QERA's closed form with the matrix square root of the Gram matrix."""
    w, x = rng.standard_normal((20, 48)), activations(rng, 300, 48)
    form = BlockFormat(4, 16)
    gram = damped(x.T @ x, 48)
    found = correct(w, form, x.T @ x, 5, rounding=lambda part: round_nearest(part, form), rounds=0)
    np.testing.assert_array_equal(found.blocks.values, round_nearest(w, form).values)
    root = scipy.linalg.sqrtm(gram).real
    u, s, vt = np.linalg.svd((w - restore(found.blocks)) @ root)
    best = (u[:, :5] * s[:5]) @ vt[:5] @ np.linalg.inv(root)
    wanted = error(w, restore(found.blocks) + best, gram)
    assert wanted <= error(w, found.dense(), gram) <= 1.002 * wanted
    np.testing.assert_allclose(found.b @ found.a, best, atol=0.03 * np.abs(best).max())


def test_factors_are_those_that_are_stored(rng):
    w, x = rng.standard_normal((24, 40)), activations(rng, 300, 40)
    found = correct(w, BlockFormat(4, 16), x.T @ x, 3)
    assert found.a.shape == (3, 40)
    assert found.b.shape == (24, 3)
    np.testing.assert_array_equal(dequantize(quantize_symmetric(found.a, [0])), found.a)
    np.testing.assert_array_equal(dequantize(quantize_symmetric(found.b, [1])), found.b)
    np.testing.assert_array_equal(found.dense(), restore(found.blocks) + found.b @ found.a)


def test_rounds_lower_the_error(rng):
    w, x = rng.standard_normal((48, 64)), activations(rng, 400, 64)
    gram, form = x.T @ x, BlockFormat(4, 32)
    errors = [error(w, round_refined(w, form, gram), gram)]
    for rounds in (0, 1, 4):
        found = correct(w, form, gram, 4, rounds=rounds)
        errors.append(error(w, found.dense(), damped(gram, 64)))
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < 0.995 * errors[1]
    assert errors[3] <= errors[2]


def test_a_start_saves_the_first_rounding(rng):
    w, x = rng.standard_normal((24, 40)), activations(rng, 300, 40)
    form, gram = BlockFormat(4, 16), x.T @ x
    whole = correct(w, form, gram, 3)
    found = correct(w, form, gram, 3, start=round_refined(w, form, gram))
    np.testing.assert_array_equal(found.dense(), whole.dense())


def test_a_weight_that_is_on_the_grid_needs_no_product(rng):
    w = np.repeat(rng.integers(-2, 3, (4, 1)), 32, axis=1).astype(float)
    found = correct(w, BlockFormat(4, 16), np.eye(32), 2)
    np.testing.assert_array_equal(found.dense(), w)


def test_a_worse_round_is_not_taken(rng):
    w, x = rng.standard_normal((8, 32)), activations(rng, 100, 32)
    calls = []

    def rounding(part):
        calls.append(part)
        return round_nearest(part, BlockFormat(4 if len(calls) == 1 else 2, 16))

    found = correct(w, BlockFormat(4, 16), x.T @ x, 2, rounding=rounding, rounds=5)
    assert found.blocks.format.bits == 4
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"rank": 0}, "rank"), ({"rank": 5}, "rank"), ({"rounds": -1}, "-1 rounds")],
)
def test_bad_input_is_refused(wrong, text):
    given = {"weight": np.ones((4, 16)), "block_format": BlockFormat(), "gram": np.eye(16)}
    with pytest.raises(ValueError, match=text):
        correct(**(given | {"rank": 1} | wrong))
