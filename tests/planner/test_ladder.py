"""The ladder against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.planner.ladder import Ladder, Option, hull

# whole numbers, so that sums are exact and bounds need no tolerance
costs = st.integers(0, 40)
options = st.lists(st.builds(Option, st.integers(0, 20), costs), max_size=4)
layers = st.lists(
    st.builds(lambda keep, rest: [Option(0.0, keep), *rest], costs, options),
    min_size=1,
    max_size=4,
)


@given(layers)
def test_every_rung_is_optimal_for_its_own_damage(problem):
    ladder = Ladder(problem)
    for rung in range(len(ladder) + 1):
        if rung < len(ladder) and ladder.steps[rung].damage == 0:
            continue  # a step that costs nothing is still to be taken
        damage, cost = ladder.damage(rung), ladder.cost(rung)
        best = min(
            sum(o.cost for o in choice)
            for choice in itertools.product(*problem)
            if sum(o.damage for o in choice) <= damage
        )
        assert cost == best


@given(layers)
def test_each_step_goes_up_in_damage_and_down_in_cost(problem):
    ladder = Ladder(problem)
    damages = [ladder.damage(rung) for rung in range(len(ladder) + 1)]
    costs = [ladder.cost(rung) for rung in range(len(ladder) + 1)]
    assert damages[0] == 0.0
    assert (np.diff(damages) >= 0).all()
    assert (np.diff(costs) < 0).all()


@given(layers, st.integers(0, 80))
def test_highest_is_the_last_rung_within_the_bound(problem, bound):
    ladder = Ladder(problem)
    rung = ladder.highest(bound)
    assert ladder.damage(rung) <= bound
    if rung < len(ladder):
        assert ladder.damage(rung + 1) > bound


def test_dominated_options_and_those_above_the_hull_are_left_out():
    choices = [Option(0, 10), Option(0.1, 9.9), Option(0.2, 4), Option(0.2, 5), Option(0.9, 6)]
    assert hull(choices) == [0, 2]


def test_an_option_without_damage_comes_first():
    ladder = Ladder([[Option(0, 10), Option(0.5, 1)], [Option(0, 10), Option(0, 9)]])
    assert ladder.choices(1) == [0, 1]
    assert ladder.choices(2) == [1, 1]
