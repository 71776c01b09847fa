"""Rank rules on spectra whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import (
    break_even_rank,
    error_curve,
    rank_for_energy,
    rank_for_error,
    rank_for_quality,
    rank_for_ratio,
    round_rank,
    truncated_svd,
)

sides = st.integers(1, 3000)


@given(k=sides, n=sides)
def test_break_even_is_where_factors_stop_being_smaller(k, n):
    rank = break_even_rank(k, n)
    assert rank * (k + n) < k * n <= (rank + 1) * (k + n)


@given(k=sides, n=sides, kept=st.floats(1e-3, 1.0))
def test_a_ratio_is_kept_to(k, n, kept):
    rank = rank_for_ratio(k, n, kept)
    assert 1 <= rank <= min(k, n)
    assert rank == 1 or rank * (k + n) <= kept * k * n * (1 + 1e-6)
    assert rank == min(k, n) or (rank + 1) * (k + n) > kept * k * n * (1 - 1e-6)


@given(
    rank=st.floats(0, 4000),
    k=sides,
    n=sides,
    multiple=st.integers(1, 64),
    least=st.integers(1, 200),
    most=st.none() | st.integers(1, 4000),
)
def test_rounded_ranks_pay_and_are_multiples_where_one_fits(rank, k, n, multiple, least, most):
    found = round_rank(rank, k, n, multiple=multiple, least=least, most=most)
    top = max(break_even_rank(k, n), 1)
    top = top if most is None else min(top, most)
    low = min(least, top)
    assert low <= found <= top
    fits = [r for r in range(low, top + 1) if r % multiple == 0]
    if fits:
        assert found in fits
        assert abs(found - rank) == min(abs(r - rank) for r in fits)


def test_rounding_examples():
    assert round_rank(100, 768, 3072, multiple=16) == 96
    assert round_rank(104, 768, 3072, multiple=16) == 112
    assert round_rank(1e9, 768, 3072, multiple=16) == 608  # 614 is the break-even rank
    assert round_rank(3, 768, 3072, multiple=16) == 16
    assert round_rank(9, 10, 12, multiple=16) == 5  # no multiple pays
    assert round_rank(9, 1, 50) == 1  # nothing pays


def test_energy_error_and_quality_agree(rng):
    values = np.array([4.0, 2.0, 1.0, 0.5])
    energies = np.cumsum(values**2) / (values**2).sum()
    for r in range(1, 5):
        assert rank_for_energy(values, energies[r - 1] * (1 - 1e-9)) == r
    w = rng.standard_normal((12, 9))
    curve = error_curve(w)
    for r in range(1, 9):
        bound = (curve[r] + curve[r - 1]) / 2
        assert rank_for_error(curve, bound) == r
        assert rank_for_quality(curve, np.sqrt(1 - bound**2)) == r
        product = np.matmul(*truncated_svd(w, r))
        cosine = np.vdot(product, w) / np.linalg.norm(product) / np.linalg.norm(w)
        assert cosine == pytest.approx(np.sqrt(1 - curve[r] ** 2), rel=1e-9)
    assert rank_for_error(curve, 1.0) == 1
    assert rank_for_error(curve, 0.0) == 9
    assert rank_for_error(np.array([1.0, 0.5, 0.1]), 0.01) == 2


def test_energy_of_the_zero_matrix_and_of_huge_values():
    assert rank_for_energy(np.zeros(3), 0.9) == 1
    assert rank_for_energy(np.array([3e200, 1e200]), 0.95) == 2
    assert rank_for_energy(np.array([3e-200, 1e-200]), 0.85) == 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: rank_for_energy(np.ones(3), 0.0), "share of 0.0"),
        (lambda: rank_for_energy(np.array([1.0, 2.0]), 0.5), "increase"),
        (lambda: rank_for_energy(np.array([1.0, -2.0]), 0.5), "negative"),
        (lambda: rank_for_energy(np.array([np.nan]), 0.5), "finite"),
        (lambda: rank_for_error(np.ones(1), 0.5), "curve of shape"),
        (lambda: rank_for_error(np.ones(4), float("nan")), "bound nan"),
        (lambda: rank_for_quality(np.ones(4), 1.5), "cosine of 1.5"),
        (lambda: rank_for_ratio(3, 4, 0.0), "ratio of 0.0"),
        (lambda: break_even_rank(0, 4), "0 x 4"),
        (lambda: round_rank(3, 4, 4, multiple=0), "multiple 0"),
    ],
)
def test_arguments_out_of_range_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
