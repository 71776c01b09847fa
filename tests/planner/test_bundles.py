"""Bundles against exhaustive search over what can go together."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.passbase import CompressionPass, Layer, Stage
from onnxslim_rx.planner.bundles import bundle_up, choices_of
from onnxslim_rx.planner.options import Choice, Unit


@dataclasses.dataclass(frozen=True)
class Narrow(CompressionPass):
    name: ClassVar[str] = "narrow"
    partial: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Cut(CompressionPass):
    name: ClassVar[str] = "cut"


@dataclasses.dataclass(frozen=True)
class Round(CompressionPass):
    name: ClassVar[str] = "round"
    replaces: ClassVar = "weight"


PASSES = {one.name: one() for one in (Narrow, Cut, Round)}


def weight(name, elements=100):
    tensor = ir.tensor(np.zeros(elements, np.float32), name=name)
    value = ir.Value(name=name, const_value=tensor)
    ir.Graph([], [], nodes=[], initializers=[value], name="g")
    return value


def unit(name, weights, choices, latency=1.0):
    node = ir.Node("", "MatMul", [None, weights[0]])
    layer = Layer(name, "MatMul", "linear", node, 1, 0, constants=tuple(weights))
    size = 400 * len(weights)
    keep = Choice((), 0.0, size, 0)
    return Unit(layer, None, [keep, *choices], latency)


def choice(pass_name, damage, size, ms=1.0, saves=None):
    return Choice(
        (Stage(pass_name, {"rank": size}),), damage, size, 0, False, damage,
        relative_latency=ms, saves=saves or {},
    )  # fmt: skip


def attention(damages=(0.3, 0.2, 0.5, 0.1)):
    """Heads that are narrowed, and the weight they come from, which is cut or rounded."""
    w = weight("w")
    heads = unit("heads", [w], [choice("narrow", damages[0], 300, 0.8, {"w": 100})])
    values = unit("values", [w], [choice("narrow", damages[1], 200, 0.7, {"w": 200})])
    fused = unit(
        "w", [w], [choice("cut", damages[2], 150, 0.4), choice("round", damages[3], 100, 1.0)]
    )
    return [heads, fused, values]


def test_units_that_share_nothing_stay_apart():
    units = [unit("a", [weight("a")], []), unit("b", [weight("b")], [])]
    bundles = bundle_up(units, PASSES)
    assert [bundle.units for bundle in bundles] == [(0,), (1,)]


def test_a_weight_is_stored_in_one_way():
    """An operator with two weights on integers, or each of its weights on its own."""
    w, r = weight("w"), weight("r")
    both = unit("w + r", [w, r], [choice("round", 0.2, 200, 0.5)])
    alone = [unit(value.name, [value], [choice("round", 0.1, 100)]) for value in (w, r)]
    (bundle,) = bundle_up([both, *alone], PASSES)
    picks = {pick.choices for pick in bundle.picks}
    assert picks == {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)}


def test_units_are_joined_through_others():
    a, b, c = weight("a"), weight("b"), weight("c")
    units = [unit("1", [a], []), unit("2", [c], []), unit("3", [a, b], []), unit("4", [b, c], [])]
    assert [bundle.units for bundle in bundle_up(units, PASSES)] == [(0, 1, 2, 3)]


def test_the_first_pick_keeps_all():
    (bundle,) = bundle_up(attention(), PASSES)
    first = bundle.picks[0]
    assert first.choices == (0, 0, 0)
    assert (first.damage, first.bytes, first.ms) == (0.0, 400.0, 3.0)


def test_a_cut_weight_has_no_parts_left_to_narrow():
    (bundle,) = bundle_up(attention(), PASSES)
    for pick in bundle.picks:
        heads, fused, values = pick.choices
        assert not (fused == 1 and (heads or values))


def test_rounding_saves_what_narrow_heads_have_left():
    (bundle,) = bundle_up(attention(), PASSES)
    sizes = {pick.choices: pick.bytes for pick in bundle.picks}
    assert sizes[0, 2, 0] == 100
    assert sizes[1, 0, 1] == 100  # 400 - 100 - 200
    assert sizes[1, 2, 1] == pytest.approx(25)  # a quarter of that


def test_choices_come_back_in_the_order_of_the_units():
    units = attention()
    bundles = bundle_up(units, PASSES)
    number = next(i for i, p in enumerate(bundles[0].picks) if p.choices == (1, 2, 1))
    found = choices_of(units, bundles, [number])
    assert [c.stages[0].pass_name for c in found] == ["narrow", "round", "narrow"]


@given(st.tuples(*[st.integers(0, 5)] * 4))
def test_nothing_worth_having_is_left_out(damages):
    units = attention(damages)
    (bundle,) = bundle_up(units, PASSES)
    for combination in itertools.product(range(2), range(3), range(2)):
        heads, fused, values = combination
        if fused == 1 and (heads or values):
            continue
        damage = sum(u.choices[c].damage for u, c in zip(units, combination, strict=True))
        ms = sum(u.choices[c].relative_latency for u, c in zip(units, combination, strict=True))
        left = 400 - 100 * heads - 200 * values
        size = {0: left, 1: 150, 2: left / 4}[fused]
        assert any(
            pick.damage <= damage and pick.bytes <= size + 1e-9 and pick.ms <= ms + 1e-9
            for pick in bundle.picks
        )


def test_what_replaces_a_layer_and_runs_no_faster_is_idle():
    choices = [
        choice("cut", 0.1, 300, 0.9),
        choice("cut", 0.2, 200, 1.0),
        choice("round", 0.1, 100, 1.0),
    ]
    (bundle,) = bundle_up([unit("a", [weight("a")], choices)], PASSES)
    idle = {pick.choices: pick.idle for pick in bundle.picks}
    assert idle == {(0,): False, (1,): False, (2,): True, (3,): False}
