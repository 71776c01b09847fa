"""The choice of a method: what is certain, whatever the constants are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import svd
from onnxslim_rx.linalg.cost import fastest, predict_seconds


@given(k=st.integers(1, 20000), n=st.integers(1, 20000), share=st.floats(0, 1))
def test_times_are_positive_and_the_layout_does_not_matter(k, n, share):
    rank = max(int(share * min(k, n)), 1)
    for method in ("full", "gram", "randomized", "srht"):
        assert predict_seconds(method, (k, n), rank, 1e-3) > 0
    assert fastest((k, n), rank, 1e-3) == fastest((n, k), rank, 1e-3)
    assert fastest((k, n), rank, 0.0) in ("full", "gram")


def test_large_matrices_at_small_ranks_are_sampled():
    assert fastest((4096, 11008), 512, 1e-2) == "srht"
    assert fastest((4096, 11008), 512, 0.0) == "gram"
    assert fastest((2048, 2048), 64, 1e-3) == "randomized"
    assert fastest((768, 3072), 300, 1e-3) == "gram"
    assert fastest((768, 3072), 768, 1e-3) == "full"


@pytest.mark.parametrize(("shape", "rank"), [((2, 3), 1), ((300, 300), 8), ((90, 100), 80)])
def test_auto_says_what_it_took(shape, rank, rng):
    found = svd(rng.standard_normal(shape), rank)
    assert found.method == fastest(shape, rank, 1e-4)
    assert np.isfinite(found.error)
