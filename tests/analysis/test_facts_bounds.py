"""Lowest values of formulas with quotients, against numbers put in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.analysis.facts.bounds import is_natural, low
from onnxslim_rx.analysis.facts.dims import Dim, evaluate, symbol
from onnxslim_rx.analysis.facts.division import broadcast, floor_div, smallest

H = symbol("h")


@given(
    st.integers(-8, 8), st.integers(1, 6), st.integers(-3, 3), st.integers(-3, 3), st.integers(1, 6)
)
def test_nothing_is_below_the_bound(offset, divisor, outer, inner, second):
    quotient = floor_div(H + offset, divisor)
    dim = outer * floor_div(quotient + inner, second) + inner * quotient + outer * H + offset

    least = low(dim)

    if least is not None:
        assert all(evaluate(dim, {"h": h}) >= least for h in range(60))


def test_padding_to_the_same_size_is_never_negative():
    size: Dim = H
    for _ in range(4):  # what a kernel of 3 with stride 2 needs, layer after layer
        halved = floor_div(size + 1, 2)
        assert is_natural(2 * halved + 1 - size)
        size = halved


@pytest.mark.parametrize("factor", [1, 3])
def test_a_multiple_that_does_not_reach_the_divisor_proves_nothing(factor):
    assert low(factor * floor_div(H, 2) - H) is None


@pytest.mark.parametrize("cap", [1, 2, 512])
def test_a_size_that_is_capped_fits_itself_alone(cap):
    capped = smallest([H, cap])

    for a, b in ((H, capped), (capped, H)):
        found = broadcast(a, b)
        assert (found == H) == (cap > 1)
        for h in range(520):
            sizes = {evaluate(a, {"h": h}), evaluate(b, {"h": h})}
            if len(sizes - {1}) <= 1:  # else they do not fit, and the run fails
                wanted = (sizes - {1} or {1}).pop()
                assert evaluate(found, {"h": h}) == wanted
