"""The integer program against exhaustive search."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.planner.program import Bound, allocate

numbers = st.integers(0, 40)
layers = st.lists(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=4
)


def columns(problem, index):
    return [[option[index] for option in options] for options in problem]


@given(layers, st.integers(0, 100), st.integers(0, 100))
def test_the_plan_is_the_cheapest_within_both_bounds(problem, first, second):
    bounds = [Bound(columns(problem, 1), first), Bound(columns(problem, 2), second)]
    found = allocate(columns(problem, 0), bounds)
    allowed = [
        choice
        for choice in itertools.product(*problem)
        if sum(o[1] for o in choice) <= first and sum(o[2] for o in choice) <= second
    ]
    if not allowed:
        assert found is None
        return
    assert found is not None
    chosen = [options[number] for options, number in zip(problem, found, strict=True)]
    assert sum(o[1] for o in chosen) <= first
    assert sum(o[2] for o in chosen) <= second
    best = min(sum(o[0] for o in choice) for choice in allowed)
    assert sum(o[0] for o in chosen) <= best * (1 + 1e-3)


def test_tiny_damages_are_no_rounding_to_the_solver():
    costs = [[2.0, 1.0]] * 10
    damages = [[0.0, 1e-9 * (i + 1)] for i in range(10)]
    found = allocate(costs, [Bound(damages, 6.5e-9)])
    assert found is not None
    assert sum(found) == 3  # 1 + 2 + 3 fit, four do not


def test_an_option_of_infinite_cost_is_never_taken():
    assert allocate([[math.inf, 3.0], [1.0, math.inf]], []) == [1, 0]
    assert allocate([[5.0, math.inf]], [Bound([[2.0, 0.0]], 1.0)]) is None


def test_nothing_to_choose():
    assert allocate([], [Bound([], 1.0)]) == []


def test_what_a_bound_has_no_number_for_is_never_chosen():
    costs = [[3.0, 1.0, 2.0], [2.0, 1.0]]
    values = [[0.0, math.inf, 1.0], [0.0, 5.0]]
    assert allocate(costs, [Bound(values, 2.0)]) == [2, 0]
    assert allocate(costs, [Bound(values, math.inf)]) == [2, 1]
    assert allocate(costs, [Bound([[math.inf] * 3, [0.0, 0.0]], 2.0)]) is None
