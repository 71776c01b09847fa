"""Damping and the error of outputs, against activations written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant import BlockFormat, damped, error, restore, round_nearest


@pytest.mark.parametrize("symmetric", [True, False])
def test_error_is_that_of_the_outputs(symmetric, monkeypatch, rng):
    w, x = rng.standard_normal((13, 40)), rng.standard_normal((70, 40))
    blocks = round_nearest(w, BlockFormat(4, 16, symmetric))
    outputs = np.linalg.norm(x @ (w - restore(blocks)).T) / np.linalg.norm(x @ w.T)
    plain = np.linalg.norm(w - restore(blocks)) / np.linalg.norm(w)
    for entries in (1 << 22, 90):
        monkeypatch.setattr("onnxslim_rx.quant.gram._ENTRIES", entries)
        monkeypatch.setattr("onnxslim_rx.quant.blocks._PART", entries)
        for found in (blocks, restore(blocks)):
            assert error(w, found, x.T @ x) == pytest.approx(outputs, rel=1e-9)
            assert error(w, found) == pytest.approx(plain, rel=1e-9)


def test_no_output_no_error():
    w = np.ones((2, 4))
    assert error(np.zeros((2, 4)), w) == 0.0
    assert error(w, np.zeros((2, 4)), np.zeros((4, 4))) == 0.0


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 0.01),
        ({"rows": 100}, 1.0),
        ({"rows": 10_000}, 0.1),
        ({"rows": 10**8}, 0.01),
        ({"rows": 100, "damping": 0.3}, 0.3),
        ({"damping": 0.0}, 1e-6),
    ],
)
def test_damping(options, share, rng):
    x = rng.standard_normal((30, 5))
    gram = x.T @ x
    wanted = gram / np.mean(np.diag(gram)) + share * np.eye(5)
    np.testing.assert_allclose(damped(gram, 5, **options), wanted, rtol=1e-12)


def test_what_was_never_seen_counts_alike():
    np.testing.assert_array_equal(damped(np.zeros((3, 3)), 3, 50), np.eye(3))
