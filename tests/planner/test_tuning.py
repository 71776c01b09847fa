"""Stages that only the whole network can judge are tuned together."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, Layer, Stage
from onnxslim_rx.planner import tune, tuning
from onnxslim_rx.planner.options import Choice, Unit

BEST = {"a": 3, "b": -2, "c": 0}


@dataclasses.dataclass(frozen=True)
class Steps(CompressionPass):
    """Layers have a whole number each; loss is what the sum of their distances is, and products."""

    name: ClassVar[str] = "steps"

    def variants(self, layer: Layer, stage: Stage) -> list[Stage]:
        if layer.name == "fixed":
            return []
        at = int(stage.options["at"])
        return [_stage(at + 1), _stage(max(at - 1, -2))]


def _stage(at: int) -> Stage:
    return Stage("steps", {"at": at})


def _unit(name: str, starts: tuple[int, ...]) -> Unit:
    node = ir.node("Identity", [ir.Value(name=name)])
    layer = Layer(
        name=name, op="Identity", kind="linear", node=node, weight_index=0, activation_index=0
    )
    choices = [Choice((), 0.0, 8, 2)]
    choices += [Choice((_stage(at),), 0.5, 4, 2) for at in starts]
    choices.append(Choice((Stage("other", {}),), 0.5, 4, 2))
    return Unit(layer, None, choices)


@pytest.fixture
def tried(monkeypatch) -> list[dict[str, int]]:
    """What is asked for, in order; a plan stands for the model that it would make."""
    found: list[dict[str, int]] = []

    def applied(_model: Any, plans: Any, _passes: Any, _stats: Any) -> Any:
        found.append({plan.name: int(plan.stages[0].options["at"]) for plan in plans})
        return found[-1], []

    monkeypatch.setattr(tuning, "apply_plan", applied)
    return found


def _loss(model: dict[str, int]) -> float:
    away = {name: abs(model[name] - best) for name, best in BEST.items() if name in model}
    return 1.0 + sum(away.values()) + 0.1 * away.get("a", 0) * away.get("b", 0)


def _tune(units: list[Unit], loss: Any = _loss) -> int:
    one = Steps()
    return tune(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), units, {"steps": one}, {},
                lambda: loss)  # fmt: skip


def _found(unit: Unit) -> list[int]:
    return [
        int(c.stages[0].options["at"])
        for c in unit.choices
        if c.stages and c.stages[0].pass_name == "steps"
    ]


def test_every_layer_finds_its_best(tried) -> None:
    units = [_unit("a", (0, 1)), _unit("b", (0,)), _unit("c", (1, 0)), _unit("fixed", (7, 8))]
    assert _tune(units) == 3
    assert [_found(unit) for unit in units] == [[3], [-2], [0], [7, 8]]
    assert all(unit.choices[0].stages == () for unit in units)
    assert all(unit.choices[-1].stages[0].pass_name == "other" for unit in units)
    # all layers are treated in each trial, those that are not tuned by their first candidate
    assert all(set(plan) == {"a", "b", "c", "fixed"} for plan in tried)
    assert tried[0]["fixed"] == 7


def test_never_worse_than_where_it_begins(tried) -> None:
    units = [_unit("a", (3,)), _unit("b", (-2,))]
    assert _tune(units) == 2
    assert [_found(unit) for unit in units] == [[3], [-2]]
    assert len(tried) < 8


def test_small_gains_are_luck(tried) -> None:
    units = [_unit("a", (0,))]
    _tune(units, lambda model: 1.0 - 1e-4 * model["a"])
    assert _found(units[0]) == [0]


def test_nothing_to_tune_makes_no_judge() -> None:
    def judge() -> Any:
        raise AssertionError

    units = [_unit("fixed", (1,))]
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=8)
    assert tune(model, units, {"steps": Steps()}, {}, judge) == 0


def test_what_cannot_run_is_never_taken(tried) -> None:
    def loss(model: dict[str, int]) -> float:
        if model["a"] == 1:
            raise InputError("no")
        return 1.0 + abs(model["a"] - 2)

    units = [_unit("a", (0,))]
    _tune(units, loss)
    assert _found(units[0]) == [0]


@pytest.mark.parametrize("most", [1, 3, 5])
def test_trials_are_limited_by_their_number(most, tried, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "_MOST", most)
    _tune([_unit("a", (0,)), _unit("b", (0,))])
    assert len(tried) == most


def test_by_default_a_pass_has_no_variants() -> None:
    assert not CompressionPass().variants(_unit("a", (0,)).layer, _stage(0))
