"""What is beaten in everything is left out, nothing else."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.passbase import KEEP, Stage
from onnxslim_rx.planner.options import Choice
from onnxslim_rx.planner.pareto import unbeaten

FORM = Stage("store", {"bits": 8})


def choice(number, error, nbytes, flops, latency, *forms):
    stages = (Stage("cut", {"rank": number}), *forms)
    return Choice(stages, error, nbytes, flops, relative_latency=latency)


def test_what_is_clearly_worse_in_everything_goes():
    keep = Choice(KEEP, 0.0, 100, 100)
    good, bad = choice(1, 0.1, 50, 50, 0.5), choice(2, 0.2, 50, 50, 0.5)
    near = choice(3, 0.11, 50, 50, 0.5)
    smaller, faster = choice(4, 0.5, 40, 50, 0.5), choice(5, 0.5, 50, 50, 0.4)
    fewer, stored = choice(6, 0.5, 50, 40, 0.5), choice(7, 0.3, 50, 50, 0.5, FORM)
    unknown = choice(8, float("nan"), 90, 90, 0.9)
    every = [keep, good, bad, near, smaller, faster, fewer, stored, unknown]
    assert unbeaten(every) == [c for c in every if c is not bad]


def test_what_tells_the_damage_of_chains_stays():
    keep, cut = Choice(KEEP, 0.0, 100, 100), choice(1, 0.1, 50, 50, 0.5)
    form, other = (Choice((Stage("store", {"bits": n}),), 0.1 / n, 25, 100) for n in (4, 8))
    chain = choice(1, 0.12, 12, 50, 0.5, form.stages[0])
    assert unbeaten([keep, form, other]) == [keep, other]
    assert unbeaten([keep, form, other, cut, chain]) == [keep, form, other, cut, chain]


def test_ranges_of_each_run_are_worth_a_little_time():
    fixed = Choice((Stage("static", {"bits": 8}),), 0.2, 100, 50, relative_latency=0.5)
    own = {
        latency: Choice((Stage("own", {"bits": 8}),), 0.1, 101, 50, relative_latency=latency)
        for latency in (0.56, 0.6)
    }
    assert unbeaten([fixed, own[0.56]], {"static"}) == [own[0.56]]
    assert unbeaten([fixed, own[0.56]]) == [fixed, own[0.56]]
    assert unbeaten([fixed, own[0.6]], {"static"}) == [fixed, own[0.6]]
    # between two that rely on them, and for those that do not, what is slower is slower
    assert unbeaten([fixed, own[0.56]], {"static", "own"}) == [fixed, own[0.56]]
    assert unbeaten([fixed, own[0.56]], {"own"}) == [fixed, own[0.56]]


numbers = st.tuples(st.floats(0.01, 1), st.integers(1, 4), st.integers(1, 4), st.floats(0.1, 1))


@given(st.lists(numbers, max_size=12))
def test_something_as_good_stays(found):
    choices = [choice(n, *numbers) for n, numbers in enumerate(found)]
    kept = unbeaten(choices)
    assert bool(kept) == bool(choices)
    for gone in (c for c in choices if c not in kept):
        assert any(
            k.error < gone.error and k.bytes <= gone.bytes and k.flops <= gone.flops for k in kept
        )
    for one, other in itertools.permutations(kept, 2):
        worse = (other.error > 1.3 * one.error, other.bytes > one.bytes, other.flops > one.flops)
        assert not all((*worse, other.relative_latency > one.relative_latency))
