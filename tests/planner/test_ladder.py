"""The ladder against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.planner.ladder import Ladder, Option, greedy, hull, uniform

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
        if rung < len(ladder) and ladder.damage(rung + 1) == ladder.damage(rung):
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
    assert ladder.choices(1) == (0, 1)
    assert ladder.choices(2) == (1, 1)


@given(layers)
def test_no_plan_for_comparison_beats_the_hull(problem):
    best = Ladder(problem)
    for rungs in (greedy(problem), uniform(problem)):
        other = Ladder(problem, rungs)
        assert other.choices(0) == (0,) * len(problem)
        for rung in range(len(other) + 1):
            # between two rungs of the hull lies the line between them (Sinha & Zoltners)
            assert other.cost(rung) >= lower_envelope(best, other.damage(rung)) - 1e-9


def lower_envelope(ladder, damage):
    rung = ladder.highest(damage)
    if rung == len(ladder):
        return ladder.cost(rung)
    here, there = ladder.damage(rung), ladder.damage(rung + 1)
    share = (damage - here) / (there - here)
    return ladder.cost(rung) + share * (ladder.cost(rung + 1) - ladder.cost(rung))


def test_greedy_takes_the_next_option_with_the_most_saving_per_damage():
    problem = [[Option(0, 10), Option(3, 9), Option(4, 1)], [Option(0, 10), Option(2, 8)]]
    assert greedy(problem) == [(0, 0), (0, 1), (1, 1), (2, 1)]


def test_uniform_leaves_each_layer_the_same_share():
    problem = [[Option(0, 10), Option(1, 5), Option(9, 1)], [Option(0, 100), Option(1, 52)]]
    rungs = uniform(problem)
    assert rungs[0] == (0, 0)
    assert (1, 1) in rungs
    assert rungs[-1] == (2, 1)
