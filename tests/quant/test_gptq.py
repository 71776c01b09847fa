"""GPTQ against the algorithm of the paper, a column at a time with the inverse, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant import BlockFormat, damped, error, restore, round_clipped, round_gptq


def activations(rng, rows, k):
    """Correlated, of unequal energies, as those of real layers."""
    return rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) * rng.uniform(0.1, 2, k))


def by_the_paper(weight, form, gram, damping, *, ordered):
    """Frantar et al.: the inverse's Cholesky factor, and all later columns corrected at once."""
    k = weight.shape[1]
    hessian = gram / np.trace(gram) * k + damping * np.eye(k)
    start = round_clipped(weight, form, np.diag(hessian))
    order = np.argsort(-np.diag(hessian), kind="stable") if ordered else np.arange(k)
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    w, values = weight[:, order].copy(), np.empty(weight.shape, np.uint8)
    for j, column in enumerate(order):
        block = column // form.width(k)
        scale = start.scales[:, block]
        zero = form.middle if start.zeros is None else start.zeros[:, block].astype(float)
        integer = np.clip(np.rint(w[:, j] / scale + zero), 0, form.largest)
        values[:, column] = integer
        wrong = (w[:, j] - (integer - zero) * scale) / upper[j, j]
        w[:, j:] -= np.outer(wrong, upper[j, j:])
    return start._replace(values=values)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "group", "k"), [(4, 16, 40), (2, 16, 16), (4, 0, 150), (8, 64, 300)]
)
def test_it_is_the_algorithm_of_the_paper(ordered, symmetric, bits, group, k, rng):
    form = BlockFormat(bits, group, symmetric)
    w = rng.standard_normal((9, k))
    x = activations(rng, 2 * k, k)
    found = round_gptq(w, form, x.T @ x, damping=0.01, activation_order=ordered)
    wanted = by_the_paper(w, form, x.T @ x, 0.01, ordered=ordered)
    np.testing.assert_array_equal(found.scales, wanted.scales)
    # float32 decides a few ties differently, and what follows makes up for it
    assert (found.values != wanted.values).mean() <= 0.01
    assert error(w, found, x.T @ x) == pytest.approx(error(w, wanted, x.T @ x), rel=0.01)


def test_outputs_change_less_than_with_rounding_to_nearest(rng):
    w, x = rng.standard_normal((32, 96)), activations(rng, 400, 96)
    form = BlockFormat(4, 32)
    plain = error(w, round_clipped(w, form), x.T @ x)
    in_turn = error(w, round_gptq(w, form, x.T @ x, activation_order=False), x.T @ x)
    ordered = error(w, round_gptq(w, form, x.T @ x), x.T @ x)
    assert ordered < 0.7 * plain
    assert in_turn < 0.8 * plain


def test_channels_that_were_never_active_are_rounded_to_nearest(rng):
    x = activations(rng, 200, 48)
    x[:, 16:32] = 0.0
    x[:, 40] = 0.0
    w = rng.standard_normal((5, 48))
    found = restore(round_gptq(w, BlockFormat(4, 16), x.T @ x))
    plain = restore(round_clipped(w, BlockFormat(4, 16), np.diag(damped(x.T @ x, 48))))
    np.testing.assert_array_equal(found[:, 16:32], plain[:, 16:32])
    np.testing.assert_array_equal(found[:, 40], plain[:, 40])


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_singular_gram_matrices(damping, rng):
    x = activations(rng, 10, 64)  # fewer rows than channels
    w = rng.standard_normal((8, 64))
    found = round_gptq(w, BlockFormat(4, 16), x.T @ x, damping=damping)
    assert error(w, found, x.T @ x) < 0.5 * error(w, round_clipped(w, BlockFormat(4, 16)), x.T @ x)
    assert error(w, found) < 1.0


def test_a_layer_that_saw_zeros_is_rounded_to_nearest(rng):
    w = rng.standard_normal((4, 32))
    found, plain = round_gptq(w, BlockFormat(), np.zeros((32, 32))), round_clipped(w, BlockFormat())
    np.testing.assert_array_equal(found.values, plain.values)


def test_scale_of_the_gram_matrix_and_parts_change_nothing(monkeypatch, rng):
    w, x = rng.standard_normal((11, 40)), activations(rng, 100, 40)
    form = BlockFormat(4, 16, symmetric=False)
    whole = round_gptq(w, form, x.T @ x, rows=100)
    monkeypatch.setattr("onnxslim_rx.quant.gptq._ENTRIES", 90)
    np.testing.assert_array_equal(
        round_gptq(w, form, x.T @ x * 2.0**-40, rows=100).values, whole.values
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"gram": np.eye(3)}, r"expected \(4, 4\)"),
        ({"gram": np.full((4, 4), np.nan)}, "finite"),
        ({"rows": 0}, "0 rows"),
        ({"damping": -0.1}, "damping of -0.1"),
        ({"damping": np.nan}, "damping of nan"),
        ({"weight": np.array([[1.0, np.nan, 0, 0]])}, "NaN"),
    ],
)
def test_bad_input_is_refused(wrong, text):
    given = {"weight": np.ones((2, 4)), "block_format": BlockFormat(), "gram": np.eye(4)} | wrong
    with pytest.raises(ValueError, match=text):
        round_gptq(**given)
