"""Units that share weights are planned together: which choices go together, and what they cost.

Most units stand alone. Where several want the same weight (the heads of an attention, and the
fused weight that makes its queries, keys and values), a choice of one may rule out choices of the
others, and what rounding saves depends on what narrower heads have left. So such units form one
bundle, whose picks are the combinations that can be carried out together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import CompressionPass
from onnxslim_rx.planner.options import Choice, Unit

__all__ = ["Bundle", "Pick", "bundle_up", "choices_of"]


@dataclasses.dataclass(frozen=True)
class Pick:
    """One choice for each unit of a bundle.

    Args:
        choices: number of the choice of each unit.
        damage: predicted loss of quality of the whole model; the sum over the units.
        bytes: of all weights of the bundle.
        ms: predicted latency of the units; 0 where none was measured.
        flops: operations of the units on all samples that calibration saw; 0 where it saw none.
        folds: nothing but storage that the runtime undoes when it loads the model.
        idle: a layer is replaced by what runs no faster, or stored in a form that is slower.
    """

    choices: tuple[int, ...]
    damage: float
    bytes: float
    ms: float
    flops: float
    folds: bool
    idle: bool


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Units that share weights, by number, and what can be done with them; first nothing at all."""

    units: tuple[int, ...]
    picks: tuple[Pick, ...]


def choices_of(
    units: Sequence[Unit], bundles: Sequence[Bundle], picks: Sequence[int]
) -> list[Choice]:
    """The choice of each unit, from the number of the pick of each bundle."""
    found = {
        unit: units[unit].choices[choice]
        for bundle, pick in zip(bundles, picks, strict=True)
        for unit, choice in zip(bundle.units, bundle.picks[pick].choices, strict=True)
    }
    return [found[number] for number in range(len(units))]


def bundle_up(units: Sequence[Unit], passes: Mapping[str, CompressionPass]) -> list[Bundle]:
    """The units in bundles, in the order of the first unit of each.

    Of bundles with several units, combinations that another one beats in damage, bytes, latency
    and operations at once are left out.
    """
    return [_bundle(group, units, passes) for group in _groups(units)]


def _groups(units: Sequence[Unit]) -> list[list[int]]:
    """Numbers of units that share weights, directly or through others."""
    leader = list(range(len(units)))

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    owner: dict[ir.Value, int] = {}
    for number, unit in enumerate(units):
        for value in unit.layer.weights:
            first, second = sorted((find(owner.setdefault(value, number)), find(number)))
            leader[second] = first
    groups: dict[int, list[int]] = {}
    for number in range(len(units)):
        groups.setdefault(find(number), []).append(number)
    return list(groups.values())


def _bundle(
    group: Sequence[int], units: Sequence[Unit], passes: Mapping[str, CompressionPass]
) -> Bundle:
    # what changes parts of weights comes first: what is left of them scales all that follows
    order = sorted(group, key=lambda n: not _is_partial(units[n], passes))
    sizes = {
        value: tensor.nbytes
        for number in group
        for value in units[number].layer.weights
        if (tensor := constant(value)) is not None
    }
    base = _State((), (), 0.0, float(sum(sizes.values())), 0.0, 0.0, True, False, {})
    states = [base]
    for number in order:
        unit = units[number]
        grown = [
            after
            for state in states
            for index, choice in enumerate(unit.choices)
            if (after := _with_choice(state, unit, index, choice, passes, sizes)) is not None
        ]
        states = _unbeaten(grown) if len(group) > 1 else grown
    place = [order.index(number) for number in group]
    picks = [
        Pick(tuple(s.choices[i] for i in place), s.damage, s.bytes, s.ms, s.flops, s.folds, s.idle)
        for s in states
    ]
    picks.sort(key=lambda pick: any(pick.choices))  # stable: what keeps all comes first
    return Bundle(tuple(group), tuple(picks))


@dataclasses.dataclass(frozen=True)
class _State:
    """Choices for some units of a bundle.

    `uses` names for each unit with a choice other than to keep it how it treats its weights, `lost`
    the bytes that partial treatments took off each weight.
    """

    choices: tuple[int, ...]
    uses: tuple[tuple[str, frozenset[ir.Value]], ...]
    damage: float
    bytes: float
    ms: float
    flops: float
    folds: bool
    idle: bool
    lost: Mapping[ir.Value, int]


def _is_partial(unit: Unit, passes: Mapping[str, CompressionPass]) -> bool:
    return any(passes[stage.pass_name].partial for c in unit.choices for stage in c.stages[:1])


def _use(choice: Choice, passes: Mapping[str, CompressionPass]) -> str:
    """How a choice treats its weights: in part, as a whole, or only how they are stored."""
    first = passes[choice.stages[0].pass_name]
    return "part" if first.partial else "whole" if first.replaces == "output" else "storage"


def _with_choice(
    state: _State,
    unit: Unit,
    index: int,
    choice: Choice,
    passes: Mapping[str, CompressionPass],
    sizes: Mapping[ir.Value, int],
) -> _State | None:
    """The state with one more unit; None where the choice cannot go with those made."""
    own = 0.0 if math.isnan(unit.latency_ms) else unit.latency_ms
    ms = state.ms + own * choice.relative_latency
    flops = state.flops + choice.flops * (0 if unit.stats is None else unit.stats.positions)
    if not choice.stages:
        return dataclasses.replace(state, choices=(*state.choices, index), ms=ms, flops=flops)
    weights = frozenset(unit.layer.weights)
    use = _use(choice, passes)
    same_speed = choice.relative_latency == 1.0
    for other, theirs in state.uses:
        # nor can one weight be stored in two ways
        if weights & theirs and ("whole" in (use, other) or use == other == "storage"):
            return None
    lost = dict(state.lost)
    if use == "part":
        by_name = {value.name: value for value in weights}
        for name, saved in choice.saves.items():
            if name in by_name:
                lost[by_name[name]] = lost.get(by_name[name], 0) + saved
        saved_bytes = float(sum(choice.saves.values()))
    else:
        total = sum(sizes[value] for value in weights) or 1
        left = 1.0 - sum(lost.get(value, 0) for value in weights) / total
        saved_bytes = (unit.choices[0].bytes - choice.bytes) * left
    return _State(
        (*state.choices, index),
        (*state.uses, (use, weights)),
        state.damage + choice.damage,
        state.bytes - saved_bytes,
        ms,
        flops,
        state.folds and choice.folds and len(choice.stages) == 1,
        state.idle or choice.relative_latency > 1.0 or (use == "whole" and same_speed),
        lost,
    )


def _unbeaten(states: Iterable[_State]) -> list[_State]:
    """Of states that leave the same to choose from, those that no other beats."""
    alike: dict[tuple[tuple[str, frozenset[ir.Value]], ...], list[_State]] = {}
    for state in states:
        alike.setdefault(state.uses, []).append(state)
    kept = []
    for group in alike.values():
        costs = np.array([(s.damage, s.bytes, s.ms, s.flops, s.idle) for s in group])
        no_worse = (costs[:, None] <= costs[None]).all(axis=2)  # [i, j]: i is no worse than j
        equal = no_worse & no_worse.T
        earlier = np.tri(len(group), k=-1, dtype=bool).T  # of equals the first stays
        beaten = ((no_worse & ~equal) | (equal & earlier)).any(axis=0)
        kept += [state for state, gone in zip(group, beaten, strict=True) if not gone]
    return kept
