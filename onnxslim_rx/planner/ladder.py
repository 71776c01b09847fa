"""Which candidate for which layer: a ladder of plans from untouched to most compressed.

Each layer has options with a damage (what the choice costs end to end) and a cost (what it leaves
to pay). For a bound D on the sum of damages the least sum of costs is a multiple-choice knapsack.
Its linear relaxation is solved by the lower convex hull of each layer's options and one sorted
list of steps along all hulls (Sinha & Zoltners, Operations Research 27(3), 1979): the best plans
for rising D are the prefixes of that list. So one sort gives every plan that is worth trying, each
a step further than the one before, and a measurement that fails says how far to walk back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["Ladder", "Option", "Step", "hull"]


@dataclasses.dataclass(frozen=True)
class Option:
    """A choice for one layer, in numbers.

    Args:
        damage: predicted loss of quality of the whole model, at least 0.
        cost: what is left to pay, at least 0; the unit is the caller's.
    """

    damage: float
    cost: float


@dataclasses.dataclass(frozen=True)
class Step:
    """Layer number `layer` changes to its option number `option`."""

    layer: int
    option: int
    damage: float
    saving: float


def hull(options: Sequence[Option]) -> list[int]:
    """Numbers of the options on the lower convex hull, from the least damage on.

    Along it, damage rises, cost falls, and each step saves less per damage than the one before.
    """
    order = sorted(range(len(options)), key=lambda i: (options[i].damage, options[i].cost, i))
    chain: list[int] = []
    for i in order:
        if chain and options[i].cost >= options[chain[-1]].cost:
            continue
        while len(chain) > 1 and _rate(options, chain[-2], chain[-1]) <= _rate(
            options, chain[-2], i
        ):
            chain.pop()
        chain.append(i)
    return chain


def _rate(options: Sequence[Option], a: int, b: int) -> float:
    """Saving per damage of going from option a to option b, which damages at least as much."""
    damage = options[b].damage - options[a].damage
    saving = options[a].cost - options[b].cost
    return saving / damage if damage > 0 else float("inf")


class Ladder:
    """All plans worth trying for a set of layers.

    Args:
        layers: for each layer its options; the first is to keep it, without damage.

    Attributes:
        steps: in the order in which they are taken; rung k has taken the first k.
    """

    def __init__(self, layers: Sequence[Sequence[Option]]) -> None:
        self._layers = layers
        ranked = []
        for number, options in enumerate(layers):
            chain = hull(options)
            # where an option has no damage at all, it replaces the first
            for position, (a, b) in enumerate(zip([0, *chain], chain, strict=False)):
                if a == b:
                    continue
                step = Step(
                    number,
                    b,
                    options[b].damage - options[a].damage,
                    options[a].cost - options[b].cost,
                )
                ranked.append((-_rate(options, a, b), number, position, step))
        self.steps: list[Step] = [entry[3] for entry in sorted(ranked, key=lambda e: e[:3])]

    def __len__(self) -> int:
        """Number of the highest rung."""
        return len(self.steps)

    def choices(self, rung: int) -> list[int]:
        """The option of each layer on a rung, 0 (all kept) to `len(self)`."""
        chosen = [0] * len(self._layers)
        for step in self.steps[:rung]:
            chosen[step.layer] = step.option
        return chosen

    def damage(self, rung: int) -> float:
        """Predicted damage of a rung: the sum over its layers."""
        return sum(self._layers[i][o].damage for i, o in enumerate(self.choices(rung)))

    def cost(self, rung: int) -> float:
        """Cost of a rung: the sum over its layers."""
        return sum(self._layers[i][o].cost for i, o in enumerate(self.choices(rung)))

    def highest(self, damage: float) -> int:
        """The highest rung whose predicted damage is at most `damage`."""
        total, rung = 0.0, 0
        for step in self.steps:
            total += step.damage
            if total > damage:
                break
            rung += 1
        return rung
