"""What is made small, and what is never taken for it."""

from __future__ import annotations

import math

import pytest

from onnxslim_rx.planner.aims import aims
from onnxslim_rx.planner.bundles import Bundle, Pick
from onnxslim_rx.plans import Budget


def pick(number, nbytes, ms, *, folds=False, idle=False):
    return Pick((number,), 0.0, nbytes, ms, 0.0, folds, idle)


PICKS = (
    pick(0, 100.0, 1.0, folds=True),
    pick(1, 25.0, 1.0, folds=True),
    pick(2, 50.0, 0.5),
    pick(3, 10.0, 1.0, idle=True),
)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"min_cosine": 0.99}, [1.25, 1.0625, 0.625, math.inf]),
        ({"min_cosine": 0.99, "minimize": "bytes"}, [1.05, 0.3, 0.525, 0.15]),
        ({"max_flops": 10}, [1.25, 1.0625, 0.625, 1.025]),
        ({"max_bytes": 10}, [1.05, 0.3, 0.525, 0.15]),
    ],
)
def test_what_is_no_faster_is_not_taken_for_speed(budget, expected):
    first, *_ = aims(Budget(**budget), [Bundle((0,), PICKS)])
    assert [first(one) for one in PICKS] == pytest.approx(expected)


def test_at_last_only_what_folds_away_is_left():
    *_, last = aims(Budget(min_cosine=0.99), [Bundle((0,), PICKS)])
    assert [last(one) for one in PICKS] == [1.0, 0.25, math.inf, math.inf]


def test_where_size_made_it_slower_time_weighs_more():
    first, second, _ = aims(Budget(min_cosine=0.99, minimize="bytes"), [Bundle((0,), PICKS)])
    slow, kept = pick(4, 10.0, 1.2), PICKS[0]
    assert first(slow) < first(kept)
    assert second(slow) - second(kept) == pytest.approx(0.2 - 0.9)
    assert [second(one) for one in PICKS] == pytest.approx([2.0, 1.25, 1.0, 1.1])
