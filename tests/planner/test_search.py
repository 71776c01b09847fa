"""Climbing against an oracle that knows the true damages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.planner.ladder import Ladder, Option
from onnxslim_rx.planner.search import climb, descent


def ladder_of(damages):
    """Layers whose only other option costs half and damages as given."""
    return Ladder([[Option(0.0, 2.0), Option(d, 1.0)] for d in damages])


damages = st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=40)


@given(damages, st.floats(0.1, 10.0), st.floats(1e-5, 0.1))
def test_what_is_found_passes_and_is_close_to_the_best(predicted, scale, allowed):
    ladder = ladder_of(predicted)
    tried = []

    def trial(rung):
        tried.append(rung)
        true = scale * ladder.damage(rung)
        return true <= allowed, true

    rung, order = climb(ladder, allowed, trial)
    assert order == tried
    assert len(tried) <= 8
    assert len(set(tried)) == len(tried)
    assert rung == 0 or scale * ladder.damage(rung) <= allowed
    # the search ends when it has bracketed the best rung, or what is left to gain is small; a
    # tenth of the budget is left unspent on purpose, where the predictions are as good as here
    best = max(r for r in range(len(ladder) + 1) if scale * ladder.damage(r) <= 0.899 * allowed)
    if len(tried) < 8:
        assert ladder.cost(rung) - ladder.cost(best) <= 0.006 * ladder.cost(0)


def test_predictions_that_are_far_off_are_corrected_at_once():
    ladder = ladder_of([1e-4] * 64)
    tried = []

    def trial(rung):
        tried.append(rung)
        true = 8 * ladder.damage(rung)
        return true <= 5e-3, true

    rung, _ = climb(ladder, 5e-3, trial)
    assert rung in (5, 6)
    assert len(tried) <= 4


def test_a_metric_without_prediction_is_bisected():
    ladder = ladder_of([1e-3] * 40)
    rung, tried = climb(ladder, float("inf"), lambda rung: (rung <= 13, 0.0))
    assert rung == 13
    assert tried[0] == 40


def test_nothing_passes():
    assert climb(ladder_of([1e-3] * 4), 1e-2, lambda rung: (False, 1.0))[0] == 0


@given(damages, st.data())
def test_descent_starts_at_the_rung_and_ends_with_all_layers_kept(predicted, data):
    ladder = ladder_of(predicted)
    rung = data.draw(st.integers(0, len(ladder)))
    path = descent(ladder, rung)
    assert path[0] == rung
    assert path[-1] == 0
    assert path == sorted(set(path), reverse=True)
